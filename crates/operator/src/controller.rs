//! The loop around the pure functions: see, decide, apply, tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job as BatchJob;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use stillhouse_core::standing::Standing;
use stillhouse_metrics::operator as metrics;

use crate::apply::{self, Watched, Written};
use crate::crd::{DistillJob, Status};
use crate::desired::{self, Coordinator, Images, Plan};
use crate::index::PodIndex;
use crate::news;
use crate::pods::METRICS_PORT;
use crate::request::{Request, parse};
use crate::sight::{JOB, Sight};
use crate::status;

/// Between two looks at a coordinator that runs.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at a job that waits for something that nobody tells of.
const WAIT: Duration = Duration::from_secs(30);
/// How long a coordinator may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest answer of a coordinator in bytes.
const MAX_STANDING_BYTES: usize = 64 << 10;
/// Reconciles at once.
const CONCURRENCY: u16 = 16;
/// Pauses after a failure: doubled each time, between these.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));

/// What an operator works with.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// Images of this release.
    pub images: Images,
    /// For coordinators' standings.
    pub http: reqwest::Client,
    /// For Events.
    pub recorder: Recorder,
    jobs: Store<BatchJob>,
    deployments: Store<Deployment>,
    pods: Arc<PodIndex>,
    written: Written,
    failures: std::sync::Mutex<std::collections::HashMap<String, u32>>,
}

/// Something that the cluster refused.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The server said no, or nothing.
    #[error("{what}")]
    Server {
        /// What was tried.
        what: String,
        /// What came of it.
        source: Box<kube::Error>,
    },
    /// No token could be drawn.
    #[error("no random numbers")]
    Random(#[from] getrandom::Error),
}

impl ReconcileError {
    fn server(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |source| Self::Server {
            what,
            source: Box::new(source),
        }
    }
}

/// Whose jobs are looked after.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Of every namespace.
    Cluster,
    /// Of one.
    Namespace(String),
}

impl Scope {
    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// Looks after jobs until `shutdown`.
///
/// # Errors
/// When the cluster does not know the custom resource, or does not let it be read.
pub async fn run(
    client: Client,
    scope: &Scope,
    images: Images,
    recorder: Recorder,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), ReconcileError> {
    let objects: Api<DistillJob> = scope.api(&client);
    let first = objects.list(&ListParams::default().limit(1)).await;
    first.map_err(ReconcileError::server(
        "cannot list DistillJobs (is the definition installed, and may this account read them?)",
    ))?;
    let ours = watcher::Config::default().labels(JOB);
    // Nothing here looks at what their pods are made of, and thousands of them are kept.
    let (jobs, job_stream) = mirror(scope.api::<BatchJob>(&client), ours.clone(), |job| {
        job.spec.iter_mut().for_each(|spec| spec.template = Default::default());
    });
    let (deployments, deployment_stream) = mirror(scope.api::<Deployment>(&client), ours.clone(), |deployment| {
        deployment.spec = None;
    });
    let pods = Arc::new(PodIndex::default());
    let index = pods.clone();
    let pod_stream = watcher(scope.api::<Pod>(&client), ours)
        .default_backoff()
        .inspect(move |event| {
            if let Ok(event) = event {
                index.take(event);
            }
        })
        .touched_objects();
    let context = Arc::new(Context {
        client,
        images,
        http: reqwest::Client::builder()
            .timeout(ANSWER)
            .no_proxy()
            .build()
            .expect("no settings that can fail"),
        recorder,
        jobs,
        deployments,
        pods,
        written: Written::default(),
        failures: std::sync::Mutex::default(),
    });
    let (asked, asked_stream) = mirror(objects, watcher::Config::default(), |_| {});
    let controller = Controller::for_stream(asked_stream, asked.clone())
        .with_config(
            Config::default()
                .concurrency(CONCURRENCY)
                .debounce(Duration::from_millis(200)),
        )
        .owns_stream(job_stream)
        .owns_stream(deployment_stream)
        .watches_stream(pod_stream, |pod: Pod| {
            let job = pod.labels().get(JOB).cloned();
            job.map(|job| ObjectRef::new(&job).within(&pod.namespace().unwrap_or_default()))
        })
        .graceful_shutdown_on(shutdown);
    let keeper = tokio::spawn(keep_books(asked, context.clone()));
    controller
        .run(reconcile, error_policy, context)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                tracing::debug!(%error, "reconcile");
            }
        })
        .await;
    keeper.abort();
    Ok(())
}

