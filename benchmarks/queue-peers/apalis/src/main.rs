//! apalis-redis beside `stillhouse-bench queue`: `stillhouse-queue-peer-apalis SETTING`, a JSON object.
//!
//! Two measurements of `jobs` jobs each: bulk enqueue while nobody consumes, and enqueue with workers that wait already, to
//! the last job that Redis holds as done. The same workers do `warmUp` jobs first, and the clock starts when all of those
//! are done. Every job must be handled once. Prints one line of JSON.
//!
//! Results are persisted because apalis-redis acknowledges by persisting them: without that no job is ever done. Locks and
//! events are off, as its documentation advises for short jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use apalis::prelude::*;
use apalis_redis::{Config, ConnectionManager, RedisStorage, connect};
use serde::Deserialize;

const QUEUE: &str = "jobs";
/// How often the number of jobs done is looked up: the end is known to so much.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Setting {
    url: String,
    jobs: usize,
    warm_up: usize,
    /// Producers, each with a connection of its own.
    producers: usize,
    /// Jobs a bulk push.
    chunk: usize,
    /// Workers, each with a connection of its own.
    workers: usize,
    /// Jobs a worker fetches at once.
    batch: usize,
    /// Whether each job is a task of the runtime.
    parallel: bool,
}

type Storage = RedisStorage<String>;

/// 64 bytes that end with the job's number.
fn reference(number: usize) -> String {
    format!("{}{number:010}", "f".repeat(54))
}

/// How often each job was handled.
type Handled = Arc<Vec<AtomicU32>>;

async fn handle(reference: String, handled: Data<Handled>) -> Result<(), BoxDynError> {
    let number: usize = reference[54..].parse()?;
    handled[number].fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn storage(setting: &Setting) -> anyhow::Result<Storage> {
    let config = Config::default()
        .queue(QUEUE)
        .batch_size(setting.batch)
        .lock_tasks(false)
        .emit_events(false);
    Ok(RedisStorage::new(connect(setting.url.as_str()).await?).with_config(config))
}

/// Shares jobs between the producers; when the first of them began.
async fn enqueue(setting: &Setting, stores: &[Storage], first: usize, count: usize) -> anyhow::Result<Instant> {
    let edge = |part: usize| first + count * part / stores.len();
    let began = Instant::now();
    let parts: Vec<_> = stores
        .iter()
        .enumerate()
        .map(|(part, store)| tokio::spawn(push(store.clone(), edge(part)..edge(part + 1), setting.chunk)))
        .collect();
    for part in parts {
        part.await??;
    }
    Ok(began)
}

async fn push(mut store: Storage, numbers: std::ops::Range<usize>, chunk: usize) -> anyhow::Result<()> {
    for low in numbers.clone().step_by(chunk) {
        let tasks = (low..numbers.end.min(low + chunk)).map(reference).collect();
        store
            .push_bulk(tasks)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(())
}

fn start_workers(setting: &Setting, stores: Vec<Storage>, handled: &Handled) {
    for (number, store) in stores.into_iter().enumerate() {
        // The queue tells nobody of new jobs; an idle worker looks once a millisecond.
        let backend = store.poll_with_interval(Duration::from_millis(1));
        let builder = WorkerBuilder::new(format!("worker-{number}"))
            .backend(backend)
            .data(handled.clone());
        if setting.parallel {
            tokio::spawn(builder.parallelize(tokio::spawn).build(handle).run());
        } else {
            tokio::spawn(builder.build(handle).run());
        }
    }
}

/// Waits until Redis holds so many jobs as done; when that was.
async fn done(connection: &mut ConnectionManager, count: usize, patience: Duration) -> anyhow::Result<Instant> {
    let began = Instant::now();
    loop {
        let found: usize = redis::cmd("SCARD")
            .arg(format!("{QUEUE}:done"))
            .query_async(connection)
            .await?;
        if found >= count {
            return Ok(Instant::now());
        }
        ensure!(
            began.elapsed() < patience,
            "expected {count} jobs to be done in {patience:?}, found {found}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

async fn measure(setting: &Setting) -> anyhow::Result<serde_json::Value> {
    let patience = Duration::from_secs(60);
    let mut connection = connect(setting.url.as_str()).await?;
    let mut producers = vec![];
    for _ in 0..setting.producers {
        producers.push(storage(setting).await?);
    }
    enqueue(setting, &producers, setting.jobs, setting.warm_up).await?;
    redis::cmd("FLUSHDB").exec_async(&mut connection).await?;
    let enqueue_seconds = enqueue(setting, &producers, 0, setting.jobs)
        .await?
        .elapsed()
        .as_secs_f64();
    redis::cmd("FLUSHDB").exec_async(&mut connection).await?;

    let handled: Handled = Arc::new((0..setting.jobs + setting.warm_up).map(|_| AtomicU32::new(0)).collect());
    let mut workers = vec![];
    for _ in 0..setting.workers {
        workers.push(storage(setting).await?);
    }
    start_workers(setting, workers, &handled);
    enqueue(setting, &producers, setting.jobs, setting.warm_up).await?;
    done(&mut connection, setting.warm_up, patience)
        .await
        .context("warm-up")?;
    let began = enqueue(setting, &producers, 0, setting.jobs).await?;
    let ended = done(&mut connection, setting.warm_up + setting.jobs, patience).await?;
    let once = handled.iter().all(|count| count.load(Ordering::Relaxed) == 1);
    Ok(serde_json::json!({
        "jobs": setting.jobs,
        "enqueue_seconds": enqueue_seconds,
        "total_seconds": (ended - began).as_secs_f64(),
        "delivered_once": once,
    }))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let text = std::env::args().nth(1).context("expected a setting, a JSON object")?;
    println!("{}", measure(&serde_json::from_str(&text)?).await?);
    Ok(())
}
