//! What can go wrong with a student, and what the caller can do about it.

use stillhouse_collective::CollectiveError;
use stillhouse_core::ImageShape;
use tch::TchError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudentError {
    /// The architecture cannot take images of this shape: choose another one.
    #[error("{network} does not fit {shape} images: {reason}")]
    Misfit {
        /// Architecture.
        network: &'static str,
        /// Shape of the images.
        shape: ImageShape,
        /// What was expected and found.
        reason: String,
    },
    /// The TorchScript module cannot be a student: export it again.
    #[error("the TorchScript student {reason}")]
    Script {
        /// What was expected and found.
        reason: String,
    },
    /// The weights do not belong to this network, or are no weights at all.
    #[error("the weights do not fit the network: {reason}")]
    Weights {
        /// What was expected and found.
        reason: String,
    },
    /// A setting or a data set that cannot be trained with: correct it.
    #[error("cannot train: {reason}")]
    Training {
        /// What was expected and found.
        reason: String,
    },
    /// The loss stopped being a number: lower the learning rate or warm up.
    #[error("training diverged at step {step}: the loss is {loss}")]
    Diverged {
        /// Step, from 0, counted over all epochs.
        step: u64,
        /// The loss that was found.
        loss: f32,
    },
    /// A file that should hold a training under way does not.
    #[error("cannot go on with a training: {reason}")]
    State {
        /// What was expected and found.
        reason: String,
    },
    /// The observer asked to stop; the session can go on from here.
    #[error("training was stopped at step {step}")]
    Stopped {
        /// Steps that were done.
        step: u64,
    },
    /// The other ranks are gone: the session can go on with the new membership.
    #[error("the ranks lost each other at step {step}")]
    Collective {
        /// Step that was not applied.
        step: u64,
        /// What the collective found.
        #[source]
        source: CollectiveError,
    },
    /// The device that was asked for is not there.
    #[error("cannot compute on {wanted}: {reason}")]
    Device {
        /// What was asked for.
        wanted: String,
        /// What was found instead.
        reason: String,
    },
    /// libtorch failed, for example for want of memory.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A computing thread could not be started or ended early.
    #[error("computing thread: {0}")]
    Thread(String),
}

/// Longest message of libtorch that is kept, in characters.
const TORCH_MESSAGE_CHARS: usize = 400;

/// The part of a message of libtorch that a reader wants: before the C++ stack, bounded.
pub(crate) fn first_lines(message: &str) -> String {
    let text = message.split("Exception raised from").next().unwrap_or(message);
    let text = text.split("\nframe #").next().unwrap_or(text).trim();
    text.chars().take(TORCH_MESSAGE_CHARS).collect()
}

impl From<TchError> for StudentError {
    fn from(error: TchError) -> Self {
        match error {
            TchError::Torch(message) => Self::Torch(first_lines(&message)),
            other => Self::Torch(first_lines(&other.to_string())),
        }
    }
}
