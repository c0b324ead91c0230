//! What can go wrong while scoring, and what the caller can do about it.

use stillhouse_core::ImageShape;

use crate::error::StudentError;

/// Errors of scoring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoringError {
    /// The network could not be built or run.
    #[error("the student cannot score")]
    Student(#[from] StudentError),
    /// The student answers with something that is not a number: train it again.
    #[error("the student has diverged: its answer for pair {pair} is not a number")]
    Diverged {
        /// The pair.
        pair: u64,
    },
    /// The seed images are not those of the student.
    #[error("the student takes {expected} images, the seed images are {found}")]
    Shape {
        /// Shape that the network takes.
        expected: ImageShape,
        /// Shape of the seed images.
        found: ImageShape,
    },
    /// The seed images, or the generated ones, are not those of the pool.
    #[error("the pool is over {expected} images, found {found}")]
    Seeds {
        /// Number of images of the pool.
        expected: u32,
        /// Number of images given.
        found: usize,
    },
    /// The pool has no such candidate.
    #[error("pair {pair} is not one of the pool's {pairs}")]
    OutsidePool {
        /// The pair.
        pair: u64,
        /// Number of candidates of the pool.
        pairs: u64,
    },
    /// The observer asked to stop.
    #[error("scoring was stopped")]
    Stopped,
    /// A computing thread could not be started, or it panicked.
    #[error("computing thread: {0}")]
    Thread(String),
}
