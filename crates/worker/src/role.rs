//! The worker's role: an async link to the coordinator, and a thread of its own that computes. No
//! tensor is touched in async code, and the link answers while the thread is busy.
//!
//! The link may be lost and made again: what the computing thread holds (images, weights, a training
//! under way) stays, and a coordinator of the same job that comes back finds it as it left it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use anyhow::{Context, bail};
use nccl_rs::log::Level;
use stillhouse_collective::{Card, RingListener, Seal};
use stillhouse_protocol::message::{Command, PROTOCOL_VERSION, Welcome};
use stillhouse_protocol::{Fence, FromWorker, ToWorker, codec};
use stillhouse_runtime::link::{self, Connection, FrameReceiver, FrameSender, Purpose, Target};
use stillhouse_runtime::process::Identity;
use stillhouse_runtime::signals::Shutdown;
use stillhouse_runtime::{Secret, signals};
use stillhouse_student::device::{self, Wanted};
use tch::Device;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cli::WorkerArgs;
use crate::computer::{Computer, Site};
use crate::control::Control;

/// A coordinator counts a worker as lost after several of these.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Messages to the coordinator that wait for the link: a report and some progress.
const OUTBOX: usize = 32;
/// Pauses between attempts to reach a coordinator: short at first, and never so long that a worker
/// stands idle once the coordinator is back.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// How a link ended.
enum Ended {
    /// The coordinator said leave, or a signal did.
    InPeace,
    /// It may be made again.
    Lost(anyhow::Error),
}

/// Computes for a coordinator until it says leave.
///
/// # Errors
/// When the coordinator refuses this worker; with `--once` also when the link cannot be made or is lost.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    // Before any thread, as the next line.
    let log = nccl_rs::log::Log::divert().context("cannot take NCCL's log")?;
    let device = device::open(args.device, args.local_rank.into())?;
    log.read(hear).context("cannot read NCCL's log")?;
    let secret = Secret::from_env().context("the job's secret (STILLHOUSE_TOKEN or STILLHOUSE_TOKEN_FILE)")?;
    let coordinator = args.tls.target(&args.coordinator, secret.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the link's runtime")?;
    let _traces = stillhouse_trace::begin("worker")?;
    let shutdown = {
        let _inside = runtime.enter();
        signals::install().context("cannot listen for signals")?
    };
    if let Some(address) = args.metrics_listen {
        let card = Arc::new(crate::card::Card::of(device));
        let refresh = move || {
            let card = card.clone();
            async move { card.iter().for_each(crate::card::Card::measure) }
        };
        let served = stillhouse_metrics::serve::serve(address, "worker", refresh, shutdown.drain.clone());
        runtime.block_on(served)?;
    }
    let metrics = stillhouse_metrics::worker();
    metrics.device_info.with_label_values(&[&device::kind(device)]).set(1.0);
    let Some(mut connection) = runtime.block_on(reach(args, &coordinator, &shutdown))? else {
        return Ok(());
    };
    let host = args.ring_address.map_or_else(|| local_address(&connection), Ok)?;
    let site = Site {
        ring: Arc::new(RingListener::bind((host, args.ring_port)).context("cannot listen for the other ranks")?),
        threads: args.threads.map_or_else(cores, |threads| threads as usize),
        secret,
        device,
        is_told: args.device != Wanted::Auto,
        card: open_card(device),
        seal: Seal::new()?,
    };
    tracing::info!(device = device::kind(device), "computes here");
    let mut computer = None;
    loop {
        metrics.connected.set(1.0);
        let ended = serve(&runtime, connection, &site, &mut computer, &shutdown)?;
        metrics.connected.set(0.0);
        metrics.links_lost.inc_by(u64::from(matches!(ended, Ended::Lost(_))));
        match ended {
            Ended::InPeace => return Ok(()),
            Ended::Lost(error) if args.once => return Err(error),
            Ended::Lost(error) => tracing::warn!(cause = format!("{error:#}"), "lost the coordinator"),
        }
        connection = match runtime.block_on(reach(args, &coordinator, &shutdown))? {
            Some(connection) => connection,
            None => return Ok(()),
        };
    }
}

/// Takes a line of NCCL's own log.
fn hear(level: Level, line: &str) {
    match level {
        Level::Warn => tracing::warn!(line, "NCCL says"),
        Level::Info => tracing::info!(line, "NCCL says"),
    }
}

