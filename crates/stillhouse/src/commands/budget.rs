//! `stillhouse budget add`: what a job may spend.

use std::path::Path;

use stillhouse_ledger::{Counts, Ledger};

use crate::books::{Books, ledger_failure};
use crate::coordinate::{record, results};
use crate::failure::{Failure, Kind};
use crate::job_dir::JobDir;
use crate::report::number::{count, counted};
use crate::report::summary::{BudgetSummary, State};

/// Allows the job in `dir`, which is not running, to spend `queries` more.
///
/// # Errors
/// When it is running, or its ledger cannot be read or written; then nothing changed.
pub fn add(dir: &Path, queries: u64) -> Result<String, Failure> {
    let books = Books::read(dir).map_err(|failure| match failure.kind() {
        Kind::Directory if stillhouse_ledger::file(dir).is_file() => {
            failure.hint("stop the job first; or raise spec.budget.queries and run it again")
        }
        _ => failure,
    })?;
    let lock = JobDir::open(dir)?;
    let (old, name) = (books.counts.budget, books.name());
    let new = old.checked_add(queries).ok_or_else(|| {
        let message = format!("expected at most {} more queries, found {queries}", u64::MAX - old);
        Failure::message(Kind::Usage, message)
    })?;
    let failed = |error| ledger_failure(error, dir);
    let ledger = Ledger::create_or_open(dir, &books.genesis).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| Failure::new(Kind::Internal, error))?;
    let counts = runtime
        .block_on(async {
            ledger.raise_budget(new).await?;
            ledger.counts().await
        })
        .map_err(failed)?;
    renew_summary(&lock, &counts)?;
    let (old, new, left) = (count(old), counted(new, "query", "queries"), count(counts.left()));
    Ok(format!("{name}: the budget was {old}, now it is {new}; {left} left"))
}

/// Brings the budget in `summary.json` up to what the ledger says now.
pub(super) fn renew_summary(dir: &JobDir, counts: &Counts) -> Result<(), Failure> {
    if !dir.path().join("summary.json").exists() {
        return Ok(());
    }
    let mut summary = results::read_summary(dir.path())?;
    let history = std::mem::take(&mut summary.budget.history);
    summary.budget = BudgetSummary {
        history,
        ..record::budget(counts, summary.budget.price_per_query)
    };
    if summary.state == State::Finished {
        let reason = "there is more to spend: run the same command again to go on".into();
        summary.state = State::Stopped { reason };
    }
    dir.write("summary.json", summary.to_json().as_bytes())
}
