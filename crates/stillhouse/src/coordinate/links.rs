//! The coordinator's ends of the links to workers: accept, welcome, forward, notice silence.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use stillhouse_core::job::Determinism;
use stillhouse_core::trace::JobTrace;
use stillhouse_protocol::codec::CodecError;
use stillhouse_protocol::message::{EvaluationData, PROTOCOL_VERSION, Welcome};
use stillhouse_protocol::{FromWorker, ToWorker, WorkerId, codec};
use stillhouse_runtime::link::{Connection, FrameReceiver, FrameSender};
use stillhouse_runtime::process::{Identity, MAX_HOST_BYTES};
use tokio::sync::mpsc;

use crate::chaos::lines::Lines;
use crate::inputs::Inputs;

/// A worker beats every few seconds; one silent for so long is stopped, cut off or overloaded
/// beyond use. One that is killed is missed at once, by its closed connection.
const SILENCE: Duration = Duration::from_secs(15);
/// How long the welcome, which carries the images, may take to arrive and be answered.
const WELCOME: Duration = Duration::from_secs(120);
/// A connection says hello at once or is no worker.
const HELLO: Duration = Duration::from_secs(10);
/// Commands queued for one worker. It gets one at a time, with at most one load before it and one
/// that replaces it; more means that it does not read.
const COMMANDS: usize = 8;
/// Messages from all workers that wait for the coordinator. Progress is droppable in spirit, but a
/// full channel just slows the reader down, which slows the worker's progress reports.
const MESSAGES: usize = 1_024;

/// Something that came over a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A worker was welcomed and can build the student.
    Joined {
        /// Its name from now on.
        worker: WorkerId,
        /// Where its ring listens.
        ring: SocketAddr,
        /// Its process.
        process: Identity,
        /// Threads it computes with.
        threads: u32,
        /// Kind of device it computes on.
        device: String,
    },
    /// A worker cannot build the student.
    Unfit {
        /// Why.
        obstacle: String,
    },
    /// A message.
    Message {
        /// From whom.
        worker: WorkerId,
        /// What.
        message: FromWorker,
    },
    /// A link closed or fell silent.
    Lost {
        /// Whose.
        worker: WorkerId,
        /// Why.
        cause: String,
    },
}

/// All workers' links.
pub struct Links {
    senders: HashMap<WorkerId, mpsc::Sender<Bytes>>,
    events: mpsc::Receiver<(LinkEvent, Option<mpsc::Sender<Bytes>>)>,
}

impl Links {
    /// Starts welcoming workers whose links come from `workers`.
    #[must_use]
    pub fn serve(workers: mpsc::Receiver<Connection>, welcome: Welcomer) -> Self {
        let (sender, events) = mpsc::channel(MESSAGES);
        tokio::spawn(accept(workers, Arc::new(welcome), sender));
        Self {
            senders: HashMap::new(),
            events,
        }
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> LinkEvent {
        let (event, sender) = self
            .events
            .recv()
            .await
            .expect("the accepting task lives as long as this");
        match (&event, sender) {
            (LinkEvent::Joined { worker, .. }, Some(sender)) => {
                self.senders.insert(*worker, sender);
            }
            (LinkEvent::Lost { worker, .. }, _) => {
                self.senders.remove(worker);
            }
            _ => {}
        }
        event
    }

    /// Sends a message; a worker that does not take it will be reported lost.
    pub fn send(&mut self, worker: WorkerId, message: &ToWorker) {
        match codec::encode(message) {
            Ok(bytes) => self.send_encoded(worker, bytes.into()),
            Err(error) => {
                tracing::error!(?worker, %error, "a message is too long to send");
                self.senders.remove(&worker);
            }
        }
    }

    /// Sends what [`codec::encode`] made of a message; many workers may be sent the same bytes.
    pub fn send_encoded(&mut self, worker: WorkerId, bytes: Bytes) {
        stillhouse_metrics::coordinator().link_sent.inc_by(bytes.len() as u64);
        if self
            .senders
            .get(&worker)
            .is_some_and(|sender| sender.try_send(bytes).is_err())
        {
            // Dropping the sender ends the link, and its reader reports the loss.
            self.senders.remove(&worker);
        }
    }

    /// Asks every worker to leave.
    pub fn dismiss(&mut self) {
        let workers: Vec<WorkerId> = self.senders.keys().copied().collect();
        workers
            .into_iter()
            .for_each(|worker| self.send(worker, &ToWorker::Leave));
    }
}

/// Says to each worker what the job is.
pub struct Welcomer {
    /// The same for all workers, who may come by the thousand.
    greeting: Bytes,
    inputs: Arc<Inputs>,
    lines: Lines,
    /// Kinds of device of the workers that are there.
    devices: Mutex<HashMap<WorkerId, String>>,
}

impl Welcomer {
    /// For a job whose teacher knows `classes` classes; links of workers are entered in `lines`. What goes between workers is
    /// under TLS where links are.
    ///
    /// # Errors
    /// When the images are more than one message can hold.
    pub fn new(
        inputs: Arc<Inputs>,
        trace: JobTrace,
        classes: u32,
        is_under_tls: bool,
        lines: Lines,
    ) -> Result<Self, CodecError> {
        let evaluation = inputs.evaluation.as_deref().map(|images| EvaluationData {
            images: images.clone(),
            labels: inputs.evaluation_labels.clone(),
        });
        let welcome = ToWorker::Welcome(Box::new(Welcome {
            job: serde_json::to_string(&inputs.job).expect("a job has only text keys"),
            trace,
            classes,
            module: inputs.module.to_vec(),
            seeds: (*inputs.seeds).clone(),
            evaluation,
            is_ring_sealed: is_under_tls,
        }));
        Ok(Self {
            greeting: codec::encode(&welcome)?.into(),
            inputs,
            lines,
            devices: Mutex::default(),
        })
    }

