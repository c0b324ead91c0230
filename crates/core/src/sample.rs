//! One thing that can be asked and trained on, as a reference: about 10 bytes, never pixels.

use serde::{Deserialize, Serialize};

use crate::image::ImageSet;
use crate::mix::mix_into;
use crate::pool::{Candidate, PairId, Pool};

/// A reference to an image that workers and gateways render themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sample {
    /// A seed image, by position.
    Seed(u32),
    /// A synthetic image of the pool: a mix, or a generated image.
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
    /// The generated images, once there are any.
    pub generated: Option<&'a ImageSet>,
    /// The pool over the seed images and the generated ones.
    pub pool: Pool,
}

impl<'a> Sources<'a> {
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
        let images = self.parents(candidate.pair);
        if let Some((a, b)) = images {
            mix_into(a, b, candidate.lambda, out);
        }
        images.is_some()
    }

    /// The two images that a candidate mixes, the one that lambda weighs first: both are the generated image
    /// where it is one. `None` for what the pool does not offer.
    #[must_use]
    pub fn parents(&self, id: PairId) -> Option<(&'a [u8], &'a [u8])> {
        if let Some(at) = self.pool.generated_at(id) {
            let image = self.generated?.get(at as usize)?;
            return Some((image, image));
        }
        let (a, b) = self.pool.unrank(id)?;
        Some((self.seeds.get(a as usize)?, self.seeds.get(b as usize)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageShape;
    use crate::pool::{Lambda, Pairing};

    fn images(count: usize, from: u8) -> ImageSet {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 2,
        };
        ImageSet::new(shape, (from..).take(2 * count).collect()).expect("whole images")
    }

    #[test]
    fn a_generated_image_is_itself_at_any_weight() {
        let (seeds, generated) = (images(3, 0), images(2, 100));
        let pool = Pool::new(3, Pairing::All).with_generated(2);
        let sources = Sources {
            seeds: &seeds,
            evaluation: None,
            generated: Some(&generated),
            pool,
        };
        for hundredths in 0..=100 {
            let candidate = Candidate {
                pair: PairId(4),
                lambda: Lambda::from_hundredths(hundredths).expect("at most 100"),
            };
            let mut out = [0; 2];
            assert!(sources.render_into(Sample::Mix(candidate), &mut out));
            assert_eq!(out, [102, 103]);
        }
        assert_eq!(sources.parents(PairId(5)), None);
        let before = Sources {
            generated: None,
            ..sources
        };
        assert_eq!(before.parents(PairId(4)), None);
        assert!(before.parents(PairId(2)).is_some());
    }
}
