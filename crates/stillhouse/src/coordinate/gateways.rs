//! Everything through which the teacher is asked: the queue, the desk, and gateways of this and other
//! processes.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use stillhouse_core::ImageSet;
use stillhouse_core::trace::JobTrace;
use stillhouse_ledger::Ledger;
use stillhouse_queue::{MemoryQueue, Queue, QueueError, RedisConfig, RedisQueue};
use stillhouse_runtime::link::Connection;
use stillhouse_teacher::Teacher;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::asking::Asker;
use crate::chaos::lines::Lines;
use crate::desk::message::{GatewayId, Welcome};
use crate::desk::{AskingStopped, Desk, DeskEvent, serve};
use crate::failure::{Failure, Kind};
use crate::gateway::counter::Counter;
use crate::gateway::role::queue_failure;
use crate::gateway::{Gateway, GatewaySources};
use crate::inputs::Inputs;
use crate::queue_access::{prefix, redis_config};
use crate::reuse::Library;

/// References in a queue in memory: a few requests' worth for every connection, so that the gateway
/// never starves, and no more, so that a restart has little to sort out.
const QUEUE: usize = 4_096;
/// Events of the desk that wait to be shown; more are dropped.
const DESK_EVENTS: usize = 256;
/// How long gateways may take to settle after the job is over, beside the teacher's deadline: to
/// notice that one is lost, and to wait whether it comes back.
const FAREWELL: Duration = Duration::from_secs(25);
/// How long a queue may be unreachable at the start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// What asking is made of.
pub(super) struct Parts<'a> {
    pub(super) inputs: Arc<Inputs>,
    pub(super) options: &'a Options,
    /// Links of gateways of other processes, when they may join.
    pub(super) gateways: Option<mpsc::Receiver<Connection>>,
    /// Where their links are entered.
    pub(super) lines: Lines,
    pub(super) ledger: Ledger,
    pub(super) teacher: Arc<dyn Teacher>,
    pub(super) library: Library,
    pub(super) classes: u32,
    /// First start of the job.
    pub(super) started_ms: u64,
    pub(super) trace: JobTrace,
}

/// The way to the teacher, open until [`Asking::end`].
pub(super) struct Asking {
    inputs: Arc<Inputs>,
    asker: Arc<Asker>,
    queue: Arc<dyn Queue>,
    desk: Desk,
    told: mpsc::Receiver<DeskEvent>,
    /// Ends the gateway of this process.
    stop: CancellationToken,
    gateway: Option<JoinHandle<()>>,
    /// Serves gateways of other processes.
    serving: Option<JoinHandle<()>>,
}

impl Asking {
    /// Opens the queue and the desk, and starts the gateways that the options name.
    ///
    /// # Errors
    /// When the queue cannot be used, or nobody can listen for gateways.
    pub(super) async fn open(mut parts: Parts<'_>) -> Result<Self, Failure> {
        let gateways = parts.gateways.take();
        let Parts {
            inputs,
            options,
            ledger,
            ..
        } = &parts;
        let prefix = prefix(&inputs.job, parts.started_ms);
        let queue = open_queue(inputs, &prefix, options, ledger.epoch()).await?;
        let fingerprint = parts.teacher.info().fingerprint;
        let (spec, policy) = (&inputs.job.spec.teacher, inputs.job.spec.budget.on_ambiguous);
        let (events, told) = mpsc::channel(DESK_EVENTS);
        let desk = Desk::new(ledger.clone(), spec, policy, parts.classes as usize, events);
        // Links that nobody takes are sent away.
        let serving = gateways.filter(|_| inputs.job.spec.queue.is_some()).map(|links| {
            let welcome = Welcome {
                job: serde_json::to_string(&inputs.job).expect("a job has only text keys"),
                digest: inputs.digest(),
                trace: parts.trace,
                queue_prefix: prefix.clone(),
                fingerprint,
                classes: parts.classes,
                seeds: (*inputs.seeds).clone(),
                evaluation: inputs.evaluation.as_deref().cloned(),
            };
            admit_gateways(links, &desk, (welcome, inputs.generated.clone()), parts.lines.clone())
        });
        let stop = CancellationToken::new();
        let gateway = match options.has_gateway {
            true => Some(tokio::spawn(attend(
                own_gateway(&parts, &queue, &desk)?,
                stop.clone(),
                desk.clone(),
            ))),
            false => None,
        };
        let asker = Asker::new(
            inputs.clone(),
            fingerprint,
            ledger.clone(),
            queue.clone(),
            parts.library,
            parts.trace,
        );
        Ok(Self {
            inputs: parts.inputs,
            asker: Arc::new(asker),
            queue,
            desk,
            told,
            stop,
            gateway,
            serving,
        })
    }

    /// What references wait in.
    pub(super) fn queue(&self) -> Arc<dyn Queue> {
        self.queue.clone()
    }

    /// Who puts query batches into the queue.
    pub(super) fn asker(&self) -> Arc<Asker> {
        self.asker.clone()
    }

