//! `stillhouse ledger reconcile`: the ledger beside the provider's bill.

use std::path::Path;

use stillhouse_ledger::{Ledger, Permit};
use stillhouse_teacher::BillFile;

use crate::books::images::Images;
use crate::books::invoice::Invoice;
use crate::books::reconcile::Comparison;
use crate::books::{Books, ledger_failure};
use crate::cli::ReconcileArgs;
use crate::failure::{Failure, Kind};
use crate::job_dir::JobDir;
use crate::report::number::{count, counted};
use crate::report::terminal::{aligned, indent};

use super::super::budget::renew_summary;

/// Compares the books of a job with a bill, and gives back what a closed bill proves unbilled.
///
/// # Errors
/// When either cannot be read, or the bill has more than the ledger.
pub(super) fn reconcile(args: &ReconcileArgs) -> Result<String, Failure> {
    let books = Books::read(&args.dir)?;
    let invoice = match (&args.invoice, args.billed) {
        (Some(path), _) => Invoice::read(path)?,
        (None, total) => Invoice::Total(total.unwrap_or(0)),
    };
    let images = match &invoice {
        Invoice::Images(_) => books
            .job
            .as_ref()
            .map(|job| Images::read(&books.dir, job))
            .transpose()?,
        Invoice::Requests(_) | Invoice::Total(_) => None,
    };
    let comparison = Comparison::of(&books.entries, &invoice, |entry| {
        let pixels = images.as_ref()?.pixels(entry.sample)?;
        Some(BillFile::digest(&pixels))
    });
    let mut text = table(&books, &invoice, &comparison);
    if comparison.is_unfinished() && !comparison.unbilled.is_empty() {
        let many = counted(comparison.forgotten, "answered query", "answered queries");
        text += &format!("\n  the bill lacks {many}, so it is not closed: nothing is given back");
    } else if args.apply {
        text += &give_back(&args.dir, &books, &comparison)?;
    } else if !comparison.unbilled.is_empty() {
        let many = counted(comparison.unbilled.len() as u64, "query", "queries");
        text += &format!("\n  --apply gives {many} back to the budget, if this bill is closed");
    }
    breach(&comparison, args.shared).map_or(Ok(text.clone()), |failure| Err(failure.with_findings(text)))
}

fn table(books: &Books, invoice: &Invoice, comparison: &Comparison) -> String {
    let unbilled = comparison.unbilled.len() as u64;
    let rows = [
        ("billed by both", comparison.agreed, "answered, and on the bill"),
        ("in doubt, were billed", comparison.proven_billed, "on the bill"),
        ("in doubt, were not billed", unbilled, "not on the bill: overcounted"),
        ("in doubt still", comparison.undecided, "this bill cannot tell"),
        ("answered, not on the bill", comparison.forgotten, "the provider's loss"),
        ("on the bill alone", comparison.foreign, "not in the ledger"),
    ];
    let row = |(name, queries, what): &(&str, u64, &str)| vec![(*name).to_owned(), count(*queries), (*what).to_owned()];
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    let billed = counted(invoice.total(), "image", "images");
    let counts = &books.counts;
    let known = counts.spent + counts.committed;
    let doubtful = counts.ambiguous + counts.sent;
    let head = format!(
        "{}: {billed} on the bill; the ledger has {} answered and {} in doubt",
        books.name(),
        count(known),
        count(doubtful)
    );
    format!("{head}\n\n{}", indent(&aligned(&rows, |column| column == 1)))
        .trim_end()
        .to_owned()
}

/// Gives queries that were not billed back to the budget.
fn give_back(dir: &Path, books: &Books, comparison: &Comparison) -> Result<String, Failure> {
    let permits: Vec<Permit> = comparison.unbilled.clone();
    if permits.is_empty() {
        return Ok("\n  nothing to give back".into());
    }
    let lock = JobDir::open(dir)?;
    let failed = |error| ledger_failure(error, dir);
    let ledger = Ledger::create_or_open(dir, &books.genesis).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| Failure::new(Kind::Internal, error))?;
    let (given, counts) = runtime
        .block_on(async { Ok((ledger.acquit(permits).await?, ledger.counts().await?)) })
        .map_err(failed)?;
    renew_summary(&lock, &counts)?;
    let (given, left) = (counted(given as u64, "query", "queries"), count(counts.left()));
    Ok(format!("\n  {given} given back to the budget; {left} left"))
}

/// The bill has something that the ledger does not know of.
fn breach(comparison: &Comparison, shared: bool) -> Option<Failure> {
    if comparison.foreign == 0 || shared {
        return None;
    }
    let many = counted(comparison.foreign, "query", "queries");
    let message = format!(
        "the bill has {many} more than this ledger: another client uses this teacher, or the provider billed what \
         it did not answer, or something was sent without a record"
    );
    let names = comparison.foreign_names.join(", ");
    let hint = match names.is_empty() {
        true => "ask the provider for a bill by request".to_owned(),
        false => format!("look at {names}; --shared accepts queries of other clients"),
    };
    Some(Failure::message(Kind::Budget, message).hint(hint))
}
