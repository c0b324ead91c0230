//! What a student is, without its weights.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stillhouse_core::ImageShape;
use stillhouse_core::job::{Architecture, MAX_BRANCHES};

use crate::error::StudentError;

/// Largest image, in pixels times channels.
const MAX_IMAGE: usize = 1 << 20;
/// Most classes.
const MAX_CLASSES: usize = 1 << 16;

/// What a student is, without its weights.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkSpec {
    /// A network of the [zoo](crate::zoo).
    Zoo {
        /// Which one.
        architecture: Architecture,
        /// Shape of its images.
        shape: ImageShape,
        /// Number of classes.
        classes: usize,
    },
    /// A multi-branch student: ONE (arXiv 1806.04606). Its branches share the first layers of a
    /// network of the zoo and have the last ones each for itself; a gate weighs their logits.
    One {
        /// The network that each branch is, together with the shared layers.
        architecture: Architecture,
        /// Shape of its images.
        shape: ImageShape,
        /// Number of classes.
        classes: usize,
        /// Number of branches, 2 to [`MAX_BRANCHES`].
        branches: usize,
        /// What it answers outside of training.
        head: Head,
    },
    /// A TorchScript module whose `forward` takes `[n, c, h, w]` and gives logits `[n, classes]`.
    /// The weights in it are its initial weights.
    TorchScript {
        /// Bytes of the `.pt` file.
        module: Arc<[u8]>,
        /// Shape of its images.
        shape: ImageShape,
        /// Number of classes.
        classes: usize,
    },
}

impl NetworkSpec {
    /// Shape of the images.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        match self {
            Self::Zoo { shape, .. } | Self::One { shape, .. } | Self::TorchScript { shape, .. } => *shape,
        }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        match self {
            Self::Zoo { classes, .. } | Self::One { classes, .. } | Self::TorchScript { classes, .. } => *classes,
        }
    }

    /// Name of the architecture, or `torchscript`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Zoo { architecture, .. } | Self::One { architecture, .. } => architecture.name(),
            Self::TorchScript { .. } => "torchscript",
        }
    }

    /// Checks the bounds that hold for every network.
    pub(crate) fn check(&self) -> Result<(), StudentError> {
        let misfit = |reason: String| StudentError::Misfit {
            network: self.name(),
            shape: self.shape(),
            reason,
        };
        let ImageShape {
            channels,
            height,
            width,
        } = self.shape();
        let pixels = [channels, height, width]
            .iter()
            .try_fold(1_u32, |product, side| product.checked_mul(*side));
        if !pixels.is_some_and(|pixels| (1..=MAX_IMAGE).contains(&(pixels as usize))) {
            return Err(misfit(format!("expected 1 to {MAX_IMAGE} values an image")));
        }
        if !(2..=MAX_CLASSES).contains(&self.classes()) {
            return Err(misfit(format!(
                "expected 2 to {MAX_CLASSES} classes, found {}",
                self.classes()
            )));
        }
        match self {
            Self::One { branches, .. } if !(2..=MAX_BRANCHES).contains(branches) => Err(misfit(format!(
                "expected 2 to {MAX_BRANCHES} branches, found {branches}"
            ))),
            _ => Ok(()),
        }
    }
}

/// What a multi-branch student answers outside of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// The logits of the first branch, `[n, classes]`: the cost of a plain network.
    Branch,
    /// The gated sum of all branches' logits, `[n, classes]`.
    Ensemble,
    /// The logits of every branch side by side, `[n, branches * classes]`: for acquisition functions
    /// that ask how much the branches disagree.
    Committee,
}
