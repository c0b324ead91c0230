//! `stillhouse submit`: sends a job file, or says what sending it would do.

use std::io::Read as _;
use std::path::Path;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stillhouse_operator::crd::DistillJob;
use stillhouse_operator::desired::{Images, Observed, plan};
use stillhouse_operator::offline::violations;
use stillhouse_operator::request::{Request, parse};

use super::{look, refused, with};
use crate::cli::cluster::{DryRun, SubmitArgs};
use crate::failure::{Failure, Kind};
use crate::report::number::{count, counted};

/// Who writes, as managed fields name it.
pub(super) const MANAGER: &str = "stillhouse";

/// Sends a job.
///
/// # Errors
/// When the file asks for nothing that can be done, or the cluster refuses.
pub fn submit(args: &SubmitArgs) -> Result<String, Failure> {
    let (object, request) = read(&args.job)?;
    let violations = violations(&object);
    if !violations.is_empty() {
        let text = format!(
            "a cluster would refuse {}: {}",
            args.job.display(),
            violations.join("; ")
        );
        return Err(Failure::message(Kind::Usage, text));
    }
    if args.dry_run == Some(DryRun::Client) {
        return Ok(told(&request));
    }
    with(&args.cluster, async |cluster| {
        let mut object = object;
        let named = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let namespace = args
            .cluster
            .namespace
            .clone()
            .or(named)
            .unwrap_or(cluster.namespace.clone());
        object["metadata"]["namespace"] = json!(namespace);
        let cluster = super::Cluster { namespace, ..cluster };
        let params = PatchParams {
            dry_run: args.dry_run == Some(DryRun::Server),
            ..PatchParams::apply(MANAGER)
        };
        let sent = cluster
            .jobs()
            .patch(&request.name, &params, &Patch::Apply(&object))
            .await;
        let sent = sent.map_err(|error| refused(error, "the cluster refuses the job"))?;
        if params.dry_run {
            return Ok(format!("{}: the cluster would take it; nothing was kept", request.name));
        }
        if args.wait {
            return look::follow(&cluster, &request.name).await;
        }
        let is_new = sent.metadata.generation == Some(1) && sent.status.is_none();
        Ok(format!(
            "{}: {} in namespace {}\nstillhouse watch djob/{} looks on, stillhouse describe {} says what it waits for",
            request.name,
            if is_new { "submitted" } else { "applied" },
            cluster.namespace,
            request.name,
            request.name,
        ))
    })
}

/// The object of a job file, and what it asks for.
fn read(file: &Path) -> Result<(Value, Request), Failure> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let failed =
        |error: anyhow::Error| Failure::new(Kind::Usage, error).context(format!("cannot use {}", file.display()));
    let text = text.map_err(|error| failed(error.into()))?;
    let object: Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.into()))?;
    let read: DistillJob = serde_json::from_value(object.clone()).map_err(|error| failed(error.into()))?;
    let request = parse(&read).map_err(|refusal| failed(refusal.into()))?;
    Ok((object, request))
}

/// What a job would become, and what it may cost.
fn told(request: &Request) -> String {
    // Names of images are the operator's.
    let images = Images {
        control: String::new(),
        worker: String::new(),
    };
    let objects = plan(request, &Observed::default(), &images).apply;
    let names = objects.iter().map(|object| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("  {} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
    });
    let spec = &request.job.spec;
    let budget = counted(spec.budget.queries, "query", "queries");
    let price = spec.teacher.price_per_query;
    let cost = price.map_or(String::new(), |price| {
        format!(", {:.2} in all", price * spec.budget.queries as f64)
    });
    let workers = stillhouse_operator::desired::wanted_workers(request);
    let gpus = request.cluster.workers.gpus.unwrap_or(0);
    let cards = if gpus == 0 {
        String::new()
    } else {
        format!(" with {} cards in all", count(u64::from(workers * gpus)))
    };
    format!(
        "{}: the file is good; nothing was sent\n  at most {budget}{cost}\n  {}{cards}\nit becomes\n{}\nwhat is scored and trained: stillhouse run --dry-run, where the images are",
        request.name,
        counted(u64::from(workers), "worker", "workers"),
        names.collect::<Vec<_>>().join("\n"),
    )
}
