//! How a student is trained: settings, their bounds, and the learning rate of each step.

use serde::{Deserialize, Serialize};
use stillhouse_core::job::{Determinism, Mixing, Optimizer, Schedule};

use super::one::OneLoss;
use crate::error::StudentError;

/// Random changes of training images, drawn anew for each sample and epoch. No query is spent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augmentation {
    /// None.
    None,
    /// Rotation and shift, bilinear, zeros outside: for digits and clothes.
    Jitter {
        /// Largest rotation either way, in degrees.
        degrees: f32,
        /// Largest shift either way, as a fraction of the side.
        shift: f32,
    },
    /// Crop after padding by 4 zeros, and horizontal flip: for natural images.
    CropFlip,
}

/// Settings of one training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the transfer set.
    pub epochs: u32,
    /// Samples a step.
    pub batch: usize,
    /// Learning rate before warm-up and schedule.
    pub learning_rate: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0 first.
    pub warmup_steps: u64,
    /// Optimiser.
    pub optimizer: Optimizer,
    /// Random changes of the images.
    pub augmentation: Augmentation,
    /// Virtual shards of a step, a power of two: the most ranks times threads that can share it.
    /// Batch normalisation sees one shard at a time.
    pub shards: usize,
    /// Seed of initial weights, order, augmentation and dropout.
    pub seed: u64,
    /// Round of the job: each has its own random numbers.
    pub round: u64,
    /// Epochs between two evaluations; the last epoch is always evaluated. 0: only the last.
    pub evaluate_every: u32,
    /// How the branches of a multi-branch student learn from each other.
    pub one: OneLoss,
    /// What becomes of a batch before it is augmented.
    pub mixing: Mixing,
    /// Whether sums have the same bits for any number of ranks, or may be the quickest.
    pub determinism: Determinism,
}

/// Upper bounds of settings, so that a bad file cannot exhaust memory.
const MAX_EPOCHS: u32 = 100_000;
const MAX_BATCH: usize = 1 << 16;
const MAX_SHARDS: usize = 64;

impl TrainConfig {
    /// Checks that every setting can be trained with.
    ///
    /// # Errors
    /// [`StudentError::Training`], which names the setting.
    pub fn check(&self) -> Result<(), StudentError> {
        let (jitter_degrees, jitter_shift) = match self.augmentation {
            Augmentation::Jitter { degrees, shift } => (degrees, shift),
            Augmentation::None | Augmentation::CropFlip => (0.0, 0.0),
        };
        let checks = [
            (
                (1..=MAX_EPOCHS).contains(&self.epochs),
                "epochs from 1 to 100000",
                self.epochs.to_string(),
            ),
            (
                (2..=MAX_BATCH).contains(&self.batch),
                "a batch of 2 to 65536",
                self.batch.to_string(),
            ),
            (
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
                "a positive learning rate",
                self.learning_rate.to_string(),
            ),
            (
                (0.0..1.0).contains(&self.momentum),
                "a momentum from 0 to below 1",
                self.momentum.to_string(),
            ),
            (
                (0.0..=1.0).contains(&self.weight_decay),
                "a weight decay from 0 to 1",
                self.weight_decay.to_string(),
            ),
            (
                self.shards.is_power_of_two() && self.shards <= MAX_SHARDS,
                "a power of two of shards up to 64",
                self.shards.to_string(),
            ),
            (
                (0.0..=180.0).contains(&jitter_degrees),
                "jitter of 0 to 180 degrees",
                jitter_degrees.to_string(),
            ),
            (
                (0.0..=1.0).contains(&jitter_shift),
                "a jitter shift from 0 to 1",
                jitter_shift.to_string(),
            ),
        ];
        let one = (
            self.one.temperature > 0.0 && self.one.temperature.is_finite() && (0.0..=1.0).contains(&self.one.ramp),
            "a temperature above 0 and a ramp from 0 to 1 for branches",
            format!("{} and {}", self.one.temperature, self.one.ramp),
        );
        match checks.into_iter().chain([one]).find(|(fine, ..)| !fine) {
            None => Ok(()),
            Some((_, expected, found)) => Err(StudentError::Training {
                reason: format!("expected {expected}, found {found}"),
            }),
        }
    }

