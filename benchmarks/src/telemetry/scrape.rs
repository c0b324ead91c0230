//! The metrics of a thousand workers, asked for at once.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::statistics::Spread;

/// How many.
pub(super) const WORKERS: usize = 1_000;
const REPETITIONS: usize = 7;

/// Seconds until the last has told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scrape {
    pub(super) seconds: Spread,
    /// Of all answers together.
    bytes: usize,
}

/// Serves as many workers' metrics and asks for all of them.
pub(super) fn measure() -> anyhow::Result<Scrape> {
    eprintln!("scrape: {REPETITIONS} repetitions");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        work_a_little();
        let stop = CancellationToken::new();
        let mut workers = Vec::with_capacity(WORKERS);
        for _ in 0..WORKERS {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let served = stillhouse_metrics::serve::serve(any, "worker", || async {}, stop.clone());
            workers.push(served.await?);
        }
        // The first opens every listener's page for the first time.
        let mut bytes = ask(&workers).await?;
        let mut seconds = Vec::new();
        for _ in 0..REPETITIONS {
            let begun = Instant::now();
            bytes = ask(&workers).await?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        stop.cancel();
        let seconds = Spread::of(seconds).context("no repetition")?;
        Ok(Scrape { seconds, bytes })
    })
}

/// What a worker's metrics are about, so that each family has something to say.
fn work_a_little() {
    let metrics = stillhouse_metrics::worker();
    metrics.device_info.with_label_values(&["cpu AVX2"]).set(1.0);
    for command in ["load", "scan", "rescore", "calibrate", "train", "export"] {
        metrics.busy.with_label_values(&[command]).set(0.0);
        metrics.command_seconds.with_label_values(&[command]).observe(0.5);
    }
    for part in ["forward", "backward", "wait", "all-reduce", "update"] {
        metrics.step_seconds.with_label_values(&[part]).observe(0.001);
    }
}

/// Asks all at once; returns how many bytes came.
async fn ask(workers: &[SocketAddr]) -> anyhow::Result<usize> {
    let mut asked: JoinSet<anyhow::Result<usize>> = workers.iter().map(|worker| scrape(*worker)).collect();
    let mut bytes = 0;
    while let Some(told) = asked.join_next().await {
        bytes += told??;
    }
    Ok(bytes)
}

async fn scrape(worker: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(worker).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {worker}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(
        answer.contains("\nstillhouse_worker_connected "),
        "expected a worker's metrics, found {answer:.200}"
    );
    Ok(answer.len())
}

impl Scrape {
    pub(super) fn row(&self) -> [String; 4] {
        let Spread { median, min, max } = self.seconds;
        let [median, min, max] = [median, min, max].map(|seconds| format!("{seconds:.2}"));
        [format!("{WORKERS} workers' metrics, s"), median, min, max]
    }

    pub(super) fn note(&self) -> String {
        format!(
            "{WORKERS} workers' metrics: as many listeners of one process, asked over loopback at once, {:.1} MB of text in all, \
             {REPETITIONS} repetitions; server and client share the machine.",
            self.bytes as f64 / 1e6
        )
    }
}