/// A mirror of objects without what `prune` takes from them, and the stream that feeds it.
fn mirror<K>(
    api: Api<K>,
    config: watcher::Config,
    prune: impl Fn(&mut K) + Send + 'static,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config).default_backoff().modify(move |object| {
        object.managed_fields_mut().clear();
        prune(object);
    });
    (store, stream.reflect(writer).touched_objects())
}

/// Counts jobs by phase, and forgets those that are gone.
async fn keep_books(store: Store<DistillJob>, context: Arc<Context>) {
    loop {
        let jobs = store.state();
        let mut phases = std::collections::BTreeMap::<&str, u32>::new();
        for job in &jobs {
            *phases
                .entry(job.status.as_ref().map_or("", |status| &status.phase))
                .or_default() += 1;
        }
        for phase in PHASES {
            let count = phases.get(phase).copied().unwrap_or(0);
            metrics().jobs.with_label_values(&[phase]).set(f64::from(count));
        }
        let known: std::collections::HashSet<_> = jobs.iter().filter_map(|job| job.uid()).collect();
        context.written.retain(|uid| known.contains(uid));
        context.lock_failures().retain(|uid, _| known.contains(uid));
        tokio::time::sleep(LOOK).await;
    }
}

/// Every phase of a job.
const PHASES: [&str; 8] = [
    "Pending",
    "Running",
    "Paused",
    "Suspending",
    "Suspended",
    "Succeeded",
    "Failed",
    "Invalid",
];

async fn reconcile(object: Arc<DistillJob>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let outcome = context.reconcile(&object).await;
    metrics().reconcile_seconds.observe(begun.elapsed().as_secs_f64());
    let word = if outcome.is_ok() { "done" } else { "failed" };
    metrics().reconciles.with_label_values(&[word]).inc();
    if outcome.is_ok() {
        context.lock_failures().remove(&object.uid().unwrap_or_default());
    }
    outcome
}

fn error_policy(object: Arc<DistillJob>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let mut failures = context.lock_failures();
    let count = failures.entry(object.uid().unwrap_or_default()).or_default();
    *count = count.saturating_add(1);
    let pause = BACKOFF.1.min(BACKOFF.0 * 2_u32.saturating_pow((*count - 1).min(16)));
    let error: &dyn std::error::Error = error;
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::warn!(job = object.name_any(), namespace = object.namespace(), %error, cause, ?pause, "cannot reconcile");
    Action::requeue(pause)
}

impl Context {
    fn lock_failures(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn reconcile(&self, object: &DistillJob) -> Result<Action, ReconcileError> {
        if object.metadata.deletion_timestamp.is_some() {
            // Everything of it goes by its owner.
            return Ok(Action::await_change());
        }
        let old = object.status.clone().unwrap_or_default();
        let now = Timestamp::now().as_second();
        let generation = object.metadata.generation;
        let request = match parse(object) {
            Ok(request) => request,
            Err(refusal) => {
                let new = status::refused(&refusal, &old, generation, now);
                self.tell(object, &old, &new).await?;
                return Ok(Action::await_change());
            }
        };
        let sight = self.look(&request, now).await;
        let plan = desired::plan(&request, &sight.observed, &self.images);
        self.perform(&request, &plan).await?;
        let new = status::of(&request, &sight, &old, generation, now);
        self.tell(object, &old, &new).await?;
        self.after(&request, &sight, &new, now).await
    }

    /// When to look again, or that a job's time is over.
    async fn after(
        &self,
        request: &Request,
        sight: &Sight,
        status: &Status,
        now: i64,
    ) -> Result<Action, ReconcileError> {
        let ttl = request.cluster.ttl_seconds_after_finished;
        if let (Some(finished), Some(ttl)) = (sight.finished, ttl) {
            let left = finished + i64::from(ttl) - now;
            if left <= 0 {
                self.delete(request).await?;
                return Ok(Action::await_change());
            }
            return Ok(Action::requeue(Duration::from_secs(left.unsigned_abs())));
        }
        Ok(match sight.observed.coordinator {
            Coordinator::Active if sight.coordinator_ip().is_some() => Action::requeue(LOOK),
            Coordinator::Succeeded if status.phase == "Succeeded" => Action::requeue(WAIT * 10),
            _ => Action::requeue(WAIT),
        })
    }

    async fn look(&self, request: &Request, now: i64) -> Sight {
        let find = |role: &str| {
            let name = format!("{}-{role}", request.name);
            self.jobs.get(&ObjectRef::new(&name).within(&request.namespace))
        };
        let pods = self.pods.of(&request.namespace, &request.name);
        let mut sight = Sight::new(find("coordinator").as_deref(), find("worker").as_deref(), pods, now);
        if let Some(ip) = sight.coordinator_ip() {
            sight.standing = self.standing(ip).await;
        }
        // Its Secret cannot be read; while the coordinator does not run, it is made if it is not there.
        sight.observed.has_token = sight.coordinator_ip().is_some()
            || matches!(
                sight.observed.coordinator,
                Coordinator::Succeeded | Coordinator::Failed | Coordinator::Idle
            );
        sight
    }

    /// What a coordinator says of itself; `None` of one that does not answer.
    async fn standing(&self, ip: &str) -> Option<Standing> {
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        let url = format!("http://{host}:{METRICS_PORT}/standing");
        let mut answer = self.http.get(url).send().await.ok()?.error_for_status().ok()?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_STANDING_BYTES {
                return None;
            }
        }
        serde_json::from_slice(&text).ok()
    }

