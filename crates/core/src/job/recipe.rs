//! Whole training recipes under a name, each number of which a job file may replace.

use serde::Deserialize;

use super::training::{Augmentation, Determinism, Mixing, Optimizer, Restart, Schedule, TrainingSpec};

/// A published way to train, or our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// Active Mixup (arXiv 2003.13960) for AlexNet: SGD at 0.1 by the author's reply, 200 epochs in
    /// blocks.
    #[default]
    ActiveMixup,
    /// FS-BBT (arXiv 2207.12106), released code for MNIST: Adam at 0.001, batches of 64, mixed with
    /// themselves and jittered, 50 epochs.
    FsBbt,
    /// ONE (arXiv 1806.04606): SGD at 0.1, 300 epochs, a tenth of the rate at half and three quarters.
    One,
    /// The one that does best in our measurements: SGD at 0.05 along a cosine, every image jittered
    /// in every epoch, at least 3,750 steps.
    Strong,
}

impl Recipe {
    /// Every number of it.
    #[must_use]
    pub fn training(self) -> TrainingSpec {
        let active_mixup = TrainingSpec {
            epochs: 200,
            min_steps: 0,
            batch: 128,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            schedule: Schedule::Blocks,
            warmup_steps: 0,
            restart: Restart::Fresh,
            augmentation: Augmentation::None,
            mixing: Mixing::None,
            determinism: Determinism::Strict,
            shards: None,
            seed: 0,
        };
        match self {
            Self::ActiveMixup => active_mixup,
            Self::FsBbt => TrainingSpec {
                epochs: 50,
                batch: 64,
                optimizer: Optimizer::Adam,
                learning_rate: 1e-3,
                weight_decay: 0.0,
                schedule: Schedule::Constant,
                augmentation: Augmentation::Jitter,
                mixing: Mixing::Uniform,
                ..active_mixup
            },
            Self::One => TrainingSpec {
                epochs: 300,
                weight_decay: 1e-4,
                schedule: Schedule::Steps,
                augmentation: Augmentation::CropFlip,
                ..active_mixup
            },
            Self::Strong => TrainingSpec {
                epochs: 60,
                min_steps: 3_750,
                learning_rate: 0.05,
                schedule: Schedule::Cosine,
                warmup_steps: 200,
                augmentation: Augmentation::Jitter,
                ..active_mixup
            },
        }
    }
}

impl Default for TrainingSpec {
    fn default() -> Self {
        Recipe::default().training()
    }
}

/// Training as a job file says it: a recipe, and what differs from it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Written {
    recipe: Recipe,
    epochs: Option<u32>,
    min_steps: Option<u32>,
    batch: Option<u32>,
    optimizer: Option<Optimizer>,
    learning_rate: Option<f64>,
    momentum: Option<f64>,
    weight_decay: Option<f64>,
    schedule: Option<Schedule>,
    warmup_steps: Option<u32>,
    restart: Option<Restart>,
    augmentation: Option<Augmentation>,
    mixing: Option<Mixing>,
    determinism: Option<Determinism>,
    shards: Option<u32>,
    seed: Option<u64>,
}

impl From<Written> for TrainingSpec {
    fn from(written: Written) -> Self {
        let of_recipe = written.recipe.training();
        Self {
            epochs: written.epochs.unwrap_or(of_recipe.epochs),
            min_steps: written.min_steps.unwrap_or(of_recipe.min_steps),
            batch: written.batch.unwrap_or(of_recipe.batch),
            optimizer: written.optimizer.unwrap_or(of_recipe.optimizer),
            learning_rate: written.learning_rate.unwrap_or(of_recipe.learning_rate),
            momentum: written.momentum.unwrap_or(of_recipe.momentum),
            weight_decay: written.weight_decay.unwrap_or(of_recipe.weight_decay),
            schedule: written.schedule.unwrap_or(of_recipe.schedule),
            warmup_steps: written.warmup_steps.unwrap_or(of_recipe.warmup_steps),
            restart: written.restart.unwrap_or(of_recipe.restart),
            augmentation: written.augmentation.unwrap_or(of_recipe.augmentation),
            mixing: written.mixing.unwrap_or(of_recipe.mixing),
            determinism: written.determinism.unwrap_or(of_recipe.determinism),
            shards: written.shards.or(of_recipe.shards),
            seed: written.seed.unwrap_or(of_recipe.seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(text: &str) -> TrainingSpec {
        serde_saphyr::from_str(text).expect("valid")
    }

    #[test]
    fn a_recipe_is_whole_and_every_number_may_be_replaced() {
        assert_eq!(training("{}"), Recipe::ActiveMixup.training());
        assert_eq!(training("recipe: fs-bbt"), Recipe::FsBbt.training());
        let changed = training("{ recipe: strong, epochs: 7, augmentation: crop-flip, mixing: uniform }");
        let want = TrainingSpec {
            epochs: 7,
            augmentation: Augmentation::CropFlip,
            mixing: Mixing::Uniform,
            ..Recipe::Strong.training()
        };
        assert_eq!(changed, want);
    }

    #[test]
    fn what_is_written_down_is_whole_and_reads_back() {
        let unlike_any = TrainingSpec {
            epochs: 3,
            min_steps: 4,
            batch: 5,
            optimizer: Optimizer::Adam,
            learning_rate: 0.25,
            momentum: 0.5,
            weight_decay: 0.125,
            schedule: Schedule::Constant,
            warmup_steps: 6,
            restart: Restart::Warm,
            augmentation: Augmentation::CropFlip,
            mixing: Mixing::Uniform,
            determinism: Determinism::Fast,
            shards: Some(8),
            seed: 9,
        };
        let recipes = [Recipe::ActiveMixup, Recipe::FsBbt, Recipe::One, Recipe::Strong].map(Recipe::training);
        for spec in recipes.into_iter().chain([unlike_any]) {
            let text = serde_json::to_string(&spec).expect("plain data");
            assert_eq!(serde_json::from_str::<TrainingSpec>(&text).expect("reads back"), spec);
        }
    }
}
