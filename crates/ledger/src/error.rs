//! What can go wrong, and whether anything was spent: never, by an error of this crate.

use std::path::PathBuf;

/// Why the ledger cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it open.
    #[error("the ledger {} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another job, or to another teacher.
    #[error("the ledger {} belongs to another {what}", path.display())]
    OtherJob {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The budget is smaller than it was.
    #[error("the budget was {was} queries and may only grow, found {found}")]
    BudgetShrunk {
        /// As recorded.
        was: u64,
        /// As given now.
        found: u64,
    },
    /// No room, and nothing more may be sent.
    #[error("no space left for the ledger: {cause}")]
    StorageFull {
        /// What the system said.
        cause: String,
    },
    /// The file cannot be read or written.
    #[error("the ledger cannot be read or written: {cause}")]
    Storage {
        /// What the store said.
        cause: String,
    },
    /// Something in the file is not what this version writes.
    #[error("the ledger is damaged: {cause}")]
    Damaged {
        /// What was found.
        cause: String,
    },
    /// A write failed before: the ledger takes no more, so that nothing is sent without a record.
    #[error("the ledger stopped after a failed write: {cause}")]
    Stopped {
        /// The first failure.
        cause: String,
    },
    /// A permit that is not valid any more: its query must not be sent.
    #[error("{stale} of {given} permits are not valid any more")]
    Stale {
        /// How many.
        stale: usize,
        /// Of so many.
        given: usize,
    },
}

impl LedgerError {
    /// From whatever redb says.
    pub(crate) fn of(error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        let cause = error.to_string();
        match error {
            redb::Error::Io(io) if is_full(&io) => Self::StorageFull { cause },
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => Self::Damaged { cause },
            _ => Self::Storage { cause },
        }
    }
}

/// Disk full, quota exceeded, or a file-size limit.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
