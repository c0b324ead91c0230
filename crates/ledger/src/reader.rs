//! Reads the ledger of a job that is not running, for reports and exports.

use std::path::Path;

use crate::book::Book;
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::handle::{Entry, Genesis, entries};
use crate::lock::{Lock, Sharing};
use crate::store::{Head, Store, file};

/// A ledger open for reading, which keeps writers out. Its calls block on the disk.
pub struct Reader {
    store: Store,
    head: Head,
    book: Book,
    _lock: Lock,
}

impl Reader {
    /// What the ledger in `dir` is for and what it may spend.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn head_of(dir: &Path) -> Result<Head, LedgerError> {
        Ok(Self::open(dir)?.head)
    }

    /// Opens the ledger in `dir`. Changes nothing in it, and shows charges as the job's next start
    /// will find them: what was reserved is void, of what was sent nobody knows.
    ///
    /// # Errors
    /// When there is none, a job is running on it, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let lock = Lock::take(dir, Sharing::Readers)?;
        let missing = || LedgerError::Missing { path: file(dir) };
        let (store, replay) = Store::load(dir, Sharing::Readers)?.ok_or_else(missing)?;
        let head = replay.head;
        // As its next life will see it.
        let book = Book::open(head.budget(), head.genesis.on_ambiguous, head.epoch + 1, replay.records);
        Ok(Self {
            store,
            head,
            book,
            _lock: lock,
        })
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
        entries(&self.store, &self.book)
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.store.journal()
    }
}