    /// Learning rate of `step` (from 0, over all epochs) of `steps`, in `epoch`.
    #[must_use]
    pub(crate) fn rate(&self, epoch: u32, step: u64, steps: u64) -> f64 {
        let warm = if step < self.warmup_steps {
            (step + 1) as f64 / self.warmup_steps as f64
        } else {
            1.0
        };
        let fall = match self.schedule {
            Schedule::Blocks => 0.1_f64.powi(self.block_starts().filter(|start| *start <= epoch).count() as i32),
            Schedule::Steps => 0.1_f64.powi(self.step_starts().filter(|start| *start <= epoch).count() as i32),
            Schedule::Constant => 1.0,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos()),
        };
        self.learning_rate * warm * fall
    }

    /// Whether the optimiser forgets its momentum before `epoch`.
    pub(crate) fn resets(&self, epoch: u32) -> bool {
        match self.schedule {
            Schedule::Blocks => self.block_starts().any(|start| start == epoch),
            Schedule::Steps | Schedule::Cosine | Schedule::Constant => false,
        }
    }

    /// First epochs of the second, third and fourth block: after 40, 70 and 90 % (Active Mixup's
    /// released code: 80, 60, 40 and 20 of 200 epochs).
    fn block_starts(&self) -> impl Iterator<Item = u32> {
        [4_u64, 7, 9]
            .into_iter()
            .map(|tenths| (u64::from(self.epochs) * tenths).div_ceil(10) as u32)
    }

    /// Epochs at which the rate falls: after a half and three quarters.
    fn step_starts(&self) -> impl Iterator<Item = u32> {
        [2_u64, 3]
            .into_iter()
            .map(|quarters| (u64::from(self.epochs) * quarters).div_ceil(4) as u32)
    }

    /// Whether the student is evaluated after `epoch`.
    pub(crate) fn evaluates(&self, epoch: u32) -> bool {
        let done = epoch + 1;
        done == self.epochs || (self.evaluate_every > 0 && done.is_multiple_of(self.evaluate_every))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::train) fn config(epochs: u32, schedule: Schedule, warmup_steps: u64) -> TrainConfig {
        TrainConfig {
            epochs,
            batch: 128,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            schedule,
            warmup_steps,
            optimizer: Optimizer::Sgd,
            augmentation: Augmentation::None,
            shards: 4,
            seed: 0,
            round: 0,
            evaluate_every: 0,
            one: OneLoss::default(),
            mixing: Mixing::None,
            determinism: Determinism::Strict,
        }
    }

    #[test]
    fn two_hundred_epochs_fall_into_blocks_of_80_60_40_and_20() {
        let config = config(200, Schedule::Blocks, 0);
        let resets: Vec<u32> = (0..200).filter(|epoch| config.resets(*epoch)).collect();
        assert_eq!(resets, [80, 140, 180]);
        for (epoch, want) in [(0, 0.1), (79, 0.1), (80, 0.01), (140, 0.001), (199, 0.0001)] {
            assert!((config.rate(epoch, 0, 1) / want - 1.0).abs() < 1e-12, "epoch {epoch}");
        }
    }

    #[test]
    fn steps_fall_at_a_half_and_three_quarters() {
        let config = config(300, Schedule::Steps, 0);
        for (epoch, want) in [
            (0, 0.1),
            (149, 0.1),
            (150, 0.01),
            (224, 0.01),
            (225, 0.001),
            (299, 0.001),
        ] {
            assert!((config.rate(epoch, 0, 1) / want - 1.0).abs() < 1e-12, "epoch {epoch}");
        }
        assert!((0..300).all(|epoch| !config.resets(epoch)));
    }

    #[test]
    fn a_single_epoch_keeps_its_learning_rate() {
        assert_eq!(config(1, Schedule::Blocks, 0).rate(0, 5, 10), 0.1);
    }

    #[test]
    fn the_cosine_starts_at_the_full_rate_and_ends_near_zero() {
        let config = config(10, Schedule::Cosine, 0);
        assert_eq!(config.rate(0, 0, 1_000), 0.1);
        assert!((config.rate(5, 500, 1_000) - 0.05).abs() < 1e-12);
        assert!(config.rate(9, 999, 1_000) < 1e-6);
    }

    #[test]
    fn warm_up_rises_linearly_to_the_schedule() {
        let config = config(10, Schedule::Blocks, 4);
        for (step, want) in (0..).zip([0.025, 0.05, 0.075, 0.1, 0.1]) {
            assert!((config.rate(0, step, 100) - want).abs() < 1e-12, "step {step}");
        }
    }

    #[test]
    fn settings_that_cannot_train_are_named() {
        let good = config(1, Schedule::Cosine, 0);
        assert!(good.check().is_ok());
        let bad = TrainConfig {
            shards: 3,
            ..good.clone()
        };
        let message = bad.check().expect_err("three shards").to_string();
        assert_eq!(
            message,
            "cannot train: expected a power of two of shards up to 64, found 3"
        );
        let bad = TrainConfig {
            learning_rate: f64::NAN,
            ..good.clone()
        };
        assert!(bad.check().is_err());
        let augmentation = Augmentation::Jitter {
            degrees: f32::INFINITY,
            shift: 0.1,
        };
        assert!(TrainConfig { augmentation, ..good }.check().is_err());
    }
}