    /// Notes that a worker with this kind of device is there, until [`left`](Self::left). Refuses one
    /// whose bits would differ from the others', where the job promises that they do not.
    fn admit(&self, worker: WorkerId, device: &str) -> Result<(), String> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let is_strict = self.inputs.job.spec.training.determinism == Determinism::Strict;
        match devices.values().find(|other| is_strict && *other != device) {
            Some(other) => Err(format!(
                "this job's workers compute on {other}, this one on {device}, which gives other bits: start it on an \
                 equal device, or set spec.training.determinism to fast"
            )),
            None => {
                devices.insert(worker, device.to_owned());
                Ok(())
            }
        }
    }

    fn left(&self, worker: WorkerId) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.remove(&worker);
    }
}

type Events = mpsc::Sender<(LinkEvent, Option<mpsc::Sender<Bytes>>)>;

async fn accept(mut workers: mpsc::Receiver<Connection>, welcome: Arc<Welcomer>, events: Events) {
    for id in 0.. {
        let Some(connection) = workers.recv().await else {
            // The events must not end before the coordinator does.
            return events.closed().await;
        };
        tokio::spawn(serve(WorkerId(id), connection, welcome.clone(), events.clone()));
    }
}

/// One link, from hello to loss.
async fn serve(worker: WorkerId, connection: Connection, welcome: Arc<Welcomer>, events: Events) {
    let (peer, reins) = (connection.peer(), connection.reins());
    let (sender, mut receiver) = connection.split();
    let (ring, process, threads) = match hello(&mut receiver).await {
        Ok(hello) => hello,
        Err(reason) => {
            tracing::warn!(%peer, reason, "a worker was refused");
            return refuse(&sender, reason).await;
        }
    };
    let (commands, mut queued) = mpsc::channel::<Bytes>(COMMANDS);
    let greeting = welcome.greeting.clone();
    let writer = tokio::spawn(async move {
        if sender.send(greeting).await.is_err() {
            return;
        }
        while let Some(bytes) = queued.recv().await {
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    let device = match ready(&mut receiver).await {
        Ok(Ok(device)) => device,
        Ok(Err(obstacle)) => {
            // The coordinator may be gone already.
            return drop(events.send((LinkEvent::Unfit { obstacle }, None)).await);
        }
        Err(cause) => return tracing::warn!(worker = worker.0, cause, "a worker never became ready"),
    };
    if let Err(reason) = welcome.admit(worker, &device) {
        stillhouse_metrics::coordinator().workers_refused.inc();
        tracing::warn!(%peer, reason, "a worker was refused");
        if let Ok(refusal) = codec::encode(&ToWorker::Refused { reason }) {
            // It may be gone already.
            let _ = commands.send(refusal.into()).await;
        }
        drop(commands);
        let _ = writer.await;
        return;
    }
    welcome.lines.enter(format!("worker {}", worker.0), reins);
    let joined = LinkEvent::Joined {
        worker,
        ring,
        process,
        threads,
        device,
    };
    if events.send((joined, Some(commands))).await.is_err() {
        return;
    }
    let cause = tokio::select! {
        cause = read(worker, &mut receiver, &events) => cause,
        _ = writer => "it takes no more commands".to_owned(),
    };
    welcome.left(worker);
    // The coordinator may be gone already.
    let _ = events.send((LinkEvent::Lost { worker, cause }, None)).await;
}

/// Tells a worker why it is of no use here, so that it does not try again.
async fn refuse(sender: &FrameSender, reason: String) {
    stillhouse_metrics::coordinator().workers_refused.inc();
    if let Ok(refusal) = codec::encode(&ToWorker::Refused { reason }) {
        // It may be gone already.
        let _ = sender.send(refusal).await;
        let _ = sender.flush().await;
    }
}

async fn hello(receiver: &mut FrameReceiver) -> Result<(SocketAddr, Identity, u32), String> {
    let frame = tokio::time::timeout(HELLO, receiver.recv()).await;
    let frame = frame
        .map_err(|_| "no hello in time")?
        .map_err(|error| error.to_string())?;
    let frame = frame.ok_or("the link closed before a hello")?;
    match codec::decode::<FromWorker>(&frame).map_err(|error| error.to_string())? {
        FromWorker::Hello {
            version: PROTOCOL_VERSION,
            host,
            ..
        } if host.len() > MAX_HOST_BYTES => Err(format!("expected a host of at most {MAX_HOST_BYTES} bytes")),
        FromWorker::Hello {
            version: PROTOCOL_VERSION,
            process,
            started,
            host,
            ring,
            threads,
        } => {
            let identity = Identity { process, started, host };
            Ok((ring, identity, threads))
        }
        FromWorker::Hello { version, .. } => {
            Err(format!("expected protocol version {PROTOCOL_VERSION}, found {version}"))
        }
        FromWorker::Ready { .. }
        | FromWorker::Heartbeat
        | FromWorker::Progress { .. }
        | FromWorker::Checkpoint { .. }
        | FromWorker::Report { .. } => Err("expected a hello".into()),
    }
}

/// Longest name of a kind of device.
const DEVICE_BYTES: usize = 64;

/// Waits until the worker has built the student and says on what device, or why it cannot.
async fn ready(receiver: &mut FrameReceiver) -> Result<Result<String, String>, String> {
    loop {
        let frame = tokio::time::timeout(WELCOME, receiver.recv()).await;
        let frame = frame
            .map_err(|_| format!("it was silent for {} s", WELCOME.as_secs()))?
            .map_err(|error| error.to_string())?;
        let frame = frame.ok_or("the link closed before it was ready")?;
        match codec::decode::<FromWorker>(&frame).map_err(|error| error.to_string())? {
            FromWorker::Heartbeat => {}
            FromWorker::Ready { device: Ok(device) } if device.len() > DEVICE_BYTES => {
                return Err(format!("expected a device of at most {DEVICE_BYTES} bytes"));
            }
            FromWorker::Ready { device } => return Ok(device),
            FromWorker::Hello { .. }
            | FromWorker::Progress { .. }
            | FromWorker::Checkpoint { .. }
            | FromWorker::Report { .. } => {
                return Err("expected to hear whether it is ready".into());
            }
        }
    }
}

/// Forwards messages until the link ends; says why it did.
async fn read(worker: WorkerId, receiver: &mut FrameReceiver, events: &Events) -> String {
    loop {
        let frame = match tokio::time::timeout(SILENCE, receiver.recv()).await {
            Err(_) => return format!("it was silent for {} s", SILENCE.as_secs()),
            Ok(Err(error)) => return error.to_string(),
            Ok(Ok(None)) => return "it closed the link".into(),
            Ok(Ok(Some(frame))) => frame,
        };
        let metrics = stillhouse_metrics::coordinator();
        metrics.link_received.inc_by(frame.len() as u64);
        match codec::decode::<FromWorker>(&frame) {
            Ok(FromWorker::Heartbeat) => metrics.heartbeats.inc(),
            Ok(message) => {
                if events
                    .send((LinkEvent::Message { worker, message }, None))
                    .await
                    .is_err()
                {
                    return "the coordinator is gone".into();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}
