//! Stochastic acquisition: scores with noise, so that a batch is a sample of the wanted and not their near copies alone.
//!
//! Source: Kirsch et al. (arXiv 2106.12059), section 3: the top k of `b ln(u) + G` (power) or `b u + G` (softmax), with `u` the
//! importance and `G` from the Gumbel distribution, are a sample without replacement with odds `u^b` or `exp(b u)`. The noise
//! of a pair is a function of (seed, round, pair), so the batch is as exact and as independent of workers as one without noise.

use serde::{Deserialize, Serialize};

use crate::pool::PairId;
use crate::sampler::{Purpose, Stream};
use crate::score::Acquisition;

/// How chance takes part in a choice; the number is `b`: 0 is chance alone, larger ones follow the score more closely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stochastic {
    /// Odds of importance to the power of `b`.
    Power(f64),
    /// Odds of `exp(b importance)`.
    Softmax(f64),
}

/// Importances below this count as this much: their logarithm would blow up differences that rounding makes, and they are
/// not chosen anyway.
const LEAST_IMPORTANCE: f32 = 1e-3;
/// Gumbel draws of 64 uniform bits lie within these, but for one in a hundred thousand.
const GUMBEL: (f32, f32) = (-2.5, 11.5);

/// The noise of one round.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    stochastic: Stochastic,
    stream: Stream,
    /// The score that is wanted least: importance 0.
    high: f32,
}

impl Stochastic {
    /// The noise in `round` of a job with `seed`, on scores of `acquisition`.
    #[must_use]
    pub fn noise(self, seed: u64, round: u32, acquisition: Acquisition) -> Noise {
        let (_, high) = acquisition.range(2);
        Noise {
            stochastic: self,
            stream: Stream::new(seed, Purpose::Stochastic, u64::from(round)),
            high,
        }
    }

    /// Lowest and highest score with noise that are worth a bin of a histogram.
    #[must_use]
    pub fn range(self, acquisition: Acquisition, classes: usize) -> (f32, f32) {
        let (low, high) = acquisition.range(classes);
        let [best, worst] = [high - low, 0.0].map(|importance| self.value(importance));
        (-(best + GUMBEL.1), -(worst + GUMBEL.0))
    }

    fn value(self, importance: f32) -> f32 {
        match self {
            Self::Power(b) => b as f32 * importance.max(LEAST_IMPORTANCE).ln(),
            Self::Softmax(b) => b as f32 * importance,
        }
    }

    /// `b`.
    #[must_use]
    pub fn sharpness(self) -> f64 {
        match self {
            Self::Power(b) | Self::Softmax(b) => b,
        }
    }
}

impl Noise {
    /// `score` of a pair with its noise; the lowest is the most wanted. NaN stays NaN.
    #[must_use]
    pub fn on(&self, pair: PairId, score: f32) -> f32 {
        if score.is_nan() {
            return score;
        }
        // Above 0 and below 1, so that both logarithms are finite.
        let uniform = (f64::from((self.stream.at(pair.0) >> 32) as u32) + 0.5) / f64::from(u32::MAX).next_up();
        let gumbel = -(-uniform.ln()).ln();
        -(self.stochastic.value(self.high - score) + gumbel as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_wanted_are_drawn_at_the_odds_of_the_paper() {
        // Three candidates of importance 0.1, 0.2 and 0.7: the first choice falls on each in proportion to `u^b`.
        for (stochastic, odds) in [
            (Stochastic::Power(1.0), [0.1, 0.2, 0.7]),
            (Stochastic::Power(2.0), [0.01, 0.04, 0.49]),
            (Stochastic::Softmax(3.0), [0.3_f64, 0.6, 2.1].map(f64::exp)),
        ] {
            let mut wins = [0.0; 3];
            for round in 0..20_000 {
                let noise = stochastic.noise(1, round, Acquisition::LeastConfidence);
                let scores = [0.9, 0.8, 0.3].map(|score: f32| score);
                let noisy: Vec<f32> = (0..3).map(|at| noise.on(PairId(at as u64), scores[at])).collect();
                let first = (0..3).min_by(|a, b| noisy[*a].total_cmp(&noisy[*b])).expect("three");
                wins[first] += 1.0 / 20_000.0;
            }
            let whole: f64 = odds.iter().sum();
            for (won, odds) in wins.iter().zip(odds) {
                assert!((won - odds / whole).abs() < 0.015, "{stochastic:?}: {wins:?}");
            }
        }
    }

    #[test]
    fn noise_is_a_function_of_seed_round_and_pair() {
        let power = Stochastic::Power(1.0);
        let on = |seed, round, pair| power.noise(seed, round, Acquisition::Bald).on(PairId(pair), -0.4);
        assert_eq!(on(1, 2, 3), on(1, 2, 3));
        for other in [on(2, 2, 3), on(1, 3, 3), on(1, 2, 4)] {
            assert_ne!(on(1, 2, 3), other);
        }
        assert!(power.noise(1, 1, Acquisition::Margin).on(PairId(0), f32::NAN).is_nan());
    }

    #[test]
    fn every_noisy_score_is_a_number_within_the_range_but_for_one_in_a_thousand() {
        for stochastic in [Stochastic::Power(4.0), Stochastic::Softmax(8.0)] {
            for acquisition in [Acquisition::LeastConfidence, Acquisition::Entropy] {
                let (low, high) = acquisition.range(10);
                let (noisy_low, noisy_high) = stochastic.range(acquisition, 10);
                let noise = stochastic.noise(7, 1, acquisition);
                let scores = (0..10_000).map(|at| noise.on(PairId(at), low + (high - low) * (at % 101) as f32 / 100.0));
                let outside = scores.filter(|score| !(noisy_low..=noisy_high).contains(score)).count();
                assert!(outside <= 10, "{stochastic:?} {acquisition:?}: {outside}");
            }
        }
    }
}
