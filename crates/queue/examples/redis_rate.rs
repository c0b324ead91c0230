//! How many references a second a Redis server moves: `redis_rate URL [REFERENCES]`.
//!
//! For each block size one dispatcher pushes, then one consumer, in one or several tasks, leases and acknowledges, so the two
//! do not share the time. The clock runs from the first call to the last answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Context;
use stillhouse_queue::conformance::{ids, references};
use stillhouse_queue::{Queue, QueueError, RedisConfig, RedisQueue};
use tokio::task::JoinSet;

/// References a block.
const BLOCKS: [usize; 4] = [1, 16, 64, 256];
/// References unless the command line says how many.
const REFERENCES: u32 = 500_000;
/// References a lease, what a gateway asks for at once; and how many of its connections do so.
const LEASES: [(usize, u32); 3] = [(64, 1), (64, 8), (1_024, 1)];

/// What the server does so that its content survives.
async fn persistence(url: &str) -> anyhow::Result<String> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut setting = async |name: &str| -> anyhow::Result<String> {
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(name);
        let (_, value): (String, String) = get.query_async(&mut connection).await?;
        Ok(value)
    };
    let (appendonly, appendfsync) = (setting("appendonly").await?, setting("appendfsync").await?);
    Ok(format!(
        "appendonly {appendonly}, appendfsync {appendfsync}, save '{}'",
        setting("save").await?
    ))
}

/// References a second.
fn rate(count: u32, begun: Instant) -> f64 {
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// Leases and acknowledges until `count` references came to this caller and others.
async fn consume(consumer: &RedisQueue, lease: usize, taken: &AtomicU32, count: u32) -> anyhow::Result<()> {
    while taken.load(Ordering::Relaxed) < count {
        let leases = match consumer.lease(lease).await {
            Err(QueueError::Closed) => break,
            leases => leases?,
        };
        consumer.ack(&ids(&leases)).await?;
        let some = u32::try_from(leases.len())?;
        if taken.fetch_add(some, Ordering::Relaxed) + some >= count {
            // The others wait for what will not come.
            consumer.close();
        }
    }
    Ok(())
}

async fn measure(url: &str, block: usize, (lease, tasks): (usize, u32), count: u32) -> anyhow::Result<(f64, f64)> {
    let mut config = RedisConfig::new(url, "redis-rate");
    config.block = block;
    let dispatcher = RedisQueue::open_as_dispatcher(config.clone(), 0).await?;
    let consumer = Arc::new(RedisQueue::open(config).await?);
    let all = references(0..count);
    let begun = Instant::now();
    dispatcher.push(all).await?;
    let pushed = rate(count, begun);
    let taken = Arc::new(AtomicU32::new(0));
    let begun = Instant::now();
    let mut consumers = JoinSet::new();
    for _ in 0..tasks {
        let (consumer, taken) = (consumer.clone(), taken.clone());
        consumers.spawn(async move { consume(&consumer, lease, &taken, count).await });
    }
    while let Some(consumed) = consumers.join_next().await {
        consumed??;
    }
    let consumed = rate(count, begun);
    let (left, taken) = (dispatcher.depth().await?, taken.load(Ordering::Relaxed));
    anyhow::ensure!(left == 0 && taken == count, "{taken} of {count} came, {left} are left");
    consumer.leave().await;
    Ok((pushed, consumed))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("usage: redis_rate URL [REFERENCES]")?;
    let count = arguments.next().map_or(Ok(REFERENCES), |count| count.parse())?;
    println!("{count} references; {}", persistence(&url).await?);
    println!("block  lease  tasks  push/s     lease+ack/s");
    for block in BLOCKS {
        for (lease, tasks) in LEASES {
            let (pushed, consumed) = measure(&url, block, (lease, tasks), count).await?;
            println!("{block:<6} {lease:<6} {tasks:<6} {pushed:<10.0} {consumed:.0}");
        }
    }
    Ok(())
}
