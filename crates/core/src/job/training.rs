//! How students are trained, as a job file says it.

use serde::{Deserialize, Serialize};

use super::recipe::Written;

/// How students are trained. A job file names a [`Recipe`] and what differs from it; here it is
/// whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Written")]
pub struct TrainingSpec {
    /// Passes over the transfer set; see [`TrainingSpec::epochs_over`].
    pub epochs: u32,
    /// Fewest optimiser steps of a training: where the epochs of a small transfer set make fewer,
    /// there are more epochs, and the schedule stretches over them. 0: the epochs as they are.
    pub min_steps: u32,
    /// Samples a step.
    pub batch: u32,
    /// Optimiser.
    pub optimizer: Optimizer,
    /// Initial learning rate.
    pub learning_rate: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0 first.
    pub warmup_steps: u32,
    /// What happens to the student between rounds.
    pub restart: Restart,
    /// Random changes of the training images (never of the queries).
    pub augmentation: Augmentation,
    /// Mixes the samples of a batch with each other, labels and all (never the queries).
    #[serde(skip_serializing_if = "Mixing::is_none")]
    pub mixing: Mixing,
    /// Whether the student is bit-identical for any number of workers.
    pub determinism: Determinism,
    /// Virtual shards of a step: a power of two; see [`Spec::shards`] for its default.
    pub shards: Option<u32>,
    /// Seed of initial weights, order, augmentation and random acquisition.
    pub seed: u64,
}

/// Most epochs of a training.
pub(super) const MAX_EPOCHS: u32 = 100_000;

impl TrainingSpec {
    /// Passes that a training over `samples` makes: `epochs`, or as many more as `min_steps` takes.
    #[must_use]
    pub fn epochs_over(&self, samples: u64) -> u32 {
        let steps = steps_an_epoch(samples, u64::from(self.batch));
        let least = u64::from(self.min_steps).div_ceil(steps);
        let least = u32::try_from(least).map_or(MAX_EPOCHS, |least| least.min(MAX_EPOCHS));
        self.epochs.max(least)
    }
}

/// Steps of one pass over `samples`, each of `batch` (at least 1). The last one may be smaller; a
/// single left-over sample joins the step before it, as batch normalisation over one is undefined.
#[must_use]
pub fn steps_an_epoch(samples: u64, batch: u64) -> u64 {
    match (samples / batch, samples % batch) {
        (0, _) => 1,
        (full, 0 | 1) => full,
        (full, _) => full + 1,
    }
}

/// Optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with betas 0.9 and 0.999.
    Adam,
}

/// Learning-rate schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Four blocks of 40, 30, 20 and 10 % of the epochs, a tenth of the rate each, momentum reset
    /// (Active Mixup's released code: 80/60/40/20 of 200).
    Blocks,
    /// A tenth of the rate after half of the epochs, a hundredth after three quarters (ONE).
    Steps,
    /// Half a cosine down to zero.
    Cosine,
    /// Always the same rate (FS-BBT, with Adam).
    Constant,
}

/// What happens to the student between rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// New initial weights each round.
    Fresh,
    /// Goes on from the last round's weights.
    Warm,
}

/// Random changes of training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augmentation {
    /// None.
    None,
    /// Rotation within 10 degrees and shift within 10 %.
    Jitter,
    /// Crop after padding by 4, and horizontal flip.
    CropFlip,
}

/// Mixing of a batch's samples with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixing {
    /// None.
    #[default]
    None,
    /// Each with another one of the batch, images and soft labels, at a uniform weight: Beta(1, 1)
    /// of FS-BBT.
    Uniform,
}

impl Mixing {
    /// Whether nothing is mixed.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// How far training depends on who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Determinism {
    /// Bit-identical students for any number of workers and any failures.
    Strict,
    /// Gradients are added in the quickest order, which depends on the number of workers: students
    /// differ in the last bits, and the query batches they choose may too.
    Fast,
}
