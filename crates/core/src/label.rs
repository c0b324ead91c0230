//! The teacher's answer to one query.

use serde::{Deserialize, Serialize};

/// Class probabilities from the teacher, `[classes]`: finite, not negative, summing to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>")]
pub struct SoftLabel(Vec<f32>);

/// How far from one the sum of a teacher's probabilities may be. Wide enough for bf16 teachers
/// (2^-9 a class), far narrower than unnormalised scores.
pub const SUM_TOLERANCE: f32 = 1e-2;

/// Why an answer is not a probability vector.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LabelError {
    /// Wrong number of classes.
    #[error("expected {expected} probabilities, found {found}")]
    Classes {
        /// Classes of the job.
        expected: usize,
        /// Values in the answer.
        found: usize,
    },
    /// NaN or infinite.
    #[error("probability of class {class} is {value}, expected a finite number")]
    NotFinite {
        /// Offending class.
        class: usize,
        /// Its value.
        value: f32,
    },
    /// Negative.
    #[error("probability of class {class} is {value}, expected at least 0")]
    Negative {
        /// Offending class.
        class: usize,
        /// Its value.
        value: f32,
    },
    /// Not normalised.
    #[error("probabilities sum to {sum}, expected 1 (within {SUM_TOLERANCE})")]
    Sum {
        /// Their sum.
        sum: f32,
    },
}

/// What another process says is checked, too, but for the number of classes.
impl TryFrom<Vec<f32>> for SoftLabel {
    type Error = LabelError;

    fn try_from(probabilities: Vec<f32>) -> Result<Self, LabelError> {
        let classes = probabilities.len();
        Self::from_probabilities(probabilities, classes)
    }
}

impl SoftLabel {
    /// Checks `probabilities` against the number of `classes`.
    ///
    /// # Errors
    /// A [`LabelError`] naming the first thing that is wrong.
    pub fn from_probabilities(probabilities: Vec<f32>, classes: usize) -> Result<Self, LabelError> {
        check_values(&probabilities, classes)?;
        if let Some((class, &value)) = probabilities.iter().enumerate().find(|(_, p)| **p < 0.0) {
            return Err(LabelError::Negative { class, value });
        }
        let sum: f32 = probabilities.iter().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(LabelError::Sum { sum });
        }
        Ok(Self(probabilities))
    }

    /// Softmax (natural base, temperature 1) of a teacher's `logits`.
    ///
    /// # Errors
    /// Wrong number of classes, NaN or infinite values.
    pub fn from_logits(logits: &[f32], classes: usize) -> Result<Self, LabelError> {
        check_values(logits, classes)?;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
        let sum: f32 = exps.iter().sum();
        Ok(Self(exps.into_iter().map(|e| e / sum).collect()))
    }

    /// The probabilities, one a class.
    #[must_use]
    pub fn probabilities(&self) -> &[f32] {
        &self.0
    }

    /// The most probable class; the lowest of equals.
    #[must_use]
    pub fn class(&self) -> usize {
        let best = |best: usize, at: usize| if self.0[at] > self.0[best] { at } else { best };
        (0..self.0.len()).fold(0, best)
    }
}

fn check_values(values: &[f32], classes: usize) -> Result<(), LabelError> {
    if values.len() != classes {
        let (expected, found) = (classes, values.len());
        return Err(LabelError::Classes { expected, found });
    }
    match values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        Some((class, &value)) => Err(LabelError::NotFinite { class, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probability_vectors_become_labels() {
        assert!(SoftLabel::from_probabilities(vec![0.25, 0.75], 2).is_ok());
        for (bad, want) in [
            (vec![1.0], "expected 2 probabilities, found 1"),
            (vec![f32::NAN, 1.0], "probability of class 0 is NaN"),
            (vec![-0.5, 1.5], "probability of class 0 is -0.5"),
            (vec![0.9, 0.9], "probabilities sum to 1.8"),
        ] {
            let error = SoftLabel::from_probabilities(bad, 2).expect_err("bad label");
            assert!(error.to_string().starts_with(want), "{error}");
        }
    }

    #[test]
    fn only_probability_vectors_are_read_as_labels() {
        let read = |text: &str| serde_json::from_str::<SoftLabel>(text);
        let label = SoftLabel::from_probabilities(vec![0.25, 0.75], 2).expect("valid");
        let text = serde_json::to_string(&label).expect("numbers");
        assert_eq!(read(&text).expect("its own"), label);
        for bad in ["[0.9, 0.9]", "[-0.5, 1.5]", "[]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn logits_become_their_softmax() {
        let label = SoftLabel::from_logits(&[0.0, 3.0_f32.ln()], 2).expect("finite");
        assert!((label.probabilities()[1] - 0.75).abs() < 1e-6);
        assert_eq!(label.class(), 1);
    }
}
