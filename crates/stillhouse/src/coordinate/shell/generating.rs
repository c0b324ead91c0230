//! The shell's part in a generation: what the generator learns from, and where its images are kept.

use stillhouse_core::{ImageSet, Sample};
use stillhouse_protocol::WorkerId;
use stillhouse_protocol::message::{Command, Fence, GenerateCommand};

use super::Shell;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};

impl Shell {
    /// Has `worker` make so many images, from the seed images that the teacher labelled.
    pub(super) async fn generate(&mut self, worker: WorkerId, fence: Fence, images: u32) -> Result<(), Failure> {
        let samples: Vec<Sample> = (0..self.inputs.plan.seeds).map(Sample::Seed).collect();
        let labels = self.labels(&samples).await?;
        let labelled = (0..)
            .zip(labels)
            .filter_map(|(seed, label)| Some((seed, label?.class() as u16)));
        let (seeds, classes): (Vec<u32>, Vec<u16>) = labelled.unzip();
        if seeds.is_empty() {
            let message = "the teacher labelled no seed image, so there is nothing to generate from";
            return Err(Failure::message(Kind::Teacher, message));
        }
        self.meter.generate(fence);
        let command = GenerateCommand { images, seeds, classes };
        self.send(worker, fence, Command::Generate(Box::new(command)));
        Ok(())
    }

    /// Keeps generated images: on disk first, then for everybody in this process.
    pub(super) fn keep_images(&self, images: ImageSet) -> Result<(), Failure> {
        if images.shape() != self.inputs.shape() {
            let (expected, found) = (self.inputs.shape(), images.shape());
            let message = format!("expected generated images of {expected}, found {found}");
            return Err(Failure::message(Kind::Workers, message));
        }
        results::write_generated(&self.dir, &images)?;
        // They are generated once in the life of a job.
        let _first = self.inputs.generated.set(images);
        Ok(())
    }
}
