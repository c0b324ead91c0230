//! What a crash costs: a coordinator killed, and Redis wiped, with a million queries outstanding.
//!
//! One process fills ledger and queue, and is killed. Another opens the ledger, begins a new life of the queue and
//! dispatches, until a consumer holds the first references; goes on until all are outstanding again; then Redis is wiped,
//! and it finds that out, reads what is outstanding from the ledger and fills the queue anew.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stillhouse::coordinate::asking::reference;
use stillhouse_queue::{Queue, QueueError, RedisQueue};

use crate::cli::Persistence;
use crate::places::Places;
use crate::queue::contestants::Contestant;
use crate::queue::ours::{Dispatcher, Setting, request};
use crate::queue::rates::Amount;
use crate::queue::server::Server;

/// Queries outstanding.
const OUTSTANDING: u32 = 1_000_000;
/// Name of ledger and queue.
const NAME: &str = "recovery";

/// Seconds of one repetition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recovery {
    /// From the start of the second process to the first references in a consumer's hands.
    pub(crate) first_dispatch: f64,
    /// Of that, opening the ledger.
    pub(crate) ledger: f64,
    /// From the start of the second process to everything outstanding again.
    pub(crate) all_dispatched: f64,
    /// From the wiping of Redis to everything in it again.
    pub(crate) rebuilt: f64,
}

/// All repetitions under one persistence.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recoveries {
    /// What Redis keeps.
    pub(crate) persistence: Persistence,
    /// Queries outstanding.
    pub(crate) outstanding: u32,
    /// A repetition each.
    pub(crate) runs: Vec<Recovery>,
}

/// Measures everything under `persistence`.
pub(crate) fn measure(places: &Places, persistence: Persistence, amount: Amount) -> anyhow::Result<Recoveries> {
    let outstanding = OUTSTANDING / amount.part;
    let mut runs = vec![];
    for _ in 0..amount.repetitions {
        let run = once(places, persistence, outstanding)?;
        eprintln!(
            "{outstanding} outstanding, {persistence}: first dispatch after {:.2} s, all after {:.2} s, Redis rebuilt in {:.2} s",
            run.first_dispatch, run.all_dispatched, run.rebuilt
        );
        runs.push(run);
    }
    Ok(Recoveries {
        persistence,
        outstanding,
        runs,
    })
}

fn once(places: &Places, persistence: Persistence, outstanding: u32) -> anyhow::Result<Recovery> {
    let work = places.work()?;
    let server = Server::start(persistence, &work)?;
    let scratch = tempfile::TempDir::with_prefix_in("queue-", &work).context("no folder for a run")?;
    let own = json!({ "chunk": 8_192, "inFlight": 3, "block": 64, "gateways": 1, "consumers": 1, "batch": 64 });
    let argument = Contestant::argument(&own, outstanding, &server.url(), scratch.path());
    let start = |role: &str| Stage::start(places.own_queue(role)?.arg(argument.to_string()));

    let mut filler = start("fill")?;
    filler.wait_for("filled")?;
    drop(filler);
    let began = Instant::now();
    let mut successor = start("recover")?;
    let ledger = successor.wait_for("dispatched")?["ledger"]
        .as_f64()
        .context("no time of the ledger")?;
    let first_dispatch = began.elapsed().as_secs_f64();
    successor.wait_for("filled")?;
    let all_dispatched = began.elapsed().as_secs_f64();
    server.wipe()?;
    let wiped = Instant::now();
    successor.tell()?;
    successor.wait_for("rebuilt")?;
    let rebuilt = wiped.elapsed().as_secs_f64();
    Ok(Recovery {
        first_dispatch,
        ledger,
        all_dispatched,
        rebuilt,
    })
}

/// A process that says how far it is, a line of JSON with `stage` each; killed when dropped.
struct Stage {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Stage {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a part of the benchmark")?;
        let says = BufReader::new(child.stdout.take().expect("it is piped"));
        let hears = child.stdin.take().expect("it is piped");
        Ok(Self { child, says, hears })
    }

    /// Waits until it says that it reached `stage`; what else it says there.
    fn wait_for(&mut self, stage: &str) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("expected {stage}, found {line:?}"))?;
        ensure!(said["stage"] == stage, "expected {stage}, found {line}");
        Ok(said)
    }

    /// Lets it go on.
    fn tell(&mut self) -> anyhow::Result<()> {
        self.hears
            .write_all(b"\n")
            .context("cannot speak to a part of the benchmark")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SIGKILL, as a crash would; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(stage: &str, ledger_seconds: f64) {
    println!("{}", json!({ "stage": stage, "ledger": ledger_seconds }));
}

/// The process that is killed: fills ledger and queue, and waits.
pub(crate) fn fill(setting: &str) -> anyhow::Result<()> {
    let setting: Setting = serde_json::from_str(setting)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let dispatcher = Dispatcher::open(&setting, NAME, Arc::new(request)).await?;
        dispatcher.enqueue(&setting, 0..setting.jobs).await?;
        say("filled", 0.0);
        std::future::pending().await
    })
}

/// Its successor.
pub(crate) fn recover(setting: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    let setting: Setting = serde_json::from_str(setting)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let dispatcher = Dispatcher::open(&setting, NAME, Arc::new(request)).await?;
        let ledger = began.elapsed().as_secs_f64();
        let consumer = RedisQueue::open(setting.config(NAME)).await?;
        let first = setting.batch as u32;
        dispatcher.dispatch(0..first).await?;
        let leases = consumer.lease(setting.batch).await?;
        ensure!(!leases.is_empty(), "a lease is of something");
        say("dispatched", ledger);
        dispatcher.enqueue(&setting, first..setting.jobs).await?;
        say("filled", ledger);
        std::io::stdin().lock().read_line(&mut String::new())?;
        rebuild(&dispatcher, setting.jobs).await?;
        say("rebuilt", ledger);
        Ok(())
    })
}

/// Finds that Redis lost everything, and fills it from the ledger.
async fn rebuild(dispatcher: &Dispatcher, outstanding: u32) -> anyhow::Result<()> {
    match dispatcher.queue.depth().await {
        Err(QueueError::Lost) => {}
        other => bail!("expected a queue that lost its content, found {other:?}"),
    }
    dispatcher.queue.restart().await?;
    let waiting = dispatcher.ledger.outstanding().await?;
    let references = waiting
        .into_iter()
        .map(|(permit, sample, arm)| reference(&permit, sample, arm, 1));
    dispatcher.queue.push(references.collect()).await?;
    let found = dispatcher.queue.depth().await?;
    ensure!(
        found == outstanding as usize,
        "expected {outstanding} references in the queue, found {found}"
    );
    Ok(())
}
