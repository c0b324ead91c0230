//! What a coordinator costs while thousands of workers do nothing but say so: real links over loopback, real handshakes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::json;
use stillhouse::chaos::lines::Lines;
use stillhouse::coordinate::links::{LinkEvent, Links, Welcomer};
use stillhouse::coordinate::meter::Meter;
use stillhouse::inputs::Inputs;
use stillhouse_core::trace::JobTrace;
use stillhouse_protocol::message::PROTOCOL_VERSION;
use stillhouse_protocol::{Fence, FromWorker, ToWorker, codec};
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::{self, FrameReceiver, FrameSender, Listener, Purpose, Target};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::HeartbeatsArgs;
use crate::machine::Machine;
use crate::places::{Places, quoted};
use crate::process::{Running, memory};
use crate::table::{Table, grouped, verdict};

/// Any secret will do: the processes are of one machine.
const TOKEN: &str = "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b";
/// As a worker beats.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// As a worker tells of its progress at most.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long the coordinator is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// Workers that come in at once.
const ARRIVING: usize = 128;
/// Messages are sent in so many portions a second.
const PORTIONS: u32 = 50;
/// The kernel counts processor time for programs in hundredths of a second.
const TICKS: f64 = 100.0;
/// Pairs of a shard that no worker gets done.
const SHARD: u64 = 1 << 40;

/// Measures, and publishes the table.
pub(crate) fn run(places: &Places, args: &HeartbeatsArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let job = folder.path().join("job.yaml");
    std::fs::write(&job, text(places)).context("cannot write the job")?;
    let mut coordinator = Coordinator::start(&job, args.workers)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let address = coordinator.line()?.parse().context("expected an address")?;
    let begun = Instant::now();
    let workers = runtime.block_on(gather(address, args.workers))?;
    ensure!(coordinator.line()? == "joined", "expected the workers to be welcomed");
    let joined = begun.elapsed();
    let beat = |every, what: fn(u64) -> FromWorker| (every, what);
    let quiet = coordinator.watched(&runtime, &workers, &[beat(HEARTBEAT, |_| FromWorker::Heartbeat)])?;
    let told = [beat(HEARTBEAT, |_| FromWorker::Heartbeat), beat(PROGRESS, progress)];
    let busy = coordinator.watched(&runtime, &workers, &told)?;
    let figures = Figures {
        workers: args.workers,
        joined,
        quiet,
        busy,
        memory: memory(coordinator.process.id(), "VmRSS")?,
    };
    places.publish("heartbeats", &figures.table(), &figures.json())
}

/// What was measured.
struct Figures {
    workers: u64,
    /// Until all were welcomed.
    joined: Duration,
    /// Cores used, and messages a second, while workers beat.
    quiet: (f64, f64),
    /// And while they tell of their progress as well.
    busy: (f64, f64),
    memory: u64,
}

impl Figures {
    fn table(&self) -> Table {
        let title = format!(
            "A coordinator and {} workers on loopback links",
            grouped(self.workers as f64)
        );
        let mut table = Table::new(title, ["what they send", "messages/s", "coordinator's cores"]);
        let rows = [
            ("a heartbeat every 3 s", self.quiet),
            (
                "and progress every 0.2 s, as in the first seconds of a command",
                self.busy,
            ),
        ];
        for (what, (cores, rate)) in rows {
            table.row([what.to_owned(), grouped(rate), format!("{cores:.2}")]);
        }
        let workers = grouped(self.workers as f64);
        table.note(verdict(
            &format!("{workers} workers heartbeating cost less than one core"),
            self.quiet.0 < 1.0,
        ));
        table.note(format!(
            "Processor time of the coordinator's process over {} s, by the kernel's account; the workers are one process beside \
             it, and every link is a connection of its own that was made by the handshake and welcomed. All had joined after \
             {:.1} s. The process holds {:.0} MB then.",
            WATCHED.as_secs(),
            self.joined.as_secs_f64(),
            self.memory as f64 / 1e6
        ));
        table.note(Machine::this().line());
        table
    }

    fn json(&self) -> serde_json::Value {
        let part = |(cores, rate): (f64, f64)| json!({ "cores": cores, "messagesASecond": rate });
        json!({
            "machine": Machine::this(),
            "workers": self.workers,
            "joinedSeconds": self.joined.as_secs_f64(),
            "heartbeats": part(self.quiet),
            "heartbeatsAndProgress": part(self.busy),
            "residentBytes": self.memory,
        })
    }
}

/// A job that never begins; nobody answers at the teacher's address, and nobody is asked.
fn text(places: &Places) -> String {
    let images = quoted(&places.root().join("examples/data/digits/train-images-idx3-ubyte.gz"));
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: heartbeats }}
spec:
  images:  {{ source: idx, path: {images}, take: 100 }}
  teacher: {{ protocol: open-inference, url: "http://127.0.0.1:9", model: nobody }}
  student: {{ architecture: lenet5 }}
  budget:  {{ queries: 200, perRound: 100 }}
"#
    )
}

fn progress(beat: u64) -> FromWorker {
    FromWorker::Progress {
        fence: Fence(1),
        done: beat,
        total: SHARD,
        loss: f32::NAN,
    }
}

/// The coordinator's process.
struct Coordinator {
    process: Running,
    lines: BufReader<ChildStdout>,
}

