//! The loss of a multi-branch student whose gated ensemble teaches its own branches.
//!
//! Source: ONE (arXiv 1806.04606), eqs. 3 to 8. The targets here are the black box's answers, one-hot
//! or not, in place of true labels.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::StudentError;
use crate::network::BranchLogits;

/// How the ensemble of a multi-branch student teaches its branches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneLoss {
    /// Temperature at which branches follow the ensemble.
    pub temperature: f64,
    /// Part of the epochs over which that term's weight rises to 1, in `0..=1`.
    pub ramp: f64,
}

impl Default for OneLoss {
    /// The paper's: temperature 3, 80 of 300 epochs.
    fn default() -> Self {
        Self {
            temperature: 3.0,
            ramp: 80.0 / 300.0,
        }
    }
}

impl OneLoss {
    /// Weight of the distillation term in `epoch` (from 0) of `epochs`: `exp(-5 (1 - e/R)^2)`, the
    /// ramp of the released code.
    pub(crate) fn weight(&self, epoch: u32, epochs: u32) -> f64 {
        let (epoch, ramp) = (f64::from(epoch), self.ramp * f64::from(epochs));
        if epoch >= ramp {
            return 1.0;
        }
        (-5.0 * (1.0 - epoch / ramp).powi(2)).exp()
    }

    /// This shard's part of the batch's mean loss: cross-entropy of every branch and of the ensemble
    /// with the targets, plus `weight T^2 KL(ensemble at T, fixed, to branch at T)` of every branch.
    ///
    /// `targets` `[n, classes]` are probabilities over `-batch`.
    pub(crate) fn of(
        &self,
        answers: &BranchLogits,
        targets: &Tensor,
        weight: f64,
        batch: usize,
    ) -> Result<Tensor, StudentError> {
        let kind = targets.kind();
        let mut loss = cross_entropy(&answers.ensemble, targets)?;
        let taught = answers
            .ensemble
            .f_detach()?
            .f_div_scalar(self.temperature)?
            .f_log_softmax(-1, kind)?;
        let share = weight * self.temperature.powi(2) / batch as f64;
        for branch in &answers.branches {
            let follows = branch.f_div_scalar(self.temperature)?.f_log_softmax(-1, kind)?;
            let divergence = taught.f_exp()?.f_mul(&taught.f_sub(&follows)?)?.f_sum(kind)?;
            loss = loss
                .f_add(&cross_entropy(branch, targets)?)?
                .f_add(&divergence.f_mul_scalar(share)?)?;
        }
        Ok(loss)
    }
}