    async fn perform(&self, request: &Request, plan: &Plan) -> Result<(), ReconcileError> {
        if plan.make_token {
            let mut token = [0; 32];
            getrandom::fill(&mut token)?;
            let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
            let made = apply::create(&self.client, &desired::token(request, &token)).await;
            made.map_err(ReconcileError::server("cannot make the Secret of the link"))?;
        }
        for name in &plan.delete {
            let deleted = apply::delete_job(&self.client, &request.namespace, name).await;
            deleted.map_err(ReconcileError::server(format!("cannot delete the Job {name}")))?;
            metrics().writes.with_label_values(&["delete"]).inc();
        }
        for object in &plan.merge {
            let merged = apply::merge(&self.client, object).await;
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            merged.map_err(ReconcileError::server(format!("cannot change the Job {name}")))?;
            metrics().writes.with_label_values(&["apply"]).inc();
        }
        // None needs another to be there before it: pods wait for what they name.
        let applies = plan.apply.iter().map(|object| self.apply(request, object));
        futures::future::try_join_all(applies).await?;
        Ok(())
    }

    async fn apply(&self, request: &Request, object: &Value) -> Result<(), ReconcileError> {
        let watched = self.watched(request, object);
        let sent = apply::apply(&self.client, &self.written, &request.uid, object, watched).await;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        if sent.map_err(ReconcileError::server(format!("cannot apply the {kind} {name}")))? {
            metrics().writes.with_label_values(&["apply"]).inc();
        }
        Ok(())
    }

    /// The generation of an object that is watched.
    fn watched(&self, request: &Request, object: &Value) -> Watched {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match object["kind"].as_str() {
            Some("Job") => {
                let found = self.jobs.get(&ObjectRef::new(name).within(&request.namespace));
                Some(found.and_then(|job| job.metadata.generation))
            }
            Some("Deployment") => {
                let found = self.deployments.get(&ObjectRef::new(name).within(&request.namespace));
                Some(found.and_then(|deployment| deployment.metadata.generation))
            }
            _ => None,
        }
    }

    /// Writes the status where it changed, and says what is worth an Event.
    async fn tell(&self, object: &DistillJob, old: &Status, new: &Status) -> Result<(), ReconcileError> {
        if old == new {
            return Ok(());
        }
        let api = self.of_object(object.namespace().unwrap_or_default().as_str());
        let patch = json!({ "status": new });
        let sent = api
            .patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match sent {
            // It went meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            other => other
                .map(drop)
                .map_err(ReconcileError::server("cannot write the status"))?,
        }
        metrics().writes.with_label_values(&["status"]).inc();
        let reference = object.object_ref(&());
        for news in news::between(old, new) {
            let event = Event {
                type_: if news.is_warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: news.reason.to_owned(),
                note: Some(news.note.chars().take(1000).collect()),
                action: news.action,
                secondary: None,
            };
            // An Event that is lost is in the status all the same.
            if let Err(error) = self.recorder.publish(&event, &reference).await {
                tracing::debug!(%error, "cannot publish an Event");
            }
        }
        Ok(())
    }

    async fn delete(&self, request: &Request) -> Result<(), ReconcileError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(request.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.of_object(&request.namespace).delete(&request.name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            other => other
                .map(drop)
                .map_err(ReconcileError::server("cannot delete a job whose time is over")),
        }
    }

    fn of_object(&self, namespace: &str) -> Api<DistillJob> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
