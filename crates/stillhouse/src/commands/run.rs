//! `stillhouse run` and `stillhouse coordinator`: a job with workers of this machine, or of others.

use std::path::{Path, PathBuf};

use stillhouse_core::job::Device;
use stillhouse_core::plan::Arm;
use stillhouse_ledger::Reader;
use stillhouse_runtime::link::Identity;
use stillhouse_runtime::link::args::ListenArgs;
use stillhouse_runtime::signals;

use crate::cli::{CoordinatorArgs, JobRunArgs, RunArgs};
use crate::commands::runtime;
use crate::coordinate::{Options, results, run as run_job};
use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::JobDir;
use crate::report::summary::{State, Summary};
use crate::report::{ProgressBars, terminal};
use crate::reuse;
use crate::store::deliver::deliver;
use crate::watch::standing;

/// Runs a job with workers of this machine, or goes on with it; returns the closing table.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: &RunArgs, bars: &ProgressBars) -> Result<String, Failure> {
    let inputs = load(&args.common)?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let wanted = inputs.job.spec.workers;
    let most = cards(wanted.device).unwrap_or(cores);
    let workers = args.workers.unwrap_or_else(|| most.clamp(wanted.min, wanted.max));
    let options = Options {
        workers,
        threads: (cores / workers).max(1),
        worker_program: worker_program(args)?,
        listen: args.listen.clone(),
        identity: args.listen.as_ref().map_or(Ok(None), |_| identity(&args.tls))?,
        has_gateway: !args.no_gateway,
        metrics_listen: args.common.metrics_listen,
        web: args.common.web,
        web_read_only: args.common.web_read_only,
        base: base(&args.common),
        allows_chaos: args.common.chaos,
        bars: bars.clone(),
    };
    let dir = dir_of(&inputs, &args.common);
    go(inputs, &dir, options)
}

/// Coordinates a job with workers that are started elsewhere, or goes on with it; returns the
/// closing table.
///
/// # Errors
/// Whatever stops it.
pub fn coordinator(args: &CoordinatorArgs, bars: &ProgressBars) -> Result<String, Failure> {
    let loaded = identity(&args.tls).and_then(|identity| Ok((identity, load(&args.common)?)));
    let (dir, outcome) = match loaded {
        Ok((identity, inputs)) => {
            let options = Options {
                workers: 0,
                threads: 0,
                worker_program: PathBuf::new(),
                listen: Some(args.listen.clone()),
                identity,
                has_gateway: !args.no_gateway,
                metrics_listen: args.common.metrics_listen,
                web: args.common.web,
                web_read_only: args.common.web_read_only,
                base: base(&args.common),
                allows_chaos: args.common.chaos,
                bars: bars.clone(),
            };
            let dir = dir_of(&inputs, &args.common);
            (Some(dir.clone()), go(inputs, &dir, options))
        }
        Err(failure) => (args.common.dir.clone(), Err(failure)),
    };
    if let Some(ending) = &args.ending {
        leave(ending, dir.as_deref(), outcome.as_ref().err());
    }
    outcome
}

fn dir_of(inputs: &Inputs, args: &JobRunArgs) -> PathBuf {
    let dir = args.dir.clone();
    dir.unwrap_or_else(|| Path::new("jobs").join(&inputs.job.name))
}

/// Leaves how far the job in `dir` is, and what ended this process, in `ending`.
fn leave(ending: &Path, dir: Option<&Path>, failure: Option<&Failure>) {
    let summary = dir.and_then(|dir| results::read_summary(dir).ok());
    let text = serde_json::to_string(&standing::at_the_end(summary.as_ref(), failure)).expect("plain data");
    if let Err(error) = std::fs::write(ending, text) {
        tracing::warn!(%error, "cannot write {}", ending.display());
    }
}

/// How many cards of NVIDIA's this machine has, if a worker may use them and there are any.
fn cards(device: Device) -> Option<u32> {
    if device == Device::Cpu {
        return None;
    }
    let cards = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.count();
    u32::try_from(cards).ok().filter(|cards| *cards > 0)
}

