//! `stillhouse ledger verify`: every check of ledger, images and files against each other.

use std::path::Path;

use crate::books::audit::audit;
use crate::failure::{Failure, Kind};
use crate::report::number::{count, counted};

/// Findings that are printed.
const SHOWN: usize = 50;

/// Checks the job in `dir`; returns one line when all is well.
///
/// # Errors
/// What is damaged and where.
pub(super) fn verify(dir: &Path) -> Result<String, Failure> {
    let verdict = audit(dir)?;
    let mut text = format!(
        "{}: {}, {}, {} recomputed",
        dir.display(),
        counted(verdict.queries, "query", "queries"),
        counted(verdict.labels, "label", "labels"),
        counted(verdict.keys, "key", "keys"),
    );
    let notes: String = verdict.notes.iter().map(|note| format!("\nnote: {note}")).collect();
    let findings = &verdict.findings;
    if findings.is_empty() {
        return Ok(text + ": no damage" + &notes);
    }
    text += &notes;
    text.extend(
        findings
            .iter()
            .take(SHOWN)
            .map(|finding| format!("\ndamage: {finding}")),
    );
    if findings.len() > SHOWN {
        text += &format!("\nand {} more", count((findings.len() - SHOWN) as u64));
    }
    let found = counted(findings.len() as u64, "thing is", "things are");
    let message = format!("{found} wrong with the books in {}", dir.display());
    Err(Failure::message(Kind::Storage, message)
        .hint("keep a copy of the directory; what the teacher billed is on its own bill: stillhouse ledger reconcile")
        .with_findings(text))
}
