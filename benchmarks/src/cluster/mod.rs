//! Thousands of jobs on a real control plane, whose nodes run nothing: a pod runs for a second and has succeeded.
//!
//! What is measured is the operator: from the first job that is submitted to the last that is over, the time that it
//! takes to look at a job, its memory and its processor time. Everything shares the cores of this machine: etcd, API
//! server, controllers, scheduler, operator and the nodes.

mod nodes;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, pin_mut, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stillhouse_operator::crd::{DistillJob, definition};
use stillhouse_tests::kubernetes::network::Network;
use stillhouse_tests::kubernetes::plane::{ControlPlane, Programs};
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::prometheus::get;

use crate::cli::ClusterArgs;
use crate::machine::Machine;
use crate::places::Places;
use crate::process::memory;
use crate::table::{Table, grouped, verdict};

/// Requests of the user at once.
const SUBMITTERS: usize = 16;
const PARAMS: &str = "stillhouse-bench";
/// Longest time without a job that ends.
const PATIENCE: Duration = Duration::from_mins(5);
const GOAL_JOBS: f64 = 200.0;
const GOAL_P99: f64 = 0.05;
const GOAL_BYTES: f64 = 256.0 * 1024.0 * 1024.0;

/// What was seen.
struct Figures {
    submitted: f64,
    all_over: f64,
    looks: f64,
    median: f64,
    p99: f64,
    peak_bytes: f64,
    cpu_seconds: f64,
    writes: f64,
}

/// Runs the jobs, and publishes the table.
///
/// # Errors
/// When there is no control plane, or a job does not end.
pub(crate) fn run(places: &Places, args: &ClusterArgs) -> anyhow::Result<()> {
    let programs = Programs::find().context("no control plane: make kubernetes builds one; etcd is needed")?;
    let _network = Network::new().context("no bridge can be made: it needs root and iproute2")?;
    // One of two providers in this process has to be named.
    let _is_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    // Nodes that run nothing do not beat.
    let settings = [
        "--node-monitor-grace-period=2h",
        "--concurrent-job-syncs=20",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
    ];
    let plane = ControlPlane::start_with(&programs, &folder.path().join("plane"), &settings)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let metrics = free_address();
    let figures = runtime.block_on(async {
        let client = plane.client().await?;
        prepare(&client, args.nodes).await?;
        let mut operator = operator(places, &plane, metrics, folder.path())?;
        operator.start();
        let nodes = tokio::spawn(nodes::run(client.clone()));
        let figures = measure(&client, args.jobs, metrics, &operator).await;
        nodes.abort();
        figures
    })?;
    places.publish("cluster", &table(args, &figures), &data(args, &figures))
}

fn operator(places: &Places, plane: &ControlPlane, metrics: SocketAddr, folder: &Path) -> anyhow::Result<Mortal> {
    let mut command = places.operator()?;
    command.args([
        "run",
        "--lease-namespace",
        "default",
        "--metrics-listen",
        &metrics.to_string(),
    ]);
    command.env("KUBECONFIG", plane.kubeconfig("admin"));
    Ok(Mortal::new(command, &folder.join("operator.log")))
}

/// The definition, nodes, and one volume that all jobs share.
async fn prepare(client: &Client, nodes: u32) -> anyhow::Result<()> {
    let params = PatchParams::apply(PARAMS).force();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .patch("distilljobs.stillhouse.dev", &params, &Patch::Apply(definition()))
        .await?;
    let jobs: Api<DistillJob> = Api::default_namespaced(client.clone());
    while jobs.list(&ListParams::default().limit(1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes::make(client, nodes).await?;
    let volume = json!({ "metadata": { "name": "all" }, "spec": { "capacity": { "storage": "1Gi" },
        "accessModes": ["ReadWriteMany"], "hostPath": { "path": "/nowhere" },
        "claimRef": { "namespace": "default", "name": "all" } } });
    let claim = json!({ "metadata": { "name": "all" }, "spec": { "accessModes": ["ReadWriteMany"],
        "resources": { "requests": { "storage": "1Gi" } } } });
    let volumes: Api<k8s_openapi::api::core::v1::PersistentVolume> = Api::all(client.clone());
    let claims: Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    volumes
        .create(&PostParams::default(), &serde_json::from_value(volume)?)
        .await?;
    claims
        .create(&PostParams::default(), &serde_json::from_value(claim)?)
        .await?;
    Ok(())
}

fn job(number: u32) -> Value {
    json!({
        "apiVersion": "stillhouse.dev/v1alpha1", "kind": "DistillJob", "metadata": { "name": format!("job-{number}") },
        "spec": {
            "images": { "source": "idx", "path": "train.gz" },
            "teacher": { "protocol": "open-inference", "url": "http://teacher:8080", "model": "m" },
            "student": { "architecture": "lenet5" },
            "budget": { "queries": 1000, "perRound": 100 },
            "workers": { "min": 1, "max": 1 },
            "cluster": { "storage": { "claim": "all" }, "workers": { "gpus": 1 } },
        },
    })
}

/// Submits `count` jobs, and waits for the last to be over.
async fn measure(client: &Client, count: u32, metrics: SocketAddr, operator: &Mortal) -> anyhow::Result<Figures> {
    let jobs: Api<DistillJob> = Api::default_namespaced(client.clone());
    let begun = Instant::now();
    let submit = async {
        let params = PatchParams::apply(PARAMS);
        let sends = stream::iter(0..count).map(|number| {
            let (jobs, params) = (jobs.clone(), params.clone());
            async move {
                let job = job(number);
                let name = job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                jobs.patch(&name, &params, &Patch::Apply(&job)).await.map(drop)
            }
        });
        sends.buffer_unordered(SUBMITTERS).try_collect::<()>().await?;
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    let (submitted, over) = tokio::try_join!(submit, all_over(&jobs, count))?;
    let all_over = over.duration_since(begun).as_secs_f64();
    let text = tokio::task::spawn_blocking(move || get(metrics, "/metrics")).await?;
    let text = text.context("the operator serves no metrics")?;
    let id = operator.id().context("the operator ended")?;
    let peak = memory(id, "VmHWM")?;
    let buckets = buckets(&text);
    Ok(Figures {
        submitted,
        all_over,
        looks: buckets.last().map_or(0.0, |(_, count)| *count),
        median: quantile(&buckets, 0.5),
        p99: quantile(&buckets, 0.99),
        peak_bytes: peak as f64,
        cpu_seconds: sum(&text, "process_cpu_seconds_total"),
        writes: sum(&text, "stillhouse_operator_writes_total"),
    })
}

/// When the last of `count` jobs was over.
async fn all_over(jobs: &Api<DistillJob>, count: u32) -> anyhow::Result<Instant> {
    let events = watcher(jobs.clone(), watcher::Config::default());
    pin_mut!(events);
    let mut over = std::collections::HashSet::new();
    while over.len() < count as usize {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let Some(event) = event.with_context(|| format!("{} of {count} jobs are over", over.len()))? else {
            continue;
        };
        if let Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event {
            let phase = job.status.as_ref().map_or("", |status| status.phase.as_str());
            ensure!(phase != "Failed" && phase != "Invalid", "{} is {phase}", job.name_any());
            if phase == "Succeeded" && over.insert(job.name_any()) && over.len() % 500 == 0 {
                eprintln!("{} of {count} jobs are over", over.len());
            }
        }
    }
    Ok(Instant::now())
}

/// Upper bounds and counts up to them of the operator's looks.
fn buckets(text: &str) -> Vec<(f64, f64)> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("stillhouse_operator_reconcile_seconds_bucket{le=\""));
    let bucket = |line: &str| {
        let (bound, count) = line.split_once("\"} ")?;
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().ok()?
        };
        Some((bound, count.parse().ok()?))
    };
    lines.filter_map(bucket).collect()
}

