//! One thing that can be asked and trained on, as a reference: about 10 bytes, never pixels.

use serde::{Deserialize, Serialize};

use crate::image::ImageSet;
use crate::mix::mix_into;
use crate::pool::{Candidate, Pool};

/// A reference to an image that workers and gateways render themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sample {
    /// A seed image, by position.
    Seed(u32),
    /// A synthetic image of the pool.
    Mix(Candidate),
    /// An evaluation image that the teacher labels to measure agreement; never trained on.
    Evaluation(u32),
}

/// The images that samples refer to.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The seed images.
    pub seeds: &'a ImageSet,
    /// The evaluation images, if the job has any.
    pub evaluation: Option<&'a ImageSet>,
    /// The pool over the seed images.
    pub pool: Pool,
}

impl Sources<'_> {
    /// Writes the canonical pixels of `sample` into `out` (`shape.len()` bytes); `false` when the
    /// sample refers to an image that does not exist, and then `out` is unchanged.
    ///
    /// # Panics
    /// When `out` is not exactly one image long.
    #[must_use]
    pub fn render_into(&self, sample: Sample, out: &mut [u8]) -> bool {
        let plain = match sample {
            Sample::Seed(index) => self.seeds.get(index as usize),
            Sample::Evaluation(index) => self.evaluation.and_then(|set| set.get(index as usize)),
            Sample::Mix(candidate) => return self.render_mix(candidate, out),
        };
        if let Some(pixels) = plain {
            out.copy_from_slice(pixels);
        }
        plain.is_some()
    }

    fn render_mix(&self, candidate: Candidate, out: &mut [u8]) -> bool {
        let images = self
            .pool
            .unrank(candidate.pair)
            .and_then(|(a, b)| Some((self.seeds.get(a as usize)?, self.seeds.get(b as usize)?)));
        if let Some((a, b)) = images {
            mix_into(a, b, candidate.lambda, out);
        }
        images.is_some()
    }
}
