//! `stillhouse status` and `stillhouse report`: what a job directory says.

use std::path::Path;

use crate::coordinate::results;
use crate::failure::Failure;
use crate::report::terminal;

/// How far the job in `dir` is.
///
/// # Errors
/// When there is no job.
pub fn status(dir: &Path) -> Result<String, Failure> {
    let summary = results::read_summary(dir)?;
    Ok(terminal::status(&summary, None, terminal::Color::for_stdout()))
}

/// Writes `report.html` again, also of a job that still runs.
///
/// # Errors
/// When there is no job, or the page cannot be written.
pub fn report(dir: &Path) -> Result<String, Failure> {
    results::write_report(dir)?;
    Ok(format!("wrote {}", dir.join("report.html").display()))
}
