//! Whole jobs of real processes under random blows, for as long as you like: see docs/ordeal.md.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use stillhouse_runtime::logging;
use stillhouse_tests::ordeal::{self, Options};
use stillhouse_tests::processes::program;
use stillhouse_tests::redis;

/// Kills, stops, wipes and cuts everything around whole jobs, and checks their books against the
/// teacher's bill. Says every blow with STILLHOUSE_LOG=debug.
#[derive(Parser)]
struct Args {
    /// For how long blows fall.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What is drawn: which jobs, which blows in which order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where jobs, bills and logs lie; those of a job that fails are kept [default: a new folder of
    /// the system's for temporary files].
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    logging::init_stderr()?;
    let folder = match args.folder {
        Some(folder) => folder,
        None => tempfile::Builder::new().prefix("ordeal-").tempdir()?.keep(),
    };
    let options = Options {
        seed: args.seed,
        time: Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes: expected a positive number")?,
        folder: folder.clone(),
        teacher: program("test-teacher"),
        redis: redis::program().context("redis-server is not installed: apt-get install redis-server")?,
    };
    tracing::info!(folder = %folder.display(), seed = args.seed, "the ordeal begins");
    let report = ordeal::run(&options)?;
    println!("{report}");
    anyhow::ensure!(
        report.violations.is_empty(),
        "everything is kept in {}: {:#?}",
        folder.display(),
        report.violations
    );
    std::fs::remove_dir_all(&folder).with_context(|| format!("delete {}", folder.display()))
}
