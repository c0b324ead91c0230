//! One optimiser step on the flat parameters, as PyTorch does it.

use stillhouse_core::job::Optimizer;
use tch::{Kind, TchError, Tensor};

use super::config::TrainConfig;
use crate::error::StudentError;
use crate::ffi::{AdamState, Sgd, adam_step};

/// What the optimiser remembers between steps.
#[derive(Debug)]
pub(crate) enum OptimizerState {
    /// Velocity of each parameter.
    Sgd { velocities: Tensor },
    /// First and second moments, steps.
    Adam(AdamState),
}

impl OptimizerState {
    /// Nothing remembered yet, for flat parameters like `weights`.
    pub(crate) fn new(optimizer: Optimizer, weights: &Tensor) -> Result<Self, StudentError> {
        let zeros = || weights.f_zeros_like();
        Ok(match optimizer {
            Optimizer::Sgd => Self::Sgd { velocities: zeros()? },
            Optimizer::Adam => {
                let step = Tensor::f_zeros([1], (Kind::Float, weights.device()))?;
                Self::Adam(AdamState {
                    means: zeros()?,
                    squares: zeros()?,
                    step,
                })
            }
        })
    }

    /// What is remembered, by name.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Sgd { velocities } => vec![("sgd.velocities", velocities)],
            Self::Adam(AdamState { means, squares, step }) => {
                vec![("adam.means", means), ("adam.squares", squares), ("adam.step", step)]
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) -> Result<(), TchError> {
        match self {
            Self::Sgd { velocities } => velocities.f_zero_().map(drop),
            Self::Adam(state) => [&mut state.means, &mut state.squares, &mut state.step]
                .into_iter()
                .try_for_each(|t| t.f_zero_().map(drop)),
        }
    }

    /// Moves `weights` against `gradients`, both flat.
    pub(crate) fn step(
        &mut self,
        config: &TrainConfig,
        rate: f64,
        weights: &Tensor,
        gradients: &Tensor,
    ) -> Result<(), StudentError> {
        let TrainConfig {
            momentum, weight_decay, ..
        } = *config;
        match self {
            Self::Sgd { velocities } => Sgd {
                rate,
                momentum,
                weight_decay,
            }
            .step(weights, gradients, velocities)
            .map_err(StudentError::Torch),
            Self::Adam(state) => {
                let _same = state.step.f_add_scalar_(1.0)?;
                adam_step(weights, gradients, state, rate, weight_decay).map_err(StudentError::Torch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Augmentation, OneLoss};
    use stillhouse_core::job::{Mixing, Schedule};
    use tch::Device;
    use tch::nn::{self, OptimizerConfig};

    fn config(optimizer: Optimizer) -> TrainConfig {
        TrainConfig {
            epochs: 1,
            batch: 2,
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 0.01,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            optimizer,
            augmentation: Augmentation::None,
            shards: 1,
            seed: 0,
            round: 0,
            evaluate_every: 0,
            one: OneLoss::default(),
            mixing: Mixing::None,
            determinism: stillhouse_core::job::Determinism::Strict,
        }
    }

    /// Runs ours beside PyTorch's on the same gradients.
    fn compare(optimizer: Optimizer, theirs: impl FnOnce(&nn::VarStore) -> nn::Optimizer) {
        let store = nn::VarStore::new(Device::Cpu);
        let weights = store
            .root()
            .var("w", &[1_003], nn::Init::Randn { mean: 0.0, stdev: 1.0 });
        let ours = weights.detach().copy();
        let mut theirs = theirs(&store);
        let mut state = OptimizerState::new(optimizer, &ours).expect("floats");
        for step in 1..=6 {
            let loss = (&weights * f64::from(step)).sin().sum(Kind::Float);
            theirs.backward_step(&loss);
            let gradients = weights.grad().copy();
            state
                .step(&config(optimizer), 0.05, &ours, &gradients)
                .expect("same shapes");
            let difference = (&ours - &weights).abs().max().double_value(&[]);
            assert!(difference < 2e-6, "step {step}: {difference}");
        }
    }

    #[test]
    fn sgd_is_pytorchs() {
        let settings = nn::Sgd {
            momentum: 0.9,
            dampening: 0.0,
            wd: 0.01,
            nesterov: false,
        };
        compare(Optimizer::Sgd, |store| settings.build(store, 0.05).expect("builds"));
    }

    #[test]
    fn adam_is_pytorchs() {
        let settings = nn::Adam {
            wd: 0.01,
            ..Default::default()
        };
        compare(Optimizer::Adam, |store| settings.build(store, 0.05).expect("builds"));
    }

    #[test]
    fn a_reset_forgets_the_velocity() {
        let ones = || Tensor::ones([3], (Kind::Float, Device::Cpu));
        let (weights, gradients) = (ones(), ones());
        let mut state = OptimizerState::new(Optimizer::Sgd, &weights).expect("floats");
        let quiet = TrainConfig {
            weight_decay: 0.0,
            ..config(Optimizer::Sgd)
        };
        state.step(&quiet, 0.5, &weights, &gradients).expect("same shapes");
        state.reset().expect("zeros");
        state.step(&quiet, 0.5, &weights, &gradients).expect("same shapes");
        assert_eq!(Vec::<f32>::try_from(&weights).expect("floats"), [0.0; 3]);
    }
}