/// Cross-entropy of `logits` with `targets`, both `[n, classes]`; the targets bring the sign and the
/// division by the batch.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor, StudentError> {
    let kind: Kind = targets.kind();
    Ok(logits.f_log_softmax(-1, kind)?.f_mul(targets)?.f_sum(kind)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const BATCH: usize = 4;

    /// Numbers without a pattern, in double precision.
    fn values(size: &[i64], phase: f64) -> Tensor {
        let count = size.iter().product::<i64>();
        let at = Tensor::arange(count, (Kind::Double, Device::Cpu));
        ((at * 12.9898 + phase).sin() * 2.0).view(size)
    }

    fn targets() -> Tensor {
        values(&[4, 5], 0.3).softmax(-1, Kind::Double) / -(BATCH as f64)
    }

    /// A gate that favours the first branch, so that the ensemble depends on all branches unequally.
    fn answers(branches: &[Tensor]) -> BranchLogits {
        let ensemble = &branches[0] * 0.5 + &branches[1] * 0.3 + &branches[2] * 0.2;
        BranchLogits {
            branches: branches.iter().map(Tensor::shallow_clone).collect(),
            ensemble,
        }
    }

    fn softmax(row: &[f64]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|value| value.exp()).sum();
        row.iter().map(|value| value.exp() / sum).collect()
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(tensor).expect("two dimensions")
    }

    /// The paper's formula, number by number.
    fn by_hand(answers: &BranchLogits, weight: f64) -> f64 {
        let wanted = rows(&(targets() * -(BATCH as f64)));
        let entropy = |logits: &Tensor| -> f64 {
            let rows = rows(logits);
            let row = |(row, want): (&Vec<f64>, &Vec<f64>)| -> f64 {
                softmax(row).iter().zip(want).map(|(p, t)| -t * p.ln()).sum()
            };
            rows.iter().zip(&wanted).map(row).sum::<f64>() / BATCH as f64
        };
        let cool = |row: &[f64]| softmax(&row.iter().map(|value| value / 3.0).collect::<Vec<_>>());
        let divergence = |branch: &Tensor| -> f64 {
            let row = |(ensemble, branch): (&Vec<f64>, &Vec<f64>)| -> f64 {
                let (p, q) = (cool(ensemble), cool(branch));
                p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
            };
            rows(&answers.ensemble).iter().zip(&rows(branch)).map(row).sum::<f64>() / BATCH as f64
        };
        let branches = answers.branches.iter();
        entropy(&answers.ensemble) + branches.map(|b| entropy(b) + weight * 9.0 * divergence(b)).sum::<f64>()
    }

    #[test]
    fn the_loss_is_the_papers() {
        let branches = [0.0, 1.0, 2.0].map(|phase| values(&[4, 5], phase));
        let answers = answers(&branches);
        for weight in [0.0, 0.5, 1.0] {
            let loss = OneLoss::default()
                .of(&answers, &targets(), weight, BATCH)
                .expect("computes");
            let want = by_hand(&answers, weight);
            assert!((loss.double_value(&[]) - want).abs() < 1e-12, "weight {weight}");
        }
    }

    /// Slope of the loss in one entry of the first branch, by differences, with the ensemble that
    /// teaches held at that of `fixed` or not.
    fn slope(branches: &[Tensor], fixed: bool) -> f64 {
        let at = |delta: f64| -> f64 {
            let moved = values(&[4, 5], 0.0);
            let _ = moved.get(1).get(2).g_add_scalar_(delta);
            let moved = [moved, branches[1].shallow_clone(), branches[2].shallow_clone()];
            let all = OneLoss::default()
                .of(&answers(&moved), &targets(), 1.0, BATCH)
                .expect("computes")
                .double_value(&[]);
            if !fixed {
                return all;
            }
            // The same loss with the teaching term taken from the ensemble of before.
            let teaching = |ensemble: Tensor| -> f64 {
                let both = |weight| {
                    let answers = BranchLogits {
                        branches: moved.iter().map(Tensor::shallow_clone).collect(),
                        ensemble: ensemble.shallow_clone(),
                    };
                    by_hand(&answers, weight)
                };
                both(1.0) - both(0.0)
            };
            all - teaching(answers(&moved).ensemble) + teaching(answers(branches).ensemble)
        };
        (at(1e-5) - at(-1e-5)) / 2e-5
    }

    #[test]
    fn the_gradient_follows_the_loss_and_stops_at_the_teaching_ensemble() {
        let branches = [0.0, 1.0, 2.0].map(|phase| values(&[4, 5], phase));
        let first = values(&[4, 5], 0.0).set_requires_grad(true);
        let leaves = [
            first.shallow_clone(),
            branches[1].shallow_clone(),
            branches[2].shallow_clone(),
        ];
        let loss = OneLoss::default()
            .of(&answers(&leaves), &targets(), 1.0, BATCH)
            .expect("computes");
        loss.backward();
        let found = first.grad().double_value(&[1, 2]);
        let (stopped, through) = (slope(&branches, true), slope(&branches, false));
        assert!((found - stopped).abs() < 1e-7, "{found} and {stopped}");
        assert!(
            (found - through).abs() > 1e-3,
            "the ensemble learns from its branches: {found}"
        );
    }

    #[test]
    fn the_ramp_is_the_papers_at_any_number_of_epochs() {
        let one = OneLoss::default();
        assert!((one.weight(0, 300) - (-5.0_f64).exp()).abs() < 1e-12);
        assert!((one.weight(40, 300) - (-1.25_f64).exp()).abs() < 1e-9);
        assert_eq!(one.weight(80, 300), 1.0);
        assert_eq!(one.weight(299, 300), 1.0);
        assert!((one.weight(4, 30) - one.weight(40, 300)).abs() < 1e-9);
        assert_eq!(OneLoss { ramp: 0.0, ..one }.weight(0, 10), 1.0);
    }
}
