//! `stillhouse describe`: why a job is as it is.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use stillhouse_operator::crd::{DistillJob, Status};
use stillhouse_operator::sight::{JOB, PodSight};

use super::{Cluster, look, queue, refused, with};
use crate::cli::cluster::NameArgs;
use crate::failure::Failure;

/// Events that are shown.
const EVENTS: usize = 12;

/// Says how a job is, what it waits for, and what can be done about it.
///
/// # Errors
/// When there is no such job.
pub fn describe(args: &NameArgs) -> Result<String, Failure> {
    with(&args.cluster, async |cluster| {
        let job = look::get(&cluster, &args.name).await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let labels = format!("{JOB}={}", args.name);
        let pods = pods.list(&ListParams::default().labels(&labels)).await;
        let pods = pods
            .map_err(|error| refused(error, "the cluster does not list the job's pods"))?
            .items;
        let events = events(&cluster, &args.name).await?;
        let queue = match running(&job.status.clone().unwrap_or_default()) {
            Some(condition) if condition.reason == "Queue" => queue::word(&cluster, &args.name).await,
            _ => None,
        };
        Ok(text(&job, &pods, &events, queue.as_deref()))
    })
}

/// Events of the job and of everything that belongs to it, the newest last.
async fn events(cluster: &Cluster, name: &str) -> Result<Vec<Event>, Failure> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let found = events.list(&ListParams::default()).await;
    let mut found = found
        .map_err(|error| refused(error, "the cluster does not list events"))?
        .items;
    let is_of_job = |event: &Event| {
        let of = event.involved_object.name.as_deref().unwrap_or_default();
        let roles = ["coordinator", "worker", "gateway", "job"];
        of == name || roles.iter().any(|role| of.starts_with(&format!("{name}-{role}")))
    };
    found.retain(is_of_job);
    found.sort_by_key(at);
    Ok(found.split_off(found.len().saturating_sub(EVENTS)))
}

fn at(event: &Event) -> String {
    let newest = event.event_time.as_ref().map(|time| time.0.to_string());
    let last = event.last_timestamp.as_ref().map(|time| time.0.to_string());
    last.or(newest).unwrap_or_default()
}

fn text(job: &DistillJob, pods: &[Pod], events: &[Event], queue: Option<&str>) -> String {
    let status = job.status.clone().unwrap_or_default();
    let mut text = format!(
        "{} in namespace {}\n",
        job.name_any(),
        job.namespace().unwrap_or_default()
    );
    let phase = if status.phase.is_empty() {
        "not seen by an operator yet"
    } else {
        &status.phase
    };
    let _ = writeln!(text, "  phase      {phase}: {}", status.message);
    if let Some(queue) = queue {
        let _ = writeln!(text, "  queue      {queue}");
    }
    if let Some(advice) = advice(&status) {
        let _ = writeln!(text, "  what to do {advice}");
    }
    let agreement = if status.agreement.is_empty() {
        "-"
    } else {
        &status.agreement
    };
    let round = status.round.map_or_else(|| "-".to_owned(), |round| round.to_string());
    let _ = writeln!(text, "  queries    {}", status.queries);
    let _ = writeln!(text, "  round      {round}, agreement {agreement}");
    let _ = writeln!(text, "  workers    {}", status.workers);
    let _ = writeln!(text, "pods");
    for pod in pods {
        let Some(sight) = PodSight::of(pod) else { continue };
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or("no node");
        let _ = writeln!(text, "  {}  {node}  {}", pod.name_any(), how(&sight));
    }
    let _ = writeln!(text, "events");
    for event in events {
        let (reason, note) = (event.reason.as_deref(), event.message.as_deref());
        let of = event.involved_object.name.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}  {of}  {}: {}",
            at(event),
            reason.unwrap_or_default(),
            note.unwrap_or_default()
        );
    }
    text.trim_end().to_owned()
}

fn how(pod: &PodSight) -> String {
    match (&pod.obstacle, &pod.ended) {
        _ if pod.is_terminating => "is ending".to_owned(),
        (Some((reason, message)), _) => format!("waits ({reason}): {message}"),
        (None, Some((code, _))) => format!("ended with exit code {code}"),
        (None, None) if pod.is_running => "runs".to_owned(),
        (None, None) => "starts".to_owned(),
    }
}

fn running(status: &Status) -> Option<&Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == "Running")
}

/// What somebody can do about a job that does not run.
fn advice(status: &Status) -> Option<&'static str> {
    Some(match (running(status)?.reason.as_str(), status.phase.as_str()) {
        (_, "Running" | "Succeeded") => return None,
        (_, "Suspended") => "stillhouse resume",
        ("Gpu", _) => {
            "wait for cards, ask for fewer (spec.cluster.workers.gpus, stillhouse resize), or check gpuResource and tolerations"
        }
        ("Node", _) => "check cpu, memory, nodeSelector and tolerations under spec.cluster",
        ("Storage", "Pending") => "check the claims: kubectl get pvc; spec.cluster.storage names class and access mode",
        ("Queue", _) => "the queue admits it when its quota allows: kubectl get workloads",
        ("Quota", _) => "the events below say who refuses the pods",
        ("Image", _) => "check spec.cluster.image, workerImage and imagePullSecrets",
        ("Secret", _) => "make the Secret or ConfigMap that is named, in the job's namespace",
        ("Teacher", _) => {
            "check that the teacher answers from within the cluster, and networkPolicy.teacher of the chart"
        }
        ("Budget", _) => "stillhouse budget add djob/NAME N",
        ("Images" | "JobFile" | "Invalid", _) => "correct the job file and submit it again",
        ("Workers", "Pending") => "stillhouse logs NAME --role worker",
        ("Terminating", _) => {
            "if the node is dead: kubectl taint node NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        }
        (_, "Failed") => "stillhouse logs NAME; then suspend and resume to try again",
        _ => return None,
    })
}
