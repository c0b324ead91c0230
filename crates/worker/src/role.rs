//! The worker's role: an async link to the coordinator, and a thread of its own that computes. No
//! tensor is touched in async code, and the link answers while the thread is busy.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc as blocking;
use std::time::Duration;

use anyhow::{Context, bail};
use stillhouse_collective::RingListener;
use stillhouse_protocol::message::{Command, PROTOCOL_VERSION, Welcome};
use stillhouse_protocol::{Fence, FromWorker, ToWorker, codec};
use stillhouse_runtime::link::{self, FrameReceiver, FrameSender};
use stillhouse_runtime::{Secret, signals};
use tokio::sync::mpsc;

use crate::cli::WorkerArgs;
use crate::computer::Computer;
use crate::control::Control;

/// A coordinator counts a worker as lost after several of these.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages to the coordinator that wait for the link: a report and some progress.
const OUTBOX: usize = 32;

/// Computes for a coordinator until it says leave.
///
/// # Errors
/// When the link cannot be made or is lost.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    let secret = Secret::from_env().context("the job's secret (STILLHOUSE_TOKEN or STILLHOUSE_TOKEN_FILE)")?;
    let threads = args.threads.map_or_else(cores, |threads| threads as usize);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the link's runtime")?;
    let connection = runtime
        .block_on(link::connect(args.coordinator, &secret, codec::MAX_MESSAGE_BYTES))
        .with_context(|| format!("cannot reach the coordinator at {}", args.coordinator))?;
    let host = local_address(args.coordinator)?;
    let ring = RingListener::bind((host, 0)).context("cannot listen for the other ranks")?;
    let (sender, mut receiver) = connection.split();
    let welcome = runtime.block_on(greet(&sender, &mut receiver, ring.local_addr()?, threads))?;
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let (orders, incoming) = blocking::channel();
    let control = Control::default();
    let link = runtime.spawn(exchange(sender, receiver, orders, outgoing, control.clone()));
    let mut computer = Computer::new(welcome, ring, secret, threads, control, outbox)?;
    computer.introduce();
    while let Ok((fence, command)) = incoming.recv() {
        computer.obey(fence, command);
    }
    runtime.block_on(link).context("the link stopped")?
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The address under which this host reaches the coordinator: other ranks reach it there too.
fn local_address(coordinator: SocketAddr) -> anyhow::Result<IpAddr> {
    // Connecting a datagram socket sends nothing; it asks the system for a route.
    let any: SocketAddr = if coordinator.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = std::net::UdpSocket::bind(any).context("cannot find out this host's address")?;
    socket.connect(coordinator).context("no route to the coordinator")?;
    Ok(socket.local_addr().context("no address")?.ip())
}

async fn greet(
    sender: &FrameSender,
    receiver: &mut FrameReceiver,
    ring: SocketAddr,
    threads: usize,
) -> anyhow::Result<Welcome> {
    let hello = FromWorker::Hello {
        version: PROTOCOL_VERSION,
        process: std::process::id(),
        ring,
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
    };
    sender.send(codec::encode(&hello)?).await?;
    let frame = receiver.recv().await?.context("the coordinator closed the link")?;
    match codec::decode::<ToWorker>(&frame)? {
        ToWorker::Welcome(welcome) => Ok(*welcome),
        ToWorker::Command { .. } | ToWorker::Leave => bail!("expected a welcome first"),
    }
}

/// Moves messages both ways until the coordinator says leave or is gone. Ending drops `orders`,
/// which ends the computing thread.
async fn exchange(
    sender: FrameSender,
    mut receiver: FrameReceiver,
    orders: blocking::Sender<(Fence, Command)>,
    mut outgoing: mpsc::Receiver<FromWorker>,
    control: Control,
) -> anyhow::Result<()> {
    let shutdown = signals::install().context("cannot listen for signals")?;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let outcome = loop {
        tokio::select! {
            frame = receiver.recv() => match frame {
                Ok(Some(frame)) => match codec::decode::<ToWorker>(&frame)? {
                    ToWorker::Command { fence, command } => {
                        control.arrived(fence);
                        if orders.send((fence, command)).is_err() {
                            break Ok(());
                        }
                    }
                    ToWorker::Leave => break Ok(()),
                    ToWorker::Welcome(_) => break Err(anyhow::anyhow!("a second welcome")),
                },
                Ok(None) => break Err(anyhow::anyhow!("the coordinator closed the link")),
                Err(error) => break Err(error.into()),
            },
            Some(message) = outgoing.recv() => {
                if let Err(error) = sender.send(codec::encode(&message)?).await {
                    break Err(error.into());
                }
            }
            _ = heartbeat.tick() => {
                if let Err(error) = sender.send(codec::encode(&FromWorker::Heartbeat)?).await {
                    break Err(error.into());
                }
            }
            () = shutdown.drain.cancelled() => break Ok(()),
        }
    };
    // Whatever is being computed is of no use any more.
    control.arrived(Fence(u64::MAX));
    outcome
}
