//! The command line.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::places::Places;

/// Measures the figures of docs/benchmarks.md and writes them to benchmarks/results.
#[derive(Debug, Parser)]
#[command(name = "stillhouse-bench", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Active Mixup's MNIST setting, over seeds, beside a random control (about an hour).
    Mnist(MnistArgs),
    /// Ways to choose and to train on MNIST at 8,000 queries, over seeds (about 10 minutes a seed).
    Methods(MethodsArgs),
    /// The papers' MNIST tables at 26,000 queries, and `auto`, over seeds (about half an hour a seed).
    Papers(PapersArgs),
    /// Candidates scored a second, beside two PyTorch loops (about 10 minutes).
    Scoring(DataArgs),
    /// Training steps a second, beside PyTorch eager (about 10 minutes).
    Training,
    /// An all-reduce of two and four processes, beside PyTorch's Gloo (about 8 minutes).
    AllReduce,
    /// A training step of two ranks, strict beside fast (about a minute).
    Determinism,
    /// Seconds until a training goes on after a worker or the coordinator was killed (about 3 minutes).
    Elastic(DataArgs),
    /// Process start to first score, beside PyTorch (about a minute).
    Startup,
    /// Memory of a dry run and of one scoring shard over a billion pairs; fails above 1 GB.
    #[command(name = "pool-1e9")]
    Pool1e9(DataArgs),
    /// The way of a query beside BullMQ, apalis-redis, Celery, Dramatiq and RQ; recovery (about 30 minutes).
    Queue(QueueArgs),
    /// Thousands of jobs on a real control plane with nodes that run nothing: needs root, and `make kubernetes` once.
    Cluster(ClusterArgs),
    /// One process of our own way of a query: `queue` starts it.
    #[command(hide = true)]
    OwnQueue(OwnQueueArgs),
    /// Selection from up to 10^12 pairs by up to 1,024 simulated workers of a real coordinator (about 10 minutes).
    Scale(ScaleArgs),
    /// The coordinator of a simulation: `scale` starts it.
    #[command(hide = true)]
    OwnScale {
        /// What it coordinates, as JSON.
        setting: String,
    },
    /// Processor time of a coordinator with 10,000 workers on loopback links (about 3 minutes).
    Heartbeats(HeartbeatsArgs),
    /// The coordinator's side of those links: `heartbeats` starts it.
    #[command(hide = true)]
    OwnHeartbeats {
        /// A job file.
        job: PathBuf,
        /// Workers to wait for.
        workers: u64,
    },
    /// Images a second that the teacher's client sends to one that computes nothing (about 3 minutes).
    TeacherClient,
    /// What metrics, traces and the live page cost, and how quickly they are there (about 5 minutes).
    Telemetry(DataArgs),
    /// All of the above.
    All(DataArgs),
    /// Copy the results into docs/benchmarks.md.
    Page,
}

/// Where the data lies.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Folder with the four MNIST files, or with a folder `mnist` of them [default: shared/data
    /// beside the repository].
    #[arg(long, env = "STILLHOUSE_DATA")]
    pub(crate) data: Option<PathBuf>,
}

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Workers.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256,1024")]
    pub(crate) workers: Vec<u64>,
    /// Seed images, whose pairs are the pool: 10^9, 10^10 and 10^12 pairs.
    #[arg(long, value_delimiter = ',', default_value = "44722,141422,1414214")]
    pub(crate) seeds: Vec<u32>,
    /// Candidates wanted.
    #[arg(long, value_delimiter = ',', default_value = "1000000,10000")]
    pub(crate) k: Vec<u64>,
    /// Candidates that a worker scans in a second.
    #[arg(long, default_value_t = 422_961.0)]
    pub(crate) rate: f64,
    /// Where results go [default: benchmarks/results].
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl ScaleArgs {
    /// Everything.
    pub(crate) fn published() -> Self {
        Self {
            workers: vec![1, 16, 256, 1_024],
            seeds: vec![44_722, 141_422, 1_414_214],
            k: vec![1_000_000, 10_000],
            rate: 422_961.0,
            out: None,
        }
    }
}

/// Arguments of `heartbeats`.
#[derive(Clone, Debug, Args)]
pub(crate) struct HeartbeatsArgs {
    /// Workers.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) workers: u64,
}

/// Arguments of `cluster`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Jobs.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) jobs: u32,
    /// Nodes.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) nodes: u32,
}

