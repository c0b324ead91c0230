//! Reads the ledger of a job that is not running, for reports and exports.

use std::path::Path;

use redb::ReadOnlyDatabase;

use crate::book::Book;
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::handle::{Entry, Genesis, entries};
use crate::store::{Head, Store, file};

/// A ledger open for reading, which keeps writers out. Its calls block on the disk.
pub struct Reader {
    store: Store<ReadOnlyDatabase>,
    head: Head,
    book: Book,
}

impl Reader {
    /// What the ledger in `dir` is for and what it may spend, without reading its records.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn head_of(dir: &Path) -> Result<Head, LedgerError> {
        Store::read(dir)?
            .head()?
            .ok_or_else(|| LedgerError::Missing { path: file(dir) })
    }

    /// Opens the ledger in `dir`. Changes no row of it: after a kill, charges are shown as they
    /// were left.
    ///
    /// # Errors
    /// When there is none, a job is running on it, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let store = Store::read(dir)?;
        let missing = || LedgerError::Missing { path: file(dir) };
        let head = store.head()?.ok_or_else(missing)?;
        let book = Book::open(head.budget(), head.genesis.on_ambiguous, head.epoch, store.records()?);
        Ok(Self { store, head, book })
    }

    /// What the ledger is for. Its budget is the job's; [`Reader::counts`] has what was granted.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.head.genesis
    }

    /// Charges by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.book.counts()
    }

    /// Every query, in order of keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, LedgerError> {
        entries(&self.store, self.book.records())
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.store.journal()
    }
}
