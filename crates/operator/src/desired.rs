//! The objects of a job as a pure function of what is asked and what is there.
//!
//! - **Coordinator**: a Job of one pod. A Job, for a job ends: its success is the job's. At most one at a time:
//!   a pod on a dead node is not replaced before it is gone, the volume lets one pod near it, and the job
//!   directory has a lock.
//! - **Workers**: an elastic Indexed Job. A pod on a dead node is replaced at once
//!   (`podReplacementPolicy: TerminatingOrFailed`), for two workers never disturb each other. That policy
//!   excludes a pod failure policy, so failures are not limited here: the coordinator judges workers.
//! - **Gateways**: a Deployment, when the job has a queue.

use serde_json::{Value, json};

use crate::cluster::WhenDeleted;
use crate::pods::{PORT, Role, labels, template};
use crate::request::Request;

/// Images of an operator's release, or of a job that it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Of coordinator and gateways.
    pub control: String,
    /// Of workers.
    pub worker: String,
}

/// What is there of a job's coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coordinator {
    /// Nothing.
    #[default]
    Absent,
    /// It has pods that are not gone, or may get some.
    Active,
    /// It has no pods.
    Idle,
    /// It came to the end of the job.
    Succeeded,
    /// It failed for good.
    Failed,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// What the coordinator was started from, as its annotation has it.
    pub coordinator_template: Option<String>,
    /// What the workers were started from.
    pub worker_template: Option<String>,
    /// How many workers their Job asks for.
    pub worker_count: Option<u32>,
    /// The images that the job was started with.
    pub images: Option<Images>,
    /// Whether the Secret with the link's token is there.
    pub has_token: bool,
    /// Whether workers still run, or wait to, a minute after the coordinator came to the end of the job.
    pub workers_linger: bool,
    /// Whether the workers' Job is over: it starts no worker any more.
    pub workers_over: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Objects to apply; none needs another to be there before it.
    pub apply: Vec<Value>,
    /// Objects of which no more than this is to be written, for the rest is another's too.
    pub merge: Vec<Value>,
    /// Whether a Secret with a new token is to be made first; it is never read or changed afterwards.
    pub make_token: bool,
    /// Jobs to delete, by name; they are applied again once they are gone.
    pub delete: Vec<String>,
}

/// The annotation with a digest of what the pods of a Job are made from: their template, and a coordinator's job file.
pub const TEMPLATE: &str = "stillhouse.dev/template";
/// The annotation of a coordinator's Job with the image of coordinator and gateways.
pub const IMAGE: &str = "stillhouse.dev/image";
/// The annotation of a coordinator's Job with the image of workers.
pub const WORKER_IMAGE: &str = "stillhouse.dev/worker-image";

/// Name of the Secret with the link's token.
#[must_use]
pub fn secret_name(request: &Request) -> String {
    format!("{}-link", request.name)
}

/// A digest of what the pods of a role are made from, and of a worker's queue: a Job of another one is made anew.
#[must_use]
pub fn template_digest(request: &Request, role: Role, images: &Images) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(template(request, role, images).to_string().as_bytes());
    if role == Role::Coordinator {
        hasher.update(request.job_file.as_bytes());
    } else if let (Role::Worker, Some(queue)) = (role, &request.cluster.queue_name) {
        // Kueue lets no Job that runs change its queue, join one or leave it.
        hasher.update(queue.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// What is to be done for a job. `images` are those of this release: a job that was started keeps its own, so that
/// coordinator, workers and gateways are of one version, until its coordinator is made anew.
#[must_use]
pub fn plan(request: &Request, observed: &Observed, images: &Images) -> Plan {
    let name = &request.name;
    let images = observed.images.as_ref().unwrap_or(images);
    let is_other = |seen: &Option<String>, role| {
        let seen = seen.as_ref();
        seen.is_some_and(|seen| *seen != template_digest(request, role, images))
    };
    let mut plan = Plan {
        make_token: !observed.has_token,
        ..Plan::default()
    };
    plan.apply.extend([job_file(request), service(request)]);
    if request.cluster.storage.claim.is_none() {
        plan.apply.push(claim(request));
    }
    // A Job that failed for good takes no other try: suspending a job clears it, resuming it makes another.
    let is_cleared = request.cluster.suspend && observed.coordinator == Coordinator::Failed;
    if is_other(&observed.coordinator_template, Role::Coordinator) || is_cleared {
        // A Job's template cannot change, and two coordinators must not be: gone first, then again.
        plan.delete.push(format!("{name}-coordinator"));
        return plan;
    }
    plan.apply.push(coordinator(request, images));
    let is_over = matches!(observed.coordinator, Coordinator::Succeeded | Coordinator::Failed);
    // Workers and gateways are needed while the coordinator drains.
    let is_drained = request.cluster.suspend && observed.coordinator != Coordinator::Active;
    let is_idle = is_drained || observed.coordinator == Coordinator::Failed;
    // A job that came to its end and may spend more goes on.
    let is_spent = observed.workers_over && !is_over;
    if is_spent || is_other(&observed.worker_template, Role::Worker) {
        // Another template needs another Job.
        plan.delete.push(format!("{name}-worker"));
    } else if observed.coordinator != Coordinator::Succeeded || observed.workers_linger {
        // Workers of a job that came to its end leave by themselves.
        let is_idle = is_idle || observed.workers_linger;
        let job = workers(request, images, is_idle);
        if request.cluster.queue_name.is_some() {
            leave_to_kueue(&mut plan, job, observed, is_idle);
        } else {
            plan.apply.push(job);
        }
    }
    if request.job.spec.queue.is_some() {
        plan.apply.push(gateways(request, images, is_over || is_idle));
    }
    plan
}

/// Plans the workers' Job under Kueue, which says whether it runs (`suspend`) and adds to its pods the labels and tolerations
/// of the nodes that it chose: a Job that is there is resized or deleted, and left alone otherwise.
fn leave_to_kueue(plan: &mut Plan, job: Value, observed: &Observed, is_idle: bool) {
    let (metadata, spec) = (&job["metadata"], &job["spec"]);
    match observed.worker_count {
        // One that nobody needs would keep its quota, or wait for it.
        Some(_) if is_idle => plan.delete.extend(metadata["name"].as_str().map(str::to_owned)),
        Some(count) if spec["parallelism"] != count => plan.merge.push(json!({
            "apiVersion": job["apiVersion"], "kind": job["kind"],
            "metadata": { "name": metadata["name"], "namespace": metadata["namespace"] },
            "spec": { "completions": spec["completions"], "parallelism": spec["parallelism"] },
        })),
        None if !is_idle => plan.apply.push(job),
        Some(_) | None => {}
    }
}

fn metadata(request: &Request, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": request.namespace,
        "labels": {
            "app.kubernetes.io/name": "stillhouse",
            "app.kubernetes.io/managed-by": "stillhouse-operator",
            "stillhouse.dev/job": request.name,
        },
        "ownerReferences": [{
            "apiVersion": "stillhouse.dev/v1alpha1", "kind": "DistillJob", "name": request.name, "uid": request.uid,
            "controller": true,
        }],
    })
}

