//! Why a teacher cannot be used.

/// Why a teacher cannot be used. Nothing was spent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection, or no whole answer in time.
    #[error("the teacher at {address} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// It is there, but not ready yet.
    #[error("the teacher at {address} is not ready: {cause}")]
    NotReady {
        /// Where.
        address: String,
        /// Its answer.
        cause: String,
    },
    /// It refuses us, or knows no such model.
    #[error("the teacher at {address} answered {status} to {path}: {cause}")]
    Refused {
        /// Where.
        address: String,
        /// HTTP status, or under gRPC the one that means the same.
        status: u16,
        /// What was asked.
        path: String,
        /// Its answer.
        cause: String,
    },
    /// The job and the teacher do not fit.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// What the job or the protocol needs.
        expected: String,
        /// What the teacher says.
        found: String,
    },
}

impl ConnectError {
    /// Whether the same attempt would fail again: somebody has to mend the job or the teacher.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Mismatch { .. })
    }
}

pub(super) fn mismatch(what: &'static str, expected: impl Into<String>, found: impl std::fmt::Display) -> ConnectError {
    ConnectError::Mismatch {
        what,
        expected: expected.into(),
        found: found.to_string(),
    }
}
