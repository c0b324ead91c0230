//! `stillhouse ledger export`: every query with its label in one file.

use std::path::Path;

use stillhouse_core::Job;
use stillhouse_ledger::{Entry, State};

use crate::books::images::Images;
use crate::books::{Books, cause, decisive, state_name};
use crate::export::{Format, Header, Row, encode};
use crate::failure::{Failure, Kind};
use crate::job_dir::write_file;
use crate::labels_file::Columns;
use crate::report::number::counted;

/// Writes the queries of the job in `dir` into `file`.
///
/// # Errors
/// When the books cannot be read or the file not be written.
pub(super) fn export(dir: &Path, file: &Path) -> Result<String, Failure> {
    let format = Format::of(file)?;
    let books = Books::read(dir)?;
    let job = books.job.as_ref().ok_or_else(|| no_job(dir))?;
    let images = Images::read(dir, job)?;
    let rows: Result<Vec<Row>, Failure> = books.entries.iter().map(|entry| row(entry, &images)).collect();
    let (rows, header) = (rows?, header(&books, job, &images));
    write_file(file, &encode(format, &header, &rows)?)?;
    let labelled = rows.iter().filter(|row| row.label.is_some()).count() as u64;
    let (labels, file) = (counted(labelled, "label", "labels"), file.display());
    Ok(match format {
        Format::Safetensors => format!("wrote {labels} to {file}"),
        Format::Parquet => {
            let queries = counted(rows.len() as u64, "query", "queries");
            format!("wrote {queries} with {labels} to {file}")
        }
    })
}

fn no_job(dir: &Path) -> Failure {
    let message = format!(
        "expected a job file that this version can read, found none in {}",
        dir.display()
    );
    Failure::message(Kind::Directory, message)
}

fn header(books: &Books, job: &Job, images: &Images) -> Header {
    Header {
        job: job.name.clone(),
        fingerprint: books.genesis.fingerprint,
        classes: books.genesis.classes,
        shape: Some(images.shape()),
    }
}

fn row(entry: &Entry, images: &Images) -> Result<Row, Failure> {
    let foreign = || {
        Failure::message(
            Kind::Storage,
            "the ledger holds a pair that this job's pool does not offer",
        )
        .hint("stillhouse ledger verify says more")
    };
    let charge = decisive(entry);
    let billed = entry.charges.iter().filter(|charge| charge.state != State::Reserved);
    Ok(Row {
        key: entry.key,
        sample: Columns::of(&images.pool(), entry.sample).ok_or_else(foreign)?,
        arm: entry.arm,
        state: match charge {
            _ if entry.imported => "imported",
            Some(charge) => state_name(&charge.state),
            None => "given-back",
        },
        charges: billed.count() as u32,
        request: charge
            .and_then(|charge| charge.request)
            .map(|request| request.to_string()),
        cause: charge
            .filter(|_| entry.label.is_none())
            .and_then(|charge| cause(&charge.state))
            .map(str::to_owned),
        label: entry.label.clone(),
    })
}
