//! What is seen of a job on the cluster, in the words that decisions need.

use k8s_openapi::api::batch::v1::Job as BatchJob;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use stillhouse_core::standing::Standing;

use crate::desired::{Coordinator, IMAGE, Images, Observed, TEMPLATE, WORKER_IMAGE};

/// Label of a pod's role.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label with the name of the job that an object belongs to.
pub const JOB: &str = "stillhouse.dev/job";
/// How long workers may take to leave a job that came to its end.
const LINGER_SECONDS: i64 = 60;

/// A pod, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSight {
    /// `coordinator`, `worker` or `gateway`.
    pub role: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Whether it runs.
    pub is_running: bool,
    /// Whether it was told to end.
    pub is_terminating: bool,
    /// Where it is reached.
    pub ip: Option<String>,
    /// Why it does not run: a reason in one word, and a sentence.
    pub obstacle: Option<(String, String)>,
    /// How its container ended: exit code, and what it left behind.
    pub ended: Option<(i32, String)>,
    /// When, in seconds since 1970.
    pub ended_at: i64,
}

impl PodSight {
    /// What matters of `pod`; `None` of one without a role.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let role = pod.metadata.labels.as_ref()?.get(COMPONENT)?.clone();
        let status = pod.status.as_ref();
        let container = status
            .and_then(|status| status.container_statuses.as_ref())
            .and_then(|all| all.first());
        let state = container.and_then(|container| container.state.as_ref());
        let ended = state.and_then(|state| state.terminated.as_ref());
        let created = pod.metadata.creation_timestamp.as_ref();
        Some(Self {
            role,
            created: created.map_or(0, |time| time.0.as_second()),
            is_running: state.is_some_and(|state| state.running.is_some()),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            ip: status.and_then(|status| status.pod_ip.clone()),
            obstacle: obstacle(pod, container),
            ended: ended.map(|ended| (ended.exit_code, ended.message.clone().unwrap_or_default())),
            ended_at: ended
                .and_then(|ended| ended.finished_at.as_ref())
                .map_or(0, |time| time.0.as_second()),
        })
    }
}

/// Why a pod does not run: nobody takes it, or its node cannot start it.
fn obstacle(pod: &Pod, container: Option<&ContainerStatus>) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let message = condition.message.clone().unwrap_or_default();
        return Some((unschedulable(&message).to_owned(), message));
    }
    let waiting = container?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().unwrap_or_default();
    let message = waiting.message.clone().unwrap_or_else(|| reason.clone());
    let word = match reason.as_str() {
        "" | "ContainerCreating" | "PodInitializing" => return None,
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => "Image",
        "CreateContainerConfigError" => "Secret",
        _ => "Container",
    };
    Some((word.to_owned(), message))
}

fn unschedulable(message: &str) -> &'static str {
    let message = message.to_ascii_lowercase();
    if message.contains("gpu") {
        "Gpu"
    } else if message.contains("persistentvolumeclaim") || message.contains("volume") {
        "Storage"
    } else if message.contains("scheduling gate") {
        "Queue"
    } else {
        "Node"
    }
}

/// Everything that is seen of a job.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// What the objects of a job depend on.
    pub observed: Observed,
    /// Its pods.
    pub pods: Vec<PodSight>,
    /// What the coordinator says of itself.
    pub standing: Option<Standing>,
    /// When it was over, in seconds since 1970.
    pub finished: Option<i64>,
    /// Why the coordinator's Job failed, where a pod's ending does not say so: reason and message.
    pub failure: Option<(String, String)>,
    /// Workers that Kueue has not let in.
    pub workers_held: bool,
}

impl Sight {
    /// Puts together what is there at `now`, in seconds since 1970.
    #[must_use]
    pub fn new(coordinator: Option<&BatchJob>, workers: Option<&BatchJob>, pods: Vec<PodSight>, now: i64) -> Self {
        let end = coordinator.and_then(ended);
        let state = match coordinator {
            None => Coordinator::Absent,
            Some(_) if end.as_ref().is_some_and(|end| end.is_success) => Coordinator::Succeeded,
            Some(_) if end.is_some() => Coordinator::Failed,
            Some(job) if is_idle(job, &pods) => Coordinator::Idle,
            Some(_) => Coordinator::Active,
        };
        let images = |job| {
            Some(Images {
                control: annotation(job, IMAGE)?,
                worker: annotation(job, WORKER_IMAGE)?,
            })
        };
        let is_late = end.as_ref().is_some_and(|end| end.at + LINGER_SECONDS < now);
        let count = workers.and_then(|job| job.spec.as_ref()?.parallelism);
        Self {
            observed: Observed {
                coordinator: state,
                coordinator_template: coordinator.and_then(|job| annotation(job, TEMPLATE)),
                worker_template: workers.and_then(|job| annotation(job, TEMPLATE)),
                worker_count: count.map(i32::unsigned_abs),
                images: coordinator.and_then(images),
                has_token: false,
                workers_over: workers.is_some_and(|job| ended(job).is_some()),
                workers_linger: state == Coordinator::Succeeded
                    && is_late
                    && workers.is_some_and(|job| ended(job).is_none()),
            },
            pods,
            standing: None,
            finished: end.as_ref().map(|end| end.at),
            failure: end.filter(|end| !end.is_success).map(|end| (end.reason, end.message)),
            workers_held: workers.is_some_and(is_suspended),
        }
    }

    /// Pods of a role, the newest first.
    pub fn of_role(&self, role: &str) -> impl Iterator<Item = &PodSight> {
        let mut pods: Vec<_> = self.pods.iter().filter(|pod| pod.role == role).collect();
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.created));
        pods.into_iter()
    }

    /// Where the coordinator that runs now is reached.
    #[must_use]
    pub fn coordinator_ip(&self) -> Option<&str> {
        let mut pods = self.of_role("coordinator");
        pods.find(|pod| pod.is_running)?.ip.as_deref()
    }
}

struct End {
    is_success: bool,
    at: i64,
    reason: String,
    message: String,
}

fn ended(job: &BatchJob) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str()))?;
    Some(End {
        is_success: condition.type_ == "Complete",
        at: condition
            .last_transition_time
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
    })
}

fn annotation(job: &BatchJob, name: &str) -> Option<String> {
    job.metadata.annotations.as_ref()?.get(name).cloned()
}

fn is_suspended(job: &BatchJob) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false)
}

/// Whether a suspended Job has let go of its last pod.
fn is_idle(job: &BatchJob, pods: &[PodSight]) -> bool {
    let status = job.status.clone().unwrap_or_default();
    let counted = status.active.unwrap_or(0) + status.terminating.unwrap_or(0);
    let is_there = |pod: &PodSight| pod.role == "coordinator" && pod.ended.is_none();
    is_suspended(job) && counted == 0 && !pods.iter().any(is_there)
}
