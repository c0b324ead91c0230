//! `suspend`, `resume`, `resize`, `budget add` of `djob/NAME`, and `cancel`.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use stillhouse_operator::crd::DistillJob;
use stillhouse_operator::request::parse;

use super::submit::MANAGER;
use super::{look, refused, with};
use crate::cli::cluster::{ClusterArgs, NameArgs, ResizeArgs};
use crate::failure::{Failure, Kind};
use crate::report::number::{count, counted};

/// Suspends a job, or goes on with it.
///
/// # Errors
/// When there is no such job, or the cluster refuses.
pub fn suspend(args: &NameArgs, is_suspended: bool) -> Result<String, Failure> {
    let spec = json!({ "cluster": { "suspend": is_suspended } });
    patch(&args.cluster, &args.name, &spec)?;
    let name = &args.name;
    Ok(if is_suspended {
        format!("{name}: what was sent is settled, then its pods go; stillhouse resume {name} goes on")
    } else {
        format!("{name}: it goes on in the same round")
    })
}

/// Changes how many workers a job has.
///
/// # Errors
/// As [`suspend`].
pub fn resize(args: &ResizeArgs) -> Result<String, Failure> {
    let NameArgs { name, cluster } = &args.job;
    patch(cluster, name, &json!({ "cluster": { "replicas": args.workers } }))?;
    Ok(format!(
        "{name}: {} from now on",
        counted(u64::from(args.workers), "worker", "workers")
    ))
}

/// Allows a job to spend `queries` more.
///
/// # Errors
/// As [`suspend`].
pub fn add_budget(args: &ClusterArgs, name: &str, queries: u64) -> Result<String, Failure> {
    with(args, async |cluster| {
        let job = look::get(&cluster, name).await?;
        let old = job.spec.value()["budget"]["queries"].as_u64().unwrap_or(0);
        let new = old.checked_add(queries).ok_or_else(|| {
            Failure::message(
                Kind::Usage,
                format!("expected at most {} more queries, found {queries}", u64::MAX - old),
            )
        })?;
        // If somebody else changed the budget meanwhile, nothing is done.
        let patch = json!([
            { "op": "test", "path": "/spec/budget/queries", "value": old },
            { "op": "replace", "path": "/spec/budget/queries", "value": new },
        ]);
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
        let sent = cluster
            .jobs()
            .patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await;
        sent.map_err(|error| refused(error, &format!("the budget of {name} stays")))?;
        Ok(format!(
            "{name}: the budget was {}, now it is {}",
            count(old),
            counted(new, "query", "queries")
        ))
    })
}

/// Deletes a job.
///
/// # Errors
/// As [`suspend`].
pub fn cancel(args: &NameArgs) -> Result<String, Failure> {
    with(&args.cluster, async |cluster| {
        let name = &args.name;
        let job = look::get(&cluster, name).await?;
        let deleted = cluster.jobs().delete(name, &DeleteParams::default()).await;
        let _answer = deleted.map_err(|error| refused(error, &format!("cannot delete the job {name}")))?;
        Ok(format!("{name}: cancelled; {}", what_stays(&job)))
    })
}

fn what_stays(job: &DistillJob) -> String {
    let Ok(request) = parse(job) else {
        return "volumes that it had are left alone".to_owned();
    };
    let storage = &request.cluster.storage;
    let claim = storage.claim.clone().unwrap_or_else(|| format!("{}-job", request.name));
    if storage.claim.is_none() && storage.when_deleted == stillhouse_operator::cluster::WhenDeleted::Delete {
        return format!("its volume {claim} goes with it, as the job says");
    }
    format!("its volume {claim} stays, with every label that was paid for: a job of the same name goes on with it")
}

fn patch(args: &ClusterArgs, name: &str, spec: &Value) -> Result<(), Failure> {
    with(args, async |cluster| {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": spec }));
        let sent = cluster.jobs().patch(name, &params, &patch).await;
        sent.map(drop)
            .map_err(|error| refused(error, &format!("the job {name} stays as it is")))
    })
}
