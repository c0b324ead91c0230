//! Who is compared: how each is run, and the settings in which it is tried.

use std::path::Path;
use std::process::Command;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::places::Places;
use crate::queue::installed::{Installed, Kind};

/// What a program prints after it was run in one setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Jobs of each of the two measurements.
    pub(crate) jobs: f64,
    /// From the first to the last job enqueued, nobody consuming.
    pub(crate) enqueue_seconds: f64,
    /// From the first job enqueued to the last acknowledged.
    pub(crate) total_seconds: f64,
    /// Whether every job was delivered, and once.
    pub(crate) delivered_once: bool,
}

impl Run {
    /// Jobs enqueued a second.
    pub(crate) fn enqueued(&self) -> f64 {
        self.jobs / self.enqueue_seconds
    }

    /// Jobs done a second.
    pub(crate) fn done(&self) -> f64 {
        self.jobs / self.total_seconds
    }
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// This program, in a role of `own-queue`.
    Own(&'static str),
    /// A peer's, by name.
    Peer(Kind, &'static str),
}

/// A queue that takes part.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    /// Name and version.
    pub(crate) name: &'static str,
    /// What it promises, in the words of the table.
    pub(crate) promise: &'static str,
    /// How it is run.
    program: Program,
    /// Jobs of a run: a few seconds of its work.
    pub(crate) jobs: u32,
    /// What is tried before anything is measured.
    pub(crate) settings: Vec<Value>,
}

impl Contestant {
    /// Whether it is our own path.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.program, Program::Own(_))
    }

    /// First word of its name, in lower case.
    fn short_name(&self) -> String {
        self.name.split(' ').next().unwrap_or_default().to_lowercase()
    }

    /// Gets it ready to run.
    ///
    /// # Errors
    /// When it cannot be installed here.
    pub(crate) fn ready(&self, places: &Places) -> anyhow::Result<Ready> {
        Ok(match self.program {
            Program::Own(role) => Ready::Own(role),
            Program::Peer(kind, name) => Ready::Peer(Installed::get(places, kind)?, name),
        })
    }

    /// The argument that runs `jobs` jobs in `setting`, with a tenth of them before the clock starts.
    pub(crate) fn argument(setting: &Value, jobs: u32, url: &str, scratch: &Path) -> Value {
        let mut whole = setting.clone();
        let more = json!({ "jobs": jobs, "warmUp": (jobs / 10).max(1), "url": url, "scratch": scratch });
        let (Value::Object(whole_fields), Value::Object(more)) = (&mut whole, more) else {
            unreachable!("settings are objects");
        };
        whole_fields.extend(more);
        whole
    }
}

