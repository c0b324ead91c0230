//! Whole jobs of real processes under random blows, and what must hold all the same: the budget,
//! nothing sent twice under `hold`, no label lost.
//!
//! | module | what it is |
//! |---|---|
//! | [`blow`] | what can happen, and how often |
//! | `stage` | coordinator, gateways, Redis, teacher and the lines between them |
//! | `strike` | blows on the stage, and their end |
//! | `oracle` | the ledger against the teacher's bill |
//! | `trial` | one job: torment, peace, reckoning |
//! | [`report`] | what an ordeal came to |
//!
//! A seed fixes the jobs and the order of blows. It does not fix at which byte a blow falls.

pub mod blow;
mod oracle;
pub mod report;
mod stage;
mod strike;
mod trial;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use report::Report;

/// An ordeal to be made.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is drawn.
    pub seed: u64,
    /// For how long blows fall; the last job then finishes in peace.
    pub time: Duration,
    /// An empty folder for jobs, bills, data and logs.
    pub folder: PathBuf,
    /// The program `test-teacher`.
    pub teacher: PathBuf,
    /// The program `redis-server`.
    pub redis: PathBuf,
}

/// Runs job after job until the time is up, or one of them violates what must hold.
///
/// # Errors
/// When the stage itself cannot be set up. Violations are in the report.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let until = begun + options.time;
    let mut report = Report::new(options.seed);
    while Instant::now() < until && report.violations.is_empty() {
        trial::run(options, report.jobs, until, &mut report)?;
        report.took = begun.elapsed();
    }
    Ok(report)
}
