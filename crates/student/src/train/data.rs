//! What a student is trained on and measured with.

use stillhouse_core::ImageShape;

use crate::error::StudentError;

/// Inputs with the teacher's labels.
#[derive(Clone, Copy, Debug)]
pub struct TransferSet<'a> {
    /// Canonical pixels, `[n, c, h, w]` one image after another: the bytes that the teacher saw.
    pub images: &'a [u8],
    /// Probabilities, `[n, classes]`.
    pub labels: &'a [f32],
}

impl TransferSet<'_> {
    /// Number of samples.
    ///
    /// # Errors
    /// [`StudentError::Training`] when images and labels do not fit each other, a label is not a
    /// finite number from 0, or there are fewer than 2 samples.
    pub(crate) fn samples(&self, shape: ImageShape, classes: usize) -> Result<usize, StudentError> {
        let wrong = |reason: String| Err(StudentError::Training { reason });
        let samples = self.images.len() / shape.len();
        if !self.images.len().is_multiple_of(shape.len()) {
            return wrong(format!(
                "{} bytes are not a whole number of {shape} images",
                self.images.len()
            ));
        }
        if samples.checked_mul(classes) != Some(self.labels.len()) {
            let found = self.labels.len();
            return wrong(format!(
                "expected {samples} labels of {classes} probabilities, found {found} numbers"
            ));
        }
        if !(2..=u32::MAX as usize).contains(&samples) {
            return wrong(format!("expected at least 2 samples, found {samples}"));
        }
        if let Some(at) = self
            .labels
            .iter()
            .position(|value| !(value.is_finite() && *value >= 0.0))
        {
            return wrong(format!("label {} holds {}", at / classes, self.labels[at]));
        }
        Ok(samples)
    }
}