/// A contestant that can be run.
#[derive(Debug)]
pub(crate) enum Ready {
    /// This program, in a role of `own-queue`.
    Own(&'static str),
    /// A peer's, by name.
    Peer(Installed, &'static str),
}

impl Ready {
    /// The command that takes an argument of [`Contestant::argument`] and prints a [`Run`].
    pub(crate) fn command(&self, places: &Places) -> anyhow::Result<Command> {
        match self {
            Self::Own(role) => places.own_queue(role),
            Self::Peer(installed, name) => installed.command(name),
        }
    }
}

/// Those of all contestants whose short names are in `queues`, all when it is empty; ours first.
///
/// # Errors
/// When `queues` has a name that nobody bears.
pub(crate) fn chosen(queues: &[String]) -> anyhow::Result<Vec<Contestant>> {
    let mut all = contestants();
    let names: Vec<String> = all.iter().map(Contestant::short_name).collect();
    if let Some(unknown) = queues.iter().find(|name| !names.contains(name)) {
        bail!("expected a queue of {}, found {unknown:?}", names.join(", "));
    }
    all.retain(|contestant| queues.is_empty() || queues.contains(&contestant.short_name()));
    Ok(all)
}

fn contestants() -> Vec<Contestant> {
    vec![
        with_gateways(),
        in_one_process(),
        bullmq(),
        apalis(),
        celery(),
        dramatiq(),
        rq(),
    ]
}

const OURS: &str = "de-duplicated; permit, announcement and label durable (fsync) before each step";

fn with_gateways() -> Contestant {
    let setting = |gateways: u32, consumers: u32, batch: u32| own_setting(4_096, gateways, consumers, batch);
    Contestant {
        name: "Stillhouse with gateways",
        promise: OURS,
        program: Program::Own("gateways"),
        jobs: 300_000,
        settings: vec![
            setting(1, 4, 256),
            setting(1, 4, 1_024),
            setting(2, 4, 1_024),
            setting(2, 8, 512),
        ],
    }
}

fn in_one_process() -> Contestant {
    let setting = |chunk: u32, consumers: u32, batch: u32| own_setting(chunk, 2, consumers, batch);
    Contestant {
        name: "Stillhouse in one process",
        promise: OURS,
        program: Program::Own("rates"),
        jobs: 500_000,
        settings: vec![
            setting(1_024, 4, 256),
            setting(4_096, 2, 1_024),
            setting(4_096, 4, 1_024),
            setting(8_192, 2, 4_096),
        ],
    }
}

fn own_setting(chunk: u32, gateways: u32, consumers: u32, batch: u32) -> Value {
    let block = batch.min(1_024);
    json!({
        "chunk": chunk, "inFlight": 3, "block": block, "gateways": gateways, "consumers": consumers, "batch": batch,
    })
}

fn bullmq() -> Contestant {
    let setting = |client: &str, producers: u32, chunk: u32, in_flight: u32, processes: u32, concurrency: u32| {
        json!({
            "client": client, "producers": producers, "chunk": chunk, "inFlight": in_flight,
            "processes": processes, "concurrency": concurrency,
        })
    };
    Contestant {
        name: "BullMQ 6.7.0",
        promise: "as durable as Redis",
        program: Program::Peer(Kind::Node, "peer.mjs"),
        jobs: 40_000,
        settings: vec![
            setting("ioredis", 1, 250, 2, 1, 50),
            setting("ioredis", 1, 500, 2, 1, 200),
            setting("ioredis", 1, 1_000, 1, 1, 100),
            setting("ioredis", 1, 500, 2, 2, 100),
            setting("ioredis", 2, 500, 1, 2, 50),
            setting("redis", 1, 1_000, 2, 1, 100),
            setting("redis", 2, 500, 2, 2, 100),
        ],
    }
}

fn apalis() -> Contestant {
    let setting = |producers: u32, chunk: u32, workers: u32, batch: u32, parallel: bool| json!({ "producers": producers, "chunk": chunk, "workers": workers, "batch": batch, "parallel": parallel });
    Contestant {
        name: "apalis-redis 1.0.0",
        promise: "as durable as Redis",
        program: Program::Peer(Kind::Rust, "stillhouse-queue-peer-apalis"),
        jobs: 100_000,
        settings: vec![
            setting(1, 500, 1, 50, false),
            setting(1, 200, 1, 200, false),
            setting(1, 500, 1, 100, true),
            setting(1, 1_000, 1, 200, false),
            setting(1, 500, 2, 100, false),
            setting(2, 500, 2, 200, false),
        ],
    }
}

fn celery() -> Contestant {
    let setting = |producers: u32, pool: &str, workers: u32, concurrency: u32| {
        json!({
            "producers": producers, "pool": pool, "workers": workers, "concurrency": concurrency, "prefetch": 128,
        })
    };
    Contestant {
        name: "Celery 5.7.0",
        promise: "acknowledged before it is done",
        program: Program::Peer(Kind::Python, "celery_peer.py"),
        jobs: 5_000,
        settings: vec![
            setting(1, "solo", 1, 1),
            setting(1, "solo", 2, 1),
            setting(1, "threads", 2, 4),
            setting(2, "prefork", 1, 2),
            setting(1, "prefork", 2, 1),
        ],
    }
}

fn dramatiq() -> Contestant {
    let setting = |producers: u32, processes: u32, threads: u32| json!({ "producers": producers, "processes": processes, "threads": threads });
    Contestant {
        name: "Dramatiq 2.2.1",
        promise: "as durable as Redis",
        program: Program::Peer(Kind::Python, "dramatiq_peer.py"),
        jobs: 10_000,
        settings: vec![setting(1, 1, 8), setting(1, 2, 2), setting(2, 2, 4), setting(1, 2, 8)],
    }
}

fn rq() -> Contestant {
    let setting = |producers: u32, chunk: u32, processes: u32| json!({ "producers": producers, "chunk": chunk, "processes": processes });
    Contestant {
        name: "RQ 3.0.0",
        promise: "as durable as Redis",
        program: Program::Peer(Kind::Python, "rq_peer.py"),
        jobs: 2_000,
        settings: vec![setting(1, 500, 1), setting(1, 500, 2), setting(2, 200, 3)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_in_the_table_are_the_pinned_ones() {
        let places = Places::find().unwrap();
        let pinned = ["bullmq/package.json", "apalis/Cargo.toml", "python/requirements.txt"]
            .map(|name| std::fs::read_to_string(places.root().join("benchmarks/queue-peers").join(name)).unwrap())
            .concat();
        for contestant in contestants().iter().filter(|contestant| !contestant.is_ours()) {
            let (name, version) = contestant.name.split_once(' ').unwrap();
            let name = name.to_lowercase();
            let forms = [
                format!("{name}=={version}\n"),
                format!("{name} = \"={version}\"\n"),
                format!("\"{name}\": \"{version}\""),
            ];
            assert!(forms.iter().any(|form| pinned.contains(form)), "{}", contestant.name);
        }
    }

    #[test]
    fn a_setting_is_handed_over_with_what_every_run_needs() {
        let setting = json!({ "chunk": 5 });
        let whole = Contestant::argument(&setting, 200, "redis://127.0.0.1:1/0", Path::new("/scratch"));
        let want = json!({
            "chunk": 5, "jobs": 200, "warmUp": 20, "url": "redis://127.0.0.1:1/0", "scratch": "/scratch",
        });
        assert_eq!(whole, want);
        assert!(contestants().iter().all(|contestant| !contestant.settings.is_empty()));
    }

    #[test]
    fn queues_are_chosen_by_their_short_names() {
        assert_eq!(chosen(&[]).unwrap().len(), 7);
        let three = chosen(&["rq".to_owned(), "stillhouse".to_owned()]).unwrap();
        assert_eq!(
            three.iter().map(|three| three.name).collect::<Vec<_>>(),
            ["Stillhouse with gateways", "Stillhouse in one process", "RQ 3.0.0"]
        );
        let error = chosen(&["kafka".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("apalis-redis") && error.contains("kafka"), "{error}");
    }
}
