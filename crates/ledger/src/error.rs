//! What can go wrong, and whether anything was spent: never, by an error of this crate.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why the ledger cannot do what was asked. Can be told to another process.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum LedgerError {
    /// There is none where one was to be read.
    #[error("there is no ledger {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
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
        what: Cow<'static, str>,
    },
    /// The budget is smaller than it was.
    #[error("the budget was {was} queries and may only grow, found {found}")]
    BudgetShrunk {
        /// As recorded.
        was: u64,
        /// As given now.
        found: u64,
    },
    /// Another process opened it since, whatever its lock says: this one may not write any more.
    #[error("the ledger was opened by another process while this one had it")]
    Superseded,
    /// Another version of this program wrote it.
    #[error("the ledger has format {found}, expected {expected}: another version wrote it")]
    OtherFormat {
        /// What this version reads and writes.
        expected: u64,
        /// What the file has; 0 when it does not say.
        found: u64,
    },
    /// A label of another job: nothing of the call was kept.
    #[error("expected labels of {expected} classes, found {found}")]
    Classes {
        /// Classes of the job.
        expected: usize,
        /// Classes of the label.
        found: usize,
    },
    /// A journal entry that is too large: nothing of the call was kept.
    #[error("a journal entry has {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Bytes of the entry.
        found: usize,
        /// Bytes that it may have.
        limit: usize,
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
        /// What the system said.
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
}

impl LedgerError {
    /// From what the system says.
    pub(crate) fn of(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let cause = error.to_string();
        match error.kind() {
            // Disk full, quota exceeded, or a limit of the file's size.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::StorageFull { cause },
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Self::Damaged { cause },
            _ => Self::Storage { cause },
        }
    }

    pub(crate) fn damaged(cause: impl Into<String>) -> Self {
        Self::Damaged { cause: cause.into() }
    }
}