fn job_file(request: &Request) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": metadata(request, &format!("{}-job", request.name)),
        "data": { "job.yaml": request.job_file },
    })
}

/// The Secret with the link's token, 64 hexadecimal digits.
#[must_use]
pub fn token(request: &Request, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": metadata(request, &secret_name(request)),
        "stringData": { "token": token },
    })
}

fn service(request: &Request) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(request, &format!("{}-coordinator", request.name)),
        "spec": {
            "selector": labels(request, Role::Coordinator),
            "ports": [{ "name": "link", "port": PORT, "targetPort": PORT, "protocol": "TCP" }],
        },
    })
}

fn claim(request: &Request) -> Value {
    let storage = &request.cluster.storage;
    let mut spec = json!({
        "accessModes": [storage.access_mode.as_deref().unwrap_or("ReadWriteOncePod")],
        "resources": { "requests": { "storage": storage.size.as_deref().unwrap_or("10Gi") } },
    });
    if let Some(class) = &storage.class_name {
        spec["storageClassName"] = json!(class);
    }
    let mut metadata = metadata(request, &format!("{}-job", request.name));
    if storage.when_deleted != WhenDeleted::Delete {
        // It holds labels that were paid for: a job of the same name takes them up again.
        metadata["ownerReferences"].take();
    }
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec })
}

fn coordinator(request: &Request, images: &Images) -> Value {
    let mut metadata = metadata(request, &format!("{}-coordinator", request.name));
    metadata["annotations"] = json!({
        TEMPLATE: template_digest(request, Role::Coordinator, images), IMAGE: images.control, WORKER_IMAGE: images.worker,
    });
    let mut spec = json!({
        "suspend": request.cluster.suspend,
        "completions": 1, "parallelism": 1, "backoffLimit": 6,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            // Interrupted: it goes on where it was.
            { "action": "Ignore", "onExitCodes": { "operator": "In", "values": [130] } },
            // Job file, images, budget, another job's directory: nothing gets better by trying again.
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [2, 3, 5, 6] } },
        ] },
        "template": template(request, Role::Coordinator, images),
    });
    if let Some(seconds) = request.cluster.active_deadline_seconds {
        spec["activeDeadlineSeconds"] = json!(seconds);
    }
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec })
}

/// Workers that are wanted.
#[must_use]
pub fn wanted_workers(request: &Request) -> u32 {
    request.cluster.replicas.unwrap_or(request.job.spec.workers.max)
}

fn workers(request: &Request, images: &Images, is_idle: bool) -> Value {
    let wanted = wanted_workers(request);
    let mut metadata = metadata(request, &format!("{}-worker", request.name));
    metadata["annotations"] = json!({ TEMPLATE: template_digest(request, Role::Worker, images) });
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": wanted, "parallelism": wanted,
        "backoffLimit": i32::MAX,
        "podReplacementPolicy": "TerminatingOrFailed",
        "template": template(request, Role::Worker, images),
    });
    match &request.cluster.queue_name {
        Some(queue) => metadata["labels"]["kueue.x-k8s.io/queue-name"] = json!(queue),
        None => spec["suspend"] = json!(is_idle),
    }
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec })
}

fn gateways(request: &Request, images: &Images, is_idle: bool) -> Value {
    let replicas = request.cluster.gateways.replicas.unwrap_or(1);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": metadata(request, &format!("{}-gateway", request.name)),
        "spec": {
            "replicas": if is_idle { 0 } else { replicas },
            "selector": { "matchLabels": labels(request, Role::Gateway) },
            "template": template(request, Role::Gateway, images),
        },
    })
}