/// A quantile as Prometheus has it: linear within a bucket.
fn quantile(buckets: &[(f64, f64)], share: f64) -> f64 {
    let wanted = share * buckets.last().map_or(0.0, |(_, count)| *count);
    let mut below = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= wanted && count > below.1 {
            let part = (wanted - below.1) / (count - below.1);
            return if bound.is_finite() {
                below.0 + (bound - below.0) * part
            } else {
                below.0
            };
        }
        below = (bound, count);
    }
    below.0
}

/// All series of a metric together.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn table(args: &ClusterArgs, figures: &Figures) -> Table {
    let jobs = f64::from(args.jobs);
    let title = format!(
        "{} jobs on {} nodes that run nothing",
        grouped(jobs),
        grouped(f64::from(args.nodes))
    );
    let mut table = Table::new(title, ["figure", "value"]);
    let rate = jobs / figures.all_over;
    let rows = [
        ("jobs submitted, a second", format!("{:.0}", jobs / figures.submitted)),
        ("jobs from submitted to over, a second", format!("{rate:.0}")),
        ("looks at jobs", grouped(figures.looks)),
        ("a look, median ms", format!("{:.1}", figures.median * 1e3)),
        ("a look, 99 % ms", format!("{:.1}", figures.p99 * 1e3)),
        ("writes of the operator, a job", format!("{:.1}", figures.writes / jobs)),
        (
            "processor ms of the operator, a job",
            format!("{:.1}", figures.cpu_seconds * 1e3 / jobs),
        ),
        (
            "peak memory of the operator, MB",
            format!("{:.0}", figures.peak_bytes / 1e6),
        ),
    ];
    for (what, value) in rows {
        table.row([what.to_owned(), value]);
    }
    table.note(verdict(&format!("{GOAL_JOBS} jobs a second"), rate >= GOAL_JOBS));
    table.note(verdict("99 % of looks below 50 ms", figures.p99 < GOAL_P99));
    table.note(verdict("the operator below 256 MiB", figures.peak_bytes < GOAL_BYTES));
    table.note("etcd, API server, controllers, scheduler, operator and nodes share the cores of this machine.");
    table.note(Machine::this().line());
    table
}

fn data(args: &ClusterArgs, figures: &Figures) -> Value {
    json!({
        "machine": Machine::this(), "jobs": args.jobs, "nodes": args.nodes,
        "submittedSeconds": figures.submitted, "allOverSeconds": figures.all_over, "looks": figures.looks,
        "medianSeconds": figures.median, "p99Seconds": figures.p99, "peakBytes": figures.peak_bytes,
        "cpuSeconds": figures.cpu_seconds, "writes": figures.writes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let text = "stillhouse_operator_reconcile_seconds_bucket{le=\"0.01\"} 50\n\
                    stillhouse_operator_reconcile_seconds_bucket{le=\"0.02\"} 100\n\
                    stillhouse_operator_reconcile_seconds_bucket{le=\"+Inf\"} 100\n";
        let buckets = buckets(text);
        assert!((quantile(&buckets, 0.5) - 0.01).abs() < 1e-9);
        assert!((quantile(&buckets, 0.75) - 0.015).abs() < 1e-9);
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(sum("a_total{x=\"1\"} 2\na_total{x=\"2\"} 3\n", "a_total"), 5.0);
    }
}
