//! What can go wrong, with rank, operation and cause.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// A library could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such library, or the loader refuses it: name the right one.
    #[error("cannot open the library {}", path.display())]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// The loader's reason.
        source: libloading::Error,
    },
    /// A library was opened that is another one or too old: name the right one.
    #[error("the library {} has no function {symbol}", path.display())]
    Symbol {
        /// What was opened.
        path: PathBuf,
        /// The first function that is missing.
        symbol: &'static str,
        /// The loader's reason.
        source: libloading::Error,
    },
}

/// Why the library failed, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `ncclResult_t`.
    pub code: i32,
    /// The library's text for the code.
    pub text: String,
    /// The library's last complaint in this process, which is not always about this failure; may be
    /// empty.
    pub last_message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.text, self.code)?;
        if self.last_message.is_empty() {
            return Ok(());
        }
        write!(f, "; last message of NCCL: {}", self.last_message)
    }
}

/// One of the ranks that work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// How many ranks there are.
    pub world_size: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world_size)
    }
}

/// An operation failed.
#[derive(Debug, Error)]
pub enum NcclError {
    /// The library refused something that no rank has part in.
    #[error("{operation} failed: {cause}")]
    Library {
        /// What was tried.
        operation: &'static str,
        /// The library's reason.
        cause: Cause,
    },
    /// The operation failed, at once or later. Abort the communicator, or shrink it.
    #[error("{place}: {operation} failed: {cause}")]
    Failed {
        /// Who.
        place: Place,
        /// What was tried.
        operation: &'static str,
        /// The library's reason.
        cause: Cause,
    },
    /// The operation was not done in time. Abort the communicator, or shrink it.
    #[error("{place}: {operation} was not done after {waited:?}")]
    TimedOut {
        /// Who.
        place: Place,
        /// What was waited for.
        operation: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The communicator was aborted before or during the operation.
    #[error("{place}: {operation} ended because the communicator was aborted")]
    Aborted {
        /// Who.
        place: Place,
        /// What was tried or waited for.
        operation: &'static str,
    },
    /// The caller's own look at the stream failed.
    #[error("{place}: {operation}: the stream failed: {reason}")]
    Stream {
        /// Who.
        place: Place,
        /// What was waited for.
        operation: &'static str,
        /// What the caller's function said.
        reason: String,
    },
    /// The arguments do not fit together. Nothing was sent.
    #[error("{place}: {operation}: {reason}")]
    Argument {
        /// Who.
        place: Place,
        /// What was asked for.
        operation: &'static str,
        /// What was expected and what was found.
        reason: String,
    },
    /// The library is too old to shrink a communicator: abort and make a new one.
    #[error("{place}: NCCL {version} cannot shrink a communicator, which needs 2.27 or later")]
    NoShrink {
        /// Who.
        place: Place,
        /// The library's version.
        version: String,
    },
}
