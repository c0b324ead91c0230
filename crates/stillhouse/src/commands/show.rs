//! `stillhouse report`: what a job directory says, as a page.

use std::path::Path;

use crate::coordinate::results;
use crate::failure::Failure;

/// Writes `report.html` again, also of a job that still runs.
///
/// # Errors
/// When there is no job, or the page cannot be written.
pub fn report(dir: &Path) -> Result<String, Failure> {
    results::write_report(dir)?;
    Ok(format!("wrote {}", dir.join("report.html").display()))
}