/// Arguments of `mnist`.
#[derive(Debug, Args)]
pub(crate) struct MnistArgs {
    /// Where the data lies.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Seeds: each draws other seed images and other initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    pub(crate) seeds: Vec<u64>,
    /// How much of it to run.
    #[arg(long, value_enum, default_value = "published")]
    pub(crate) scale: Scale,
    /// Where results go [default: benchmarks/results; for the small scale target/bench/results].
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `methods`.
#[derive(Debug, Args)]
pub(crate) struct MethodsArgs {
    /// Where the data lies.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Whose images.
    #[arg(long, value_enum, default_value = "mnist")]
    pub(crate) data_set: DataSetName,
    /// Seeds: each draws other seed images and other initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    pub(crate) seeds: Vec<u64>,
    /// Only these pairings, by name; all when absent.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

/// What of the papers' tables to run.
#[derive(Clone, Debug, Args)]
pub(crate) struct PapersArgs {
    /// Where the data lies.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Seeds: each draws other seed images and other initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    pub(crate) seeds: Vec<u64>,
    /// Only these studies, by name; all when absent.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

impl PapersArgs {
    /// Three seeds of everything.
    pub(crate) fn published(data: DataArgs) -> Self {
        Self {
            data,
            seeds: vec![0, 1, 2],
            only: vec![],
        }
    }
}

impl MethodsArgs {
    /// Three seeds on MNIST.
    pub(crate) fn published(data: DataArgs) -> Self {
        Self {
            data,
            data_set: DataSetName::Mnist,
            seeds: vec![0, 1, 2],
            only: vec![],
        }
    }
}

impl MnistArgs {
    /// The published setting with three seeds.
    pub(crate) fn published(data: DataArgs) -> Self {
        Self {
            data,
            seeds: vec![0, 1, 2],
            scale: Scale::Published,
            out: None,
        }
    }
}

/// Data sets on which ways to choose are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataSetName {
    /// Digits.
    Mnist,
    /// Colour images of ten kinds of things in its binary version.
    Cifar10,
}

/// How much of the MNIST setting to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// As the paper has it: 2,000 seed images, 4 rounds of 6,000.
    Published,
    /// 300 seed images, 2 rounds of 300: whether everything works, in about 3 minutes.
    Small,
}

/// What Redis keeps of what it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// Everything but the last second: an append-only file, fsync once a second.
    Everysec,
    /// Everything: an append-only file, fsync before each answer.
    Always,
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Everysec => "everysec",
            Self::Always => "always",
        })
    }
}

/// Which figures of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueuePart {
    /// Jobs a second beside other queues.
    Rates,
    /// After a crash, with a million queries outstanding.
    Recovery,
}

/// Arguments of `queue`.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// What Redis keeps.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,everysec,always")]
    pub(crate) persistence: Vec<Persistence>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rates,recovery")]
    pub(crate) parts: Vec<QueuePart>,
    /// Queues to compare, by the first word of their names in lower case [default: all].
    #[arg(long, value_delimiter = ',')]
    pub(crate) queues: Vec<String>,
    /// One repetition of a twentieth of the jobs: whether everything works.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where results go [default: benchmarks/results; when quick, or not all queues, target/bench/results].
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl QueueArgs {
    /// Everything, measured in full.
    pub(crate) fn published() -> Self {
        Self {
            persistence: Persistence::value_variants().to_vec(),
            parts: QueuePart::value_variants().to_vec(),
            queues: vec![],
            quick: false,
            out: None,
        }
    }

    /// Where results go.
    pub(crate) fn folder(&self, places: &Places) -> anyhow::Result<PathBuf> {
        Ok(match &self.out {
            Some(out) => out.clone(),
            None if self.quick || !self.queues.is_empty() => places.work()?.join("results"),
            None => places.results(),
        })
    }
}

/// Arguments of `own-queue`.
#[derive(Debug, Args)]
pub(crate) struct OwnQueueArgs {
    /// What the process does.
    #[arg(long, value_enum, default_value = "rates")]
    pub(crate) role: OwnRole,
    /// How, as JSON.
    pub(crate) setting: String,
}

/// What a process of our own way of a query does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OwnRole {
    /// Measures rates, as a peer's program does, in one process.
    Rates,
    /// Measures rates, with gateways in processes of their own.
    Gateways,
    /// Is such a gateway.
    Gateway,
    /// Fills ledger and queue, and waits to be killed.
    Fill,
    /// Takes over from the killed.
    Recover,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["stillhouse-bench", "mnist", "--seeds", "0,5", "--scale", "small"]);
        assert!(matches!(cli.command, Command::Mnist(MnistArgs { seeds, scale: Scale::Small, .. }) if seeds == [0, 5]));
        let cli = Cli::parse_from(["stillhouse-bench", "queue", "--persistence", "none,always", "--quick"]);
        let Command::Queue(args) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(args.persistence, [Persistence::None, Persistence::Always]);
        assert_eq!(args.parts, QueueArgs::published().parts);
        let Command::Scale(args) = Cli::parse_from(["stillhouse-bench", "scale"]).command else {
            panic!("no scale")
        };
        let published = ScaleArgs::published();
        assert_eq!(
            (args.workers, args.seeds, args.k, args.rate),
            (published.workers, published.seeds, published.k, published.rate)
        );
    }
}
