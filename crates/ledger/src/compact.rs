//! Writes a log anew without what is outdated. Done when a ledger is opened: a running job only
//! appends.

use std::path::Path;

use stillhouse_core::{Key, SoftLabel};

use crate::book::Book;
use crate::error::LedgerError;
use crate::permit::Record;
use crate::store::{Changes, Head, Store, draft_file};

/// A log below this is never worth the trouble: reading it takes a tenth of a second.
const SMALL_BYTES: u64 = 64 << 20;
/// A log is written anew when it has so many times the bytes that it needs. A query's life writes
/// its record three times.
const GARBAGE: u64 = 4;
/// Records in a frame: a few megabytes.
const CHUNK: usize = 16_384;

/// Whether `store`, which holds `book`, is worth writing anew.
pub(crate) fn is_worth_it(store: &Store, book: &Book) -> bool {
    store.len() > SMALL_BYTES && store.len() > GARBAGE * store.needed_bytes(book.records().count())
}

/// The ledger of `dir` written anew with `head`; the old one until all of it is on disk.
///
/// # Errors
/// When it cannot be read or written; then the old one is as it was.
pub(crate) fn compact(dir: &Path, old: &Store, head: &Head, book: &Book) -> Result<Store, LedgerError> {
    rewrite(dir, old, head, book).inspect_err(|_| {
        // It only takes room.
        let _ = std::fs::remove_file(draft_file(dir));
    })
}

fn rewrite(dir: &Path, old: &Store, head: &Head, book: &Book) -> Result<Store, LedgerError> {
    let mut new = Store::draft(dir, head)?;
    let mut records = book.records().enumerate().peekable();
    while records.peek().is_some() {
        let chunk: Vec<(usize, &Key, &Record)> = (records.by_ref().take(CHUNK))
            .map(|(at, (key, record))| (at, key, record))
            .collect();
        let mut changes = Changes::default();
        for (at, ..) in &chunk {
            let label: Option<SoftLabel> = old.label(*at)?;
            changes.labels.extend(label.map(|label| (*at, label)));
        }
        new.append(chunk.into_iter(), &changes)?;
    }
    for at in 0..old.next_sequence() {
        let changes = Changes {
            journal: vec![old.entry(at)?],
            ..Changes::default()
        };
        new.append(std::iter::empty(), &changes)?;
    }
    new.publish()?;
    tracing::info!(was_bytes = old.len(), bytes = new.len(), "wrote the ledger anew");
    Ok(new)
}