/// What NCCL needs of the card, where there is one; without it gradients go through the hosts' memory.
fn open_card(device: Device) -> Option<Card> {
    let Device::Cuda(index) = device else { return None };
    let index = i32::try_from(index).ok()?;
    match Card::open(index) {
        Ok(card) => Some(card),
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(reason, "no NCCL here");
            None
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Makes a link, sooner or later; `None` when a signal came first.
async fn reach(args: &WorkerArgs, target: &Target, shutdown: &Shutdown) -> anyhow::Result<Option<Connection>> {
    let coordinator = &target.address;
    let [mut pause, longest] = PAUSES;
    let mut is_told = false;
    loop {
        let connected = link::connect(target, Purpose::Worker, codec::MAX_MESSAGE_BYTES).await;
        let error = match connected {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => error,
        };
        let is_final = args.once || error.is_final();
        let error = anyhow::Error::new(error).context(format!("cannot reach the coordinator at {coordinator}"));
        if is_final {
            return Err(error);
        }
        if !is_told {
            tracing::info!(cause = format!("{error:#}"), "waiting for the coordinator");
            is_told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.drain.cancelled() => return Ok(None),
        }
        pause = (pause * 2).min(longest);
    }
}

/// The address under which this host reaches the coordinator: other ranks reach it there too.
fn local_address(connection: &Connection) -> anyhow::Result<IpAddr> {
    Ok(connection.local().context("the link has no address")?.ip())
}

/// One link, from hello to its end.
fn serve(
    runtime: &Runtime,
    connection: Connection,
    site: &Site,
    kept: &mut Option<Computer>,
    shutdown: &Shutdown,
) -> anyhow::Result<Ended> {
    let (sender, mut receiver) = connection.split();
    let welcome = match runtime.block_on(greet(&sender, &mut receiver, site)) {
        Ok(Ok(welcome)) => welcome,
        Ok(Err(reason)) => bail!("the coordinator refused this worker: {reason}"),
        Err(error) => return Ok(Ended::Lost(error)),
    };
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let (orders, incoming) = blocking::channel();
    let control = Control::default();
    let link = runtime.spawn(exchange(
        sender,
        receiver,
        orders,
        outgoing,
        control.clone(),
        shutdown.clone(),
    ));
    let computer = Computer::welcomed(kept.take(), welcome, site.clone(), control, outbox)?;
    let computer = kept.insert(computer);
    computer.introduce();
    while let Ok((fence, command)) = incoming.recv() {
        computer.obey(fence, command);
    }
    match runtime.block_on(link).context("the link stopped")? {
        Ok(None) => Ok(Ended::InPeace),
        Ok(Some(reason)) => bail!("the coordinator refused this worker: {reason}"),
        Err(error) => Ok(Ended::Lost(error)),
    }
}

/// Says hello; the answer is a welcome, or why there is none.
async fn greet(
    sender: &FrameSender,
    receiver: &mut FrameReceiver,
    site: &Site,
) -> anyhow::Result<Result<Welcome, String>> {
    // Where the system tells nothing of processes, nobody can be mistaken for this one either.
    let (started, host) = Identity::own().map_or_else(|_| (0, String::new()), |own| (own.started, own.host));
    let hello = FromWorker::Hello {
        version: PROTOCOL_VERSION,
        process: std::process::id(),
        started,
        host,
        ring: site.ring.local_addr()?,
        threads: u32::try_from(site.threads).unwrap_or(u32::MAX),
    };
    sender.send(codec::encode(&hello)?).await?;
    let frame = receiver.recv().await?.context("the coordinator closed the link")?;
    match codec::decode::<ToWorker>(&frame)? {
        ToWorker::Welcome(welcome) => Ok(Ok(*welcome)),
        ToWorker::Refused { reason } => Ok(Err(reason)),
        ToWorker::Command { .. } | ToWorker::Leave => bail!("expected a welcome first"),
    }
}

/// Moves messages both ways until the coordinator says leave, refuses this worker after all (that is
/// why), or is gone. Ending drops `orders`,
/// which ends the computing thread's part.
async fn exchange(
    sender: FrameSender,
    mut receiver: FrameReceiver,
    orders: blocking::Sender<(Fence, Command)>,
    mut outgoing: mpsc::Receiver<FromWorker>,
    control: Control,
    shutdown: Shutdown,
) -> anyhow::Result<Option<String>> {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let outcome = loop {
        tokio::select! {
            frame = receiver.recv() => match frame {
                Ok(Some(frame)) => match codec::decode::<ToWorker>(&frame) {
                    Ok(ToWorker::Command { fence, command }) => {
                        control.arrived(fence);
                        if orders.send((fence, command)).is_err() {
                            break Ok(None);
                        }
                    }
                    Ok(ToWorker::Leave) => break Ok(None),
                    Ok(ToWorker::Refused { reason }) => break Ok(Some(reason)),
                    Ok(ToWorker::Welcome(_)) => break Err(anyhow::anyhow!("a second welcome")),
                    Err(error) => break Err(error.into()),
                },
                Ok(None) => break Err(anyhow::anyhow!("the coordinator closed the link")),
                Err(error) => break Err(error.into()),
            },
            Some(message) = outgoing.recv() => {
                if let Err(error) = tell(&sender, &message).await {
                    break Err(error);
                }
            }
            _ = heartbeat.tick() => {
                if let Err(error) = tell(&sender, &FromWorker::Heartbeat).await {
                    break Err(error);
                }
            }
            () = shutdown.drain.cancelled() => break Ok(None),
        }
    };
    // Whatever is being computed is of no use any more.
    control.arrived(Fence(u64::MAX));
    outcome
}

async fn tell(sender: &FrameSender, message: &FromWorker) -> anyhow::Result<()> {
    Ok(sender.send(codec::encode(message)?).await?)
}
