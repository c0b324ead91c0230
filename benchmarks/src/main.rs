//! `stillhouse-bench`: the measured figures of `docs/benchmarks.md`, one command each. It links no
//! libtorch: it drives the built programs, and their PyTorch peers, as processes.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`mnist`] | Active Mixup's MNIST setting over seeds, with a random control; ways to choose and to train; the papers' tables |
//! | [`scoring`] | candidates scored a second, beside PyTorch |
//! | [`training`] | training steps a second, beside PyTorch |
//! | [`startup`] | process start to first score, beside PyTorch |
//! | [`all_reduce`] | sums over a ring of processes, beside PyTorch's Gloo |
//! | [`determinism`] | what it costs that students have the same bits for any number of workers |
//! | [`elastic`] | what it costs that a worker or the coordinator is killed |
//! | [`pool`] | memory over a pool of a billion pairs |
//! | [`queue`] | the way of a query beside other queues on Redis; recovery |
//! | [`cluster`] | thousands of jobs on a real control plane |
//! | [`scale`] | selection from up to 10^12 pairs by up to 1,024 simulated workers |
//! | [`heartbeats`] | a coordinator with 10,000 workers |
//! | [`telemetry`] | what metrics, traces and pages cost |
//! | [`teacher_client`] | images a second through the binary HTTP client |
//! | [`page`] | copies results into `docs/benchmarks.md` |
//! | [`data_set`] | MNIST and CIFAR-10 as files |
//! | [`places`] | where programs and results lie |
//! | [`process`], [`python`] | how programs and PyTorch peers are run |
//! | [`statistics`], [`table`], [`machine`] | what is made of the figures |

mod all_reduce;
mod cli;
mod cluster;
mod data_set;
mod determinism;
mod elastic;
mod heartbeats;
mod machine;
mod mnist;
mod page;
mod places;
mod pool;
mod process;
mod python;
mod queue;
mod scale;
mod scoring;
mod startup;
mod statistics;
mod table;
mod teacher_client;
mod telemetry;
mod training;

use clap::Parser;

use crate::cli::{Cli, Command, DataArgs, HeartbeatsArgs, MethodsArgs, MnistArgs, PapersArgs, QueueArgs, ScaleArgs};
use crate::places::Places;

fn main() -> anyhow::Result<()> {
    let places = Places::find()?;
    match Cli::parse().command {
        Command::Mnist(args) => mnist::run(&places, &args),
        Command::Methods(args) => mnist::methods::run(&places, &args),
        Command::Papers(args) => mnist::papers::run(&places, &args),
        Command::Scoring(args) => scoring::run(&places, &args),
        Command::Training => training::run(&places),
        Command::Startup => startup::run(&places),
        Command::AllReduce => all_reduce::run(&places),
        Command::Determinism => determinism::run(&places),
        Command::Elastic(args) => elastic::run(&places, &args),
        Command::Pool1e9(args) => pool::run(&places, &args),
        Command::Queue(args) => queue::run(&places, &args),
        Command::OwnQueue(args) => queue::run_own(&args),
        Command::Cluster(args) => cluster::run(&places, &args),
        Command::Scale(args) => scale::run(&places, &args),
        Command::OwnScale { setting } => scale::run_own(&setting),
        Command::Heartbeats(args) => heartbeats::run(&places, &args),
        Command::OwnHeartbeats { job, workers } => heartbeats::run_own(&job, workers),
        Command::TeacherClient => teacher_client::run(&places),
        Command::Telemetry(args) => telemetry::run(&places, &args),
        Command::All(data) => all(&places, data),
        Command::Page => page::refresh(&places),
    }
}

fn all(places: &Places, data: DataArgs) -> anyhow::Result<()> {
    pool::run(places, &data)?;
    startup::run(places)?;
    training::run(places)?;
    determinism::run(places)?;
    all_reduce::run(places)?;
    elastic::run(places, &data)?;
    scoring::run(places, &data)?;
    teacher_client::run(places)?;
    scale::run(places, &ScaleArgs::published())?;
    heartbeats::run(places, &HeartbeatsArgs { workers: 10_000 })?;
    telemetry::run(places, &data)?;
    queue::run(places, &QueueArgs::published())?;
    mnist::run(places, &MnistArgs::published(data.clone()))?;
    mnist::methods::run(places, &MethodsArgs::published(data.clone()))?;
    mnist::papers::run(places, &PapersArgs::published(data))?;
    page::refresh(places)
}
