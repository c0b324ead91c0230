//! The images that a job asked about, from its directory alone.

use std::collections::HashMap;
use std::path::Path;

use stillhouse_core::sample::Sources;
use stillhouse_core::{ImageSet, ImageShape, Job, Pool, Sample};

use crate::coordinate::results;
use crate::failure::Failure;

/// Seed images, generated images, evaluation images and pool of a job.
#[derive(Debug)]
pub struct Images {
    seeds: ImageSet,
    generated: Option<ImageSet>,
    pool: Pool,
    /// Those that the teacher may be asked about, by position.
    evaluation: HashMap<u32, Vec<u8>>,
}

impl Images {
    /// Reads the images of `job` in `dir`. The evaluation images of a directory that an older
    /// version made are not there.
    ///
    /// # Errors
    /// When the seed images are missing, or a file cannot be read.
    pub fn read(dir: &Path, job: &Job) -> Result<Self, Failure> {
        let seeds = results::read_seeds(dir)?;
        let generated = results::read_generated(dir)?;
        let count = generated.as_ref().map_or(0, |images| images.len() as u32);
        let pool = job.pool(seeds.len() as u32).with_generated(count);
        let evaluation = results::read_evaluation(dir)?;
        Ok(Self {
            seeds,
            generated,
            pool,
            evaluation,
        })
    }

    /// Shape of every image.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.seeds.shape()
    }

    /// The pool over the seed images.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// The exact bytes of a sample; `None` when the directory does not have its image.
    #[must_use]
    pub fn pixels(&self, sample: Sample) -> Option<Vec<u8>> {
        if let Sample::Evaluation(index) = sample {
            return self.evaluation.get(&index).cloned();
        }
        let sources = Sources {
            seeds: &self.seeds,
            evaluation: None,
            generated: self.generated.as_ref(),
            pool: self.pool,
        };
        let mut pixels = vec![0; self.shape().len()];
        sources.render_into(sample, &mut pixels).then_some(pixels)
    }
}
