//! `stillhouse validate` and `run --dry-run`: everything that can be known without asking.

use std::path::Path;

use crate::estimate::{Estimate, grouped};
use crate::failure::Failure;
use crate::inputs::Inputs;

/// Checks a job file and its images.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(path: &Path) -> Result<String, Failure> {
    let inputs = Inputs::load(path)?;
    let Inputs { job, plan, .. } = &inputs;
    let evaluation = inputs.evaluation.as_ref().map_or(0, |images| images.len() as u64);
    Ok(format!(
        "{}: valid\n  {} seed images of {}, {} evaluation images\n  pool of {} pairs, {} rounds, at most {} of {} queries",
        job.name,
        grouped(u64::from(plan.seeds)),
        inputs.shape(),
        grouped(evaluation),
        grouped(plan.pairs),
        plan.rounds().len(),
        grouped(plan.queries()),
        grouped(plan.budget),
    ))
}

/// Says what a job would ask, compute and cost.
///
/// # Errors
/// The first thing that is wrong with the job.
pub fn dry_run(path: &Path) -> Result<String, Failure> {
    let inputs = Inputs::load(path)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let estimate = Estimate::new(&inputs.job, inputs.plan.clone(), inputs.shape(), threads);
    Ok(format!(
        "{} would do this on {threads} threads (nothing was asked):\n{}",
        inputs.job.name,
        estimate.table().trim_end()
    ))
}
