//! Acquisition functions: how much a student would learn from a query, the lowest score first.
//!
//! Sources: least confidence is C2 of Active Mixup (arXiv 2003.13960, eq. 3); margin and entropy
//! are the standard uncertainty measures, negated where needed so that low means wanted.

use serde::{Deserialize, Serialize};

/// How a candidate is scored from the student's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acquisition {
    /// The highest class probability (C2): in `1/classes ..= 1`.
    LeastConfidence,
    /// Highest minus second highest probability: in `0 ..= 1`.
    Margin,
    /// Negative entropy in nats: in `-ln(classes) ..= 0`.
    Entropy,
    /// Negative mutual information between answer and branch, in nats: how much the branches of a
    /// multi-branch student disagree, `mean H(p) - H(mean p)`: in `-ln(classes) ..= 0`.
    Bald,
    /// No score: pairs and lambdas are drawn uniformly, see [`crate::sampler`].
    Random,
}

impl Acquisition {
    /// Score of one candidate from the student's `logits` (`[classes]`, natural base, temperature
    /// 1; for `Bald` `[branches, classes]`); the lowest is the most wanted. NaN when a logit is NaN.
    /// `Random` scores everything 0.
    ///
    /// Deterministic: one fixed order of operations, so equal logits give equal bits.
    #[must_use]
    pub fn score(self, logits: &[f32], classes: usize) -> f32 {
        match self {
            Acquisition::LeastConfidence => least_confidence(logits),
            Acquisition::Margin => margin(logits),
            Acquisition::Entropy => negative_entropy(logits),
            Acquisition::Bald => negative_disagreement(logits, classes),
            Acquisition::Random => 0.0,
        }
    }

    /// Lowest and highest score that `classes` classes allow, for histograms.
    #[must_use]
    pub fn range(self, classes: usize) -> (f32, f32) {
        match self {
            Acquisition::LeastConfidence => (1.0 / classes.max(1) as f32, 1.0),
            Acquisition::Margin | Acquisition::Random => (0.0, 1.0),
            Acquisition::Entropy | Acquisition::Bald => (-(classes.max(1) as f32).ln(), 0.0),
        }
    }
}

fn max_of(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `1 / sum exp(l - max)`: the softmax of the largest logit.
fn least_confidence(logits: &[f32]) -> f32 {
    let max = max_of(logits);
    1.0 / logits.iter().map(|l| (l - max).exp()).sum::<f32>()
}

fn margin(logits: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > first {
            (first, second) = (logit, first);
        } else {
            second = second.max(logit);
        }
    }
    let top = least_confidence(logits);
    top - top * (second - first).exp()
}

/// `sum p ln p`, with `ln p = l - max - ln(sum)`.
fn negative_entropy(logits: &[f32]) -> f32 {
    let max = max_of(logits);
    let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    let log_sum = sum.ln();
    logits
        .iter()
        .map(|l| {
            let log_p = l - max - log_sum;
            log_p.exp() * log_p
        })
        .sum()
}

/// `mean over branches of H(p) - H(mean p)`; rounding may not make it positive.
fn negative_disagreement(logits: &[f32], classes: usize) -> f32 {
    let branches = logits.chunks_exact(classes);
    let count = branches.len() as f32;
    let mut mean = vec![0.0_f32; classes];
    let mut entropies = 0.0;
    for logits in branches {
        let max = max_of(logits);
        let log_sum = logits.iter().map(|l| (l - max).exp()).sum::<f32>().ln();
        for (mean, logit) in mean.iter_mut().zip(logits) {
            let log_p = logit - max - log_sum;
            let p = log_p.exp();
            *mean += p / count;
            entropies -= p * log_p;
        }
    }
    let of_mean: f32 = mean.iter().filter(|p| **p != 0.0).map(|p| -p * p.ln()).sum();
    let score = entropies / count - of_mean;
    if score > 0.0 { 0.0 } else { score }
}

/// A score as an integer of the same order: scores and ties compare exactly, on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScoreBits(u32);

impl ScoreBits {
    /// `None` for NaN: a student that answers NaN has diverged, and no order would be right.
    #[must_use]
    pub fn new(score: f32) -> Option<Self> {
        if score.is_nan() {
            return None;
        }
        // -0.0 and 0.0 are equal scores.
        let bits = if score == 0.0 { 0 } else { score.to_bits() };
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Some(Self(ordered))
    }

    /// The score again.
    #[must_use]
    pub fn score(self) -> f32 {
        f32::from_bits(if self.0 >> 31 == 1 {
            self.0 & !(1 << 31)
        } else {
            !self.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let exps: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|e| e / sum).collect()
    }

    proptest! {
        #[test]
        fn scores_agree_with_their_definitions(logits in prop::collection::vec(-20.0_f32..20.0, 2..12)) {
            let mut p = softmax(&logits);
            let entropy: f64 = p.iter().map(|p| p * p.ln()).sum();
            p.sort_by(|a, b| b.total_cmp(a));
            let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 2e-6 * want.abs().max(1.0);
            let classes = logits.len();
            prop_assert!(close(Acquisition::LeastConfidence.score(&logits, classes), p[0]));
            prop_assert!(close(Acquisition::Margin.score(&logits, classes), p[0] - p[1]));
            prop_assert!(close(Acquisition::Entropy.score(&logits, classes), entropy));
        }

        #[test]
        fn disagreement_agrees_with_its_definition(logits in prop::collection::vec(-20.0_f32..20.0, 15)) {
            let entropy = |p: &[f64]| -> f64 { p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum() };
            let branches: Vec<Vec<f64>> = logits.chunks(5).map(softmax).collect();
            let mean: Vec<f64> = (0..5).map(|at| branches.iter().map(|p| p[at]).sum::<f64>() / 3.0).collect();
            let want = branches.iter().map(|p| entropy(p)).sum::<f64>() / 3.0 - entropy(&mean);
            let found = Acquisition::Bald.score(&logits, 5);
            prop_assert!((f64::from(found) - want).abs() < 3e-6, "{found} and {want}");
            prop_assert!(found <= 0.0);
        }

        #[test]
        fn bits_keep_the_order_and_give_the_score_back(a: f32, b: f32) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let bits = |s| ScoreBits::new(s).expect("not NaN");
            prop_assert_eq!(a.partial_cmp(&b), Some(bits(a).cmp(&bits(b))));
            prop_assert_eq!(bits(a).score(), a);
        }
    }

    #[test]
    fn a_diverged_student_has_no_score() {
        for acquisition in [
            Acquisition::LeastConfidence,
            Acquisition::Entropy,
            Acquisition::Margin,
            Acquisition::Bald,
        ] {
            let score = acquisition.score(&[f32::NAN, 1.0, 2.0], 3);
            assert_eq!(ScoreBits::new(score), None, "{acquisition:?}");
        }
    }
}