fn identity(tls: &ListenArgs) -> Result<Option<Identity>, Failure> {
    tls.identity().map_err(|error| Failure::new(Kind::Usage, error))
}

/// The folder of the job file.
fn base(args: &JobRunArgs) -> PathBuf {
    args.job.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn load(args: &JobRunArgs) -> Result<Inputs, Failure> {
    let mut inputs = Inputs::load(&args.job)?;
    inputs.reuse.extend(reuse::resolve(&args.reuse, Path::new(""))?);
    Ok(inputs)
}

fn go(mut inputs: Inputs, dir: &Path, options: Options) -> Result<String, Failure> {
    if let Some(added) = added_budget(&inputs, dir) {
        tracing::info!(
            queries = added,
            file = inputs.plan.budget,
            "the budget is larger than the job file's: stillhouse budget add raised it"
        );
        inputs.plan.budget = added;
    }
    let results = inputs.job.spec.results.clone();
    let (name, digest) = (inputs.job.name.clone(), inputs.digest());
    let summary = match finished(&inputs, dir) {
        Some(summary) => summary,
        None => work(inputs, dir, options)?,
    };
    let copy = results
        .map(|results| deliver(&results, &name, &digest, dir))
        .transpose()?;
    Ok(closing(&summary, dir, copy.as_deref()))
}

fn work(inputs: Inputs, dir: &Path, options: Options) -> Result<Summary, Failure> {
    runtime()?.block_on(async {
        let shutdown = signals::install().map_err(|error| Failure::new(Kind::Internal, error).context("cannot listen for signals"))?;
        tokio::select! {
            outcome = run_job(inputs, dir, options, shutdown.drain) => outcome,
            () = shutdown.abort.cancelled() => Err(Failure::message(Kind::Interrupted, "aborted; queries under way are in doubt and stay held")
                .hint("run the same command again to go on")),
        }
    })
}

/// The ledger's budget, where `budget add` made it larger than the job file's. Where the file was
/// lowered it is not taken: that the ledger refuses.
fn added_budget(inputs: &Inputs, dir: &Path) -> Option<u64> {
    let head = Reader::head_of(dir).ok()?;
    let (file, is_same) = (inputs.plan.budget, head.genesis.job_digest == inputs.digest());
    (is_same && head.genesis.budget <= file && file < head.budget()).then(|| head.budget())
}

/// The summary of a job that was done already, with the same budget.
fn finished(inputs: &Inputs, dir: &Path) -> Option<Summary> {
    let summary = results::read_summary(dir).ok()?;
    let same = summary.job.digest == stillhouse_core::key::hex(&inputs.digest())
        && summary.budget.queries == inputs.plan.budget;
    let whole = ["student.pt", "labels.safetensors", "report.html"]
        .iter()
        .all(|name| dir.join(name).exists());
    (summary.state == State::Finished && same && whole).then_some(summary)
}

fn closing(summary: &Summary, dir: &Path, copy: Option<&str>) -> String {
    let mut files = vec![
        "report.html",
        "summary.json",
        "student.safetensors",
        "student.pt",
        "labels.safetensors",
    ];
    let control = format!("{}.pt", JobDir::final_stem(Arm::Control));
    if summary.control.is_some() {
        files.push(&control);
    }
    terminal::closing(summary, dir, &files, copy, terminal::Color::for_stdout())
}

fn worker_program(args: &RunArgs) -> Result<PathBuf, Failure> {
    const NAME: &str = "stillhouse-worker";
    if let Some(program) = &args.worker_program {
        return Ok(program.clone());
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(NAME)));
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let candidates = beside.into_iter().chain(on_path.map(|folder| folder.join(NAME)));
    candidates.into_iter().find(|program| program.is_file()).ok_or_else(|| {
        Failure::message(
            Kind::Workers,
            format!("expected {NAME} beside this program or on the path, found it nowhere"),
        )
        .hint("make build makes both; or name it with --worker-program")
    })
}
