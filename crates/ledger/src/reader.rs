//! Reads the ledger of a job that is not running, for reports and exports.

use std::collections::HashMap;
use std::path::Path;

use redb::ReadOnlyDatabase;
use stillhouse_core::Key;

use crate::counts::Counts;
use crate::error::LedgerError;
use crate::handle::{Entry, Genesis, entries};
use crate::permit::{Book, Record};
use crate::store::{Head, Store, file};

/// A ledger open for reading, which keeps writers out. Its calls block on the disk.
pub struct Reader {
    store: Store<ReadOnlyDatabase>,
    head: Head,
    records: HashMap<Key, Record>,
}

impl Reader {
    /// What the ledger in `dir` is for and what it may spend, without reading its records.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn head_of(dir: &Path) -> Result<Head, LedgerError> {
        Store::read(dir)?.head()?.ok_or_else(|| LedgerError::Missing { path: file(dir) })
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
        let records = store.records()?;
        Ok(Self { store, head, records })
    }

    /// What the ledger is for.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.head.genesis
    }

    /// Charges by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Genesis {
            budget, on_ambiguous, ..
        } = self.head.genesis;
        Book::new(budget, on_ambiguous, self.head.epoch, self.records.clone()).counts()
    }

    /// Every query, in order of keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, LedgerError> {
        entries(&self.store, self.records.iter())
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.store.journal()
    }
}