    /// The next event at the desk. Cancel safe.
    ///
    /// # Errors
    /// Why nothing more is asked.
    pub(super) async fn next(&mut self) -> Result<DeskEvent, Failure> {
        tokio::select! {
            Some(event) = self.told.recv() => Ok(event),
            () = self.desk.closed() => {
                let early = || Failure::message(Kind::Internal, "the desk closed early");
                Err(self.desk.take_reason().map_or_else(early, asking_failure))
            }
        }
    }

    /// Lets nothing begin any more, and waits until requests on their way are answered and recorded.
    /// Nothing stays in Redis when the job `is_done`.
    pub(super) async fn end(self, is_done: bool) {
        self.desk.close();
        self.stop.cancel();
        if let Some(Err(error)) = settled(self.gateway).await {
            tracing::error!(%error, "the gateway panicked");
        }
        let deadline = Duration::from_secs_f64(self.inputs.job.spec.teacher.timeout_seconds) + FAREWELL;
        if tokio::time::timeout(deadline, settled(self.serving)).await.is_err() {
            tracing::warn!("gateways did not settle in time; what they had under way is in doubt");
        }
        if is_done && let Err(error) = self.queue.discard().await {
            tracing::debug!(%error, "the queue of a finished job stays");
        }
        self.queue.close();
    }
}

/// Waits for a task, if there is one.
async fn settled(task: Option<JoinHandle<()>>) -> Option<Result<(), JoinError>> {
    match task {
        Some(task) => Some(task.await),
        None => None,
    }
}

fn own_gateway(parts: &Parts<'_>, queue: &Arc<dyn Queue>, desk: &Desk) -> Result<Gateway, Failure> {
    let inputs = &parts.inputs;
    let counter = Counter::Here {
        desk: desk.clone(),
        gateway: GatewayId::draw().map_err(|error| Failure::new(Kind::Internal, error))?,
    };
    let sources = GatewaySources {
        seeds: inputs.seeds.clone(),
        evaluation: inputs.evaluation.clone(),
        generated: inputs.generated.clone(),
        pool: inputs.job.pool(inputs.plan.seeds),
        trace: parts.trace,
    };
    let (spec, policy) = (&inputs.job.spec.teacher, inputs.job.spec.budget.on_ambiguous);
    Ok(Gateway::new(
        parts.teacher.clone(),
        queue.clone(),
        counter,
        sources,
        spec,
        policy,
    ))
}

/// A gateway that panics must not leave the job waiting for its labels.
pub(crate) async fn attend(gateway: Gateway, stop: CancellationToken, desk: Desk) {
    if let Err(error) = gateway.run(stop).await {
        desk.stop(AskingStopped::Panicked(error));
    }
}

fn asking_failure(reason: AskingStopped) -> Failure {
    let kind = match &reason {
        AskingStopped::Ledger(_) => Kind::Storage,
        AskingStopped::Foreign { .. } | AskingStopped::Panicked(_) => Kind::Internal,
        AskingStopped::TeacherDown { .. }
        | AskingStopped::Rejected { .. }
        | AskingStopped::InDoubt { .. }
        | AskingStopped::Useless { .. } => Kind::Teacher,
    };
    Failure::new(kind, reason)
        .hint("mend the cause, then run the same command again: no label that was paid for is lost")
}

/// The queue that the job names; a new life of it begins with this `epoch` of the ledger.
async fn open_queue(inputs: &Inputs, prefix: &str, options: &Options, epoch: u64) -> Result<Arc<dyn Queue>, Failure> {
    match redis_config(&inputs.job, prefix, None, &options.base) {
        None if !options.has_gateway => Err(Failure::message(
            Kind::Usage,
            "gateways of other processes need a queue that they can read",
        )
        .hint("set spec.queue: redis://HOST:PORT in the job file")),
        None => Ok(Arc::new(MemoryQueue::new(QUEUE))),
        Some(config) => open_redis(config, epoch).await,
    }
}

/// Waits a little for a server that is just being started.
async fn open_redis(config: RedisConfig, epoch: u64) -> Result<Arc<dyn Queue>, Failure> {
    let begun = Instant::now();
    loop {
        match RedisQueue::open_as_dispatcher(config.clone(), epoch).await {
            Ok(queue) => return Ok(Arc::new(queue)),
            Err(QueueError::Unavailable { .. }) if begun.elapsed() < CONNECT_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(queue_failure(error)),
        }
    }
}

/// Serves gateways of other processes, where there is a queue that they can read.
fn admit_gateways(
    links: mpsc::Receiver<Connection>,
    desk: &Desk,
    (welcome, generated): (Welcome, Arc<OnceLock<ImageSet>>),
    lines: Lines,
) -> JoinHandle<()> {
    let serving = serve::serve(links, desk.clone(), welcome, generated, lines);
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "gateways cannot be welcomed");
        }
    })
}