impl Coordinator {
    fn start(job: &Path, workers: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("own-heartbeats").arg(job).arg(workers.to_string());
        command
            .env("STILLHOUSE_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command)?;
        let lines = process.stdout()?;
        Ok(Self { process, lines })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Processor time so far.
    fn processor(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, which may hold anything, is in parentheses; user and system time are the 14th and 15th field.
        let (_, fields) = stat.rsplit_once(')').context("a process without a name")?;
        let ticks: Vec<f64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse().ok())
            .collect();
        ensure!(
            ticks.len() == 2,
            "expected the processor time of a process, found {stat:?}"
        );
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    /// Cores used, and messages a second sent, while all workers send each of these every so often.
    fn watched(
        &self,
        runtime: &tokio::runtime::Runtime,
        workers: &[Worker],
        beats: &[Beat],
    ) -> anyhow::Result<(f64, f64)> {
        // The first beats do not count.
        runtime.block_on(send(workers, beats, HEARTBEAT))?;
        let (processor, begun) = (self.processor()?, Instant::now());
        let sent = runtime.block_on(send(workers, beats, WATCHED))?;
        let wall = begun.elapsed().as_secs_f64();
        Ok(((self.processor()? - processor) / wall, sent as f64 / wall))
    }
}

/// How often, and what.
type Beat = (Duration, fn(u64) -> FromWorker);

/// One worker's link.
struct Worker {
    sender: FrameSender,
    /// Nothing comes, but without it the link would end.
    _receiver: FrameReceiver,
}

/// Connects all workers. Those that are there beat meanwhile, or they would be missed.
async fn gather(address: SocketAddr, count: u64) -> anyhow::Result<Vec<Worker>> {
    let secret = Secret::from_hex(TOKEN)?;
    let (mut arriving, mut workers) = (JoinSet::new(), Vec::new());
    let (mut left, mut beaten) = (count, Instant::now());
    loop {
        while left > 0 && arriving.len() < ARRIVING {
            arriving.spawn(join(address, secret.clone()));
            left -= 1;
        }
        let Some(worker) = arriving.join_next().await else {
            return Ok(workers);
        };
        workers.push(worker??);
        if beaten.elapsed() >= HEARTBEAT {
            beaten = Instant::now();
            beat_once(&workers).await?;
        }
    }
}

/// As a worker comes in.
async fn join(address: SocketAddr, secret: Secret) -> anyhow::Result<Worker> {
    let target = Target::plain(address, secret);
    let connection = link::connect(&target, Purpose::Worker, codec::MAX_MESSAGE_BYTES).await?;
    let (sender, mut receiver) = connection.split();
    let hello = FromWorker::Hello {
        version: PROTOCOL_VERSION,
        process: std::process::id(),
        started: 0,
        host: String::new(),
        ring: address,
        threads: 1,
    };
    sender.send(codec::encode(&hello)?).await?;
    let welcome = receiver.recv().await?.context("the coordinator closed the link")?;
    let ToWorker::Welcome(_) = codec::decode(&welcome)? else {
        bail!("expected a welcome");
    };
    let device = Ok("cpu".to_owned());
    sender.send(codec::encode(&FromWorker::Ready { device })?).await?;
    Ok(Worker {
        sender,
        _receiver: receiver,
    })
}

async fn beat_once(workers: &[Worker]) -> anyhow::Result<()> {
    let beat = codec::encode(&FromWorker::Heartbeat)?;
    for worker in workers {
        worker.sender.send(beat.clone()).await?;
    }
    Ok(())
}

/// Every worker sends each of `beats` every so often, not all at one moment, for `how_long`. How many messages that were.
async fn send(workers: &[Worker], beats: &[Beat], how_long: Duration) -> anyhow::Result<u64> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / PORTIONS);
    let begun = Instant::now();
    let mut sent = vec![0_u64; beats.len()];
    while begun.elapsed() < how_long {
        tick.tick().await;
        for (sent, (every, message)) in sent.iter_mut().zip(beats) {
            let rounds = begun.elapsed().as_secs_f64() / every.as_secs_f64();
            let due = (rounds * workers.len() as f64) as u64;
            while *sent < due {
                let (round, at) = (*sent / workers.len() as u64, *sent % workers.len() as u64);
                let bytes = codec::encode(&message(round))?;
                workers[at as usize].sender.send(bytes).await?;
                *sent += 1;
            }
        }
    }
    Ok(sent.iter().sum())
}

/// The coordinator's side: welcomes workers and hears them, until it is killed.
pub(crate) fn run_own(job: &Path, workers: u64) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let inputs = Inputs::load(job).map_err(|failure| anyhow!("{failure:?}"))?;
        let inputs = Arc::new(inputs);
        let mut listener = Listener::bind("127.0.0.1:0", Secret::from_env()?, |_| codec::MAX_MESSAGE_BYTES).await?;
        println!("{}", listener.local_addr()?);
        let (sender, connections) = mpsc::channel(ARRIVING);
        tokio::spawn(async move { while sender.send(listener.accept().await).await.is_ok() {} });
        let trace = JobTrace::new(&inputs.digest(), 0);
        let welcomer = Welcomer::new(inputs, trace, 10, false, Lines::default())?;
        let mut links = Links::serve(connections, welcomer);
        hear(&mut links, workers).await
    })
}

async fn hear(links: &mut Links, workers: u64) -> anyhow::Result<()> {
    let mut meter = Meter::new(workers * SHARD);
    let mut joined = 0;
    loop {
        match links.next().await {
            LinkEvent::Joined { worker, .. } => {
                meter.scan(worker, Fence(1), SHARD);
                joined += 1;
                if joined == workers {
                    println!("joined");
                }
            }
            LinkEvent::Message {
                worker,
                message: FromWorker::Progress { fence, done, total, .. },
            } => {
                let _reading = meter.progress(worker, fence, done, total);
            }
            LinkEvent::Lost { worker, cause } => bail!("worker {} was lost: {cause}", worker.0),
            other => bail!("expected progress, found {other:?}"),
        }
    }
}
