//! `list`, and `status` and `watch` of `djob/NAME`.

use std::io::Write as _;

use futures::{StreamExt, pin_mut};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use stillhouse_operator::crd::{DistillJob, Status};
use stillhouse_operator::status::exit_code;

use super::{Cluster, refused, with};
use crate::cli::cluster::{ClusterArgs, ListArgs};
use crate::failure::{Failure, Kind};

/// Jobs of a namespace, or of all, a line each.
///
/// # Errors
/// When the cluster does not tell.
pub fn list(args: &ListArgs) -> Result<String, Failure> {
    with(&args.cluster, async |cluster| {
        let jobs: Api<DistillJob> = if args.all_namespaces {
            Api::all(cluster.client.clone())
        } else {
            cluster.jobs()
        };
        let found = jobs.list(&ListParams::default()).await;
        let mut found = found
            .map_err(|error| refused(error, "the cluster does not list its jobs"))?
            .items;
        if found.is_empty() {
            let place = if args.all_namespaces {
                "the cluster"
            } else {
                cluster.namespace.as_str()
            };
            return Ok(format!("no jobs in {place}"));
        }
        found.sort_by_key(|job| (job.namespace(), job.name_any()));
        Ok(table(&found, Timestamp::now()))
    })
}

/// How far a job is.
///
/// # Errors
/// When there is no such job.
pub fn status(args: &ClusterArgs, name: &str) -> Result<String, Failure> {
    with(args, async |cluster| {
        let job = get(&cluster, name).await?;
        let status = job.status.clone().unwrap_or_default();
        Ok(format!("{}\n{}", table(&[job], Timestamp::now()), status.message))
    })
}

/// Looks on until a job is over, a line a change.
///
/// # Errors
/// When there is no such job, or it failed: with the exit code of its failure.
pub fn watch(args: &ClusterArgs, name: &str) -> Result<String, Failure> {
    with(args, async |cluster| follow(&cluster, name).await)
}

pub(super) async fn get(cluster: &Cluster, name: &str) -> Result<DistillJob, Failure> {
    let found = cluster.jobs().get(name).await;
    found.map_err(|error| refused(error, &format!("cannot look at the job {name}")))
}

pub(super) async fn follow(cluster: &Cluster, name: &str) -> Result<String, Failure> {
    let mut job = get(cluster, name).await?;
    let field = format!("metadata.name={name}");
    let stream = watcher(cluster.jobs(), watcher::Config::default().fields(&field)).default_backoff();
    pin_mut!(stream);
    let mut last = String::new();
    loop {
        let status = job.status.clone().unwrap_or_default();
        let line = line(&status);
        if line != last {
            // Whoever reads may be gone.
            let _written = writeln!(std::io::stdout(), "{line}");
            last = line;
        }
        if let Some(ended) = ended(name, &status) {
            return ended;
        }
        job = loop {
            match stream.next().await {
                Some(Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job))) => break job,
                Some(Ok(watcher::Event::Delete(_))) | None => {
                    return Err(Failure::message(
                        Kind::Interrupted,
                        format!("the job {name} was deleted"),
                    ));
                }
                // It is asked again.
                Some(_) => {}
            }
        };
    }
}

/// How a job ended, if it has.
fn ended(name: &str, status: &Status) -> Option<Result<String, Failure>> {
    match status.phase.as_str() {
        "Succeeded" => Some(Ok(format!(
            "{name}: done; stillhouse export {name} --to DIR fetches the student"
        ))),
        "Failed" | "Invalid" => {
            let reason = condition(status, "Failed").unwrap_or("Invalid");
            let kind = Kind::of_exit_code(exit_code(reason));
            Some(Err(Failure::message(kind, format!("{name}: {}", status.message))))
        }
        _ => None,
    }
}

/// The reason of a condition that holds.
fn condition<'a>(status: &'a Status, kind: &str) -> Option<&'a str> {
    let conditions = status.conditions.iter();
    let mut holding = conditions.filter(|condition| condition.type_ == kind && condition.status == "True");
    holding.next().map(|condition| condition.reason.as_str())
}

fn line(status: &Status) -> String {
    let round = status.round.map_or_else(|| "-".to_owned(), |round| round.to_string());
    let agreement = if status.agreement.is_empty() {
        "-"
    } else {
        &status.agreement
    };
    format!(
        "{:<10} round {round}  {} queries  agreement {agreement}  workers {}  {}",
        status.phase, status.queries, status.workers, status.message
    )
}

const HEAD: [&str; 8] = [
    "NAMESPACE",
    "NAME",
    "PHASE",
    "ROUND",
    "QUERIES",
    "AGREEMENT",
    "WORKERS",
    "AGE",
];

fn table(jobs: &[DistillJob], now: Timestamp) -> String {
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |job: &DistillJob| {
        let status = job.status.clone().unwrap_or_default();
        let created = job.metadata.creation_timestamp.as_ref();
        [
            job.namespace().unwrap_or_default(),
            job.name_any(),
            dash(status.phase),
            dash(status.round.map(|round| round.to_string()).unwrap_or_default()),
            dash(status.queries),
            dash(status.agreement),
            dash(status.workers),
            created.map_or_else(|| "-".to_owned(), |created| age(now.duration_since(created.0))),
        ]
    };
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned))
        .chain(jobs.iter().map(row))
        .collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let text = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    text.collect::<Vec<_>>().join("\n")
}

/// A length of time in its largest unit.
fn age(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_a_line_a_job_and_dashes_where_nothing_is_known() {
        let job = |name: &str, status| -> DistillJob {
            serde_json::from_value(json!({ "apiVersion": "stillhouse.dev/v1alpha1", "kind": "DistillJob", "metadata": {
                "name": name, "namespace": "lab", "creationTimestamp": "2027-01-15T08:00:00Z" }, "spec": {}, "status": status }))
            .unwrap()
        };
        let jobs = [
            job(
                "a",
                json!({ "phase": "Running", "round": 2, "queries": "1/2", "agreement": "98.00 %", "workers": "1/1" }),
            ),
            job("longer", json!(null)),
        ];
        let text = table(&jobs, "2027-01-15T11:00:00Z".parse().unwrap());
        assert_eq!(
            text,
            "NAMESPACE  NAME    PHASE    ROUND  QUERIES  AGREEMENT  WORKERS  AGE\n\
             lab        a       Running  2      1/2      98.00 %    1/1      3h\n\
             lab        longer  -        -      -        -          -        3h"
        );
    }

    #[test]
    fn a_job_that_failed_ends_the_watch_with_its_own_exit_code() {
        let status: Status = serde_json::from_value(json!({ "phase": "Failed", "message": "too little",
            "conditions": [{ "type": "Failed", "status": "True", "reason": "Budget", "message": "",
                             "lastTransitionTime": "2027-01-15T08:00:00Z" }] }))
        .unwrap();
        let failure = ended("a", &status).unwrap().unwrap_err();
        assert_eq!(failure.kind(), Kind::Budget);
        assert!(ended("a", &Status::default()).is_none());
    }
}
