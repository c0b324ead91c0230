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
