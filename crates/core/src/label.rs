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
    /// A class that the job does not know.
    #[error("expected one of {classes} classes, found {found}")]
    NoSuchClass {
        /// What the teacher said.
        found: String,
        /// Classes of the job.
        classes: usize,
    },
    /// The same class twice among the most probable ones.
    #[error("class {class} is named twice")]
    Twice {
        /// Which.
        class: usize,
    },
    /// The teacher answered, and would not say.
    #[error("the teacher gave no class: {reason}")]
    Declined {
        /// Why.
        reason: String,
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

    /// From the most probable classes and their probabilities: these are kept, and what is missing
    /// to 1 is spread evenly over all other classes. Where nothing is left for the others, the
    /// probabilities are divided by their sum.
    ///
    /// # Errors
    /// An unknown or repeated class, a probability that is none, or a sum above 1 (within
    /// [`SUM_TOLERANCE`]).
    pub fn from_top(top: &[(usize, f32)], classes: usize) -> Result<Self, LabelError> {
        let mut kept = vec![None; classes];
        for &(class, probability) in top {
            let place = kept.get_mut(class).ok_or_else(|| LabelError::NoSuchClass {
                found: class.to_string(),
                classes,
            })?;
            if place.replace(probability).is_some() {
                return Err(LabelError::Twice { class });
            }
        }
        let values: Vec<f32> = kept.iter().map(|value| value.unwrap_or_default()).collect();
        check_values(&values, classes)?;
        let sum: f32 = values.iter().sum();
        let others = classes - top.len();
        if others == 0 || sum >= 1.0 {
            let label = Self::from_probabilities(values, classes)?;
            return Ok(Self(label.0.into_iter().map(|value| value / sum).collect()));
        }
        let rest = (1.0 - sum) / others as f32;
        let spread = kept.into_iter().map(|value| value.unwrap_or(rest)).collect();
        Self::from_probabilities(spread, classes)
    }

    /// Certainty that it is `class`; no smoothing.
    ///
    /// # Errors
    /// When there is no such class.
    pub fn one_hot(class: usize, classes: usize) -> Result<Self, LabelError> {
        Self::from_top(&[(class, 1.0)], classes)
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
    fn a_label_that_was_written_is_read_and_a_forged_one_is_not() {
        let label = SoftLabel::from_probabilities(vec![0.25, 0.75], 2).expect("sound");
        let text = serde_json::to_string(&label).expect("numbers");
        assert_eq!(serde_json::from_str::<SoftLabel>(&text).expect("own text"), label);
        assert!(serde_json::from_str::<SoftLabel>("[0.9, 0.9]").is_err());
    }

    #[test]
    fn the_most_probable_classes_leave_the_rest_to_the_others() {
        let label = |top: &[(usize, f32)]| SoftLabel::from_top(top, 4).map(|label| label.0);
        assert_eq!(label(&[(2, 0.5), (0, 0.25)]), Ok(vec![0.25, 0.125, 0.5, 0.125]));
        assert_eq!(label(&[(1, 1.0)]), Ok(vec![0.0, 1.0, 0.0, 0.0]));
        let whole = label(&[(0, 0.5), (1, 0.25), (2, 0.125), (3, 0.124)]).expect("within the tolerance");
        assert!((whole.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(SoftLabel::one_hot(1, 2).map(|label| label.0), Ok(vec![0.0, 1.0]));
        for (bad, want) in [
            (&[(4, 0.5)][..], "expected one of 4 classes, found 4"),
            (&[(1, 0.5), (1, 0.25)], "class 1 is named twice"),
            (&[(1, 0.9), (2, 0.2)], "probabilities sum to 1.1"),
            (&[(1, -0.5)], "probability of class 1 is -0.5"),
            (&[(1, f32::NAN)], "probability of class 1 is NaN"),
            (&[(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1)], "probabilities sum to 0.4"),
        ] {
            let error = SoftLabel::from_top(bad, 4).expect_err("bad label").to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn logits_become_their_softmax() {
        let label = SoftLabel::from_logits(&[0.0, 3.0_f32.ln()], 2).expect("finite");
        assert!((label.probabilities()[1] - 0.75).abs() < 1e-6);
        assert_eq!(label.class(), 1);
    }
}
