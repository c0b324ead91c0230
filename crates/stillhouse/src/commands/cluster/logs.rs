//! `stillhouse logs`: what a job's programs wrote on their nodes.

use std::io::Write as _;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use stillhouse_operator::sight::{COMPONENT, JOB};

use super::{refused, with};
use crate::cli::cluster::{LogRole, LogsArgs};
use crate::failure::{Failure, Kind};

/// Writes the logs of a role's pods to standard output, each line behind its pod's name where there are several.
///
/// # Errors
/// When there is no such pod, or its log cannot be had.
pub fn logs(args: &LogsArgs) -> Result<String, Failure> {
    let role = match args.role {
        LogRole::Coordinator => "coordinator",
        LogRole::Worker => "worker",
        LogRole::Gateway => "gateway",
    };
    with(&args.job.cluster, async |cluster| {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let labels = format!("{JOB}={},{COMPONENT}={role}", args.job.name);
        let found = pods.list(&ListParams::default().labels(&labels)).await;
        let mut found = found
            .map_err(|error| refused(error, "the cluster does not list the job's pods"))?
            .items;
        found.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        if found.is_empty() {
            let text = format!(
                "the job {} has no pod of a {role} in {}",
                args.job.name, cluster.namespace
            );
            return Err(Failure::message(Kind::Usage, text).hint("stillhouse describe says what it waits for"));
        }
        if args.role == LogRole::Coordinator {
            // The others are earlier tries.
            found = found.split_off(found.len() - 1);
        }
        let is_one = found.len() == 1;
        let reads = found.iter().map(|pod| copy(&pods, pod, role, args, is_one));
        futures::future::try_join_all(reads).await?;
        Ok(String::new())
    })
}

async fn copy(pods: &Api<Pod>, pod: &Pod, role: &str, args: &LogsArgs, is_one: bool) -> Result<(), Failure> {
    let params = LogParams {
        container: Some(role.to_owned()),
        follow: args.follow,
        tail_lines: args.tail,
        ..LogParams::default()
    };
    let name = pod.name_any();
    let failed = |error| refused(error, &format!("the log of {name} cannot be had"));
    let stream = pods.log_stream(&name, &params).await.map_err(failed)?;
    let mut lines = stream.lines().into_stream();
    while let Some(line) = lines.next().await {
        let line =
            line.map_err(|error| Failure::new(Kind::Internal, error).context(format!("the log of {name} broke off")))?;
        let line = if is_one { line } else { format!("{name}: {line}") };
        // Whoever reads may be gone.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            break;
        }
    }
    Ok(())
}
