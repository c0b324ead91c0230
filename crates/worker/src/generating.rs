//! Images for the pool, from a conditional VAE that this worker trains.

use anyhow::Context;
use stillhouse_protocol::message::GenerateCommand;
use stillhouse_protocol::{Fence, Report};
use stillhouse_student::cvae::{self, CvaeConfig, Labelled, is_convolutional};

use crate::computer::Computer;

/// Passes and samples a step of the released code of FS-BBT: for MNIST (200 passes for Fashion-MNIST), and for CIFAR.
const CONNECTED: (u32, u32) = (100, 256);
const CONVOLUTIONAL: (u32, u32) = (600, 64);

impl Computer {
    /// Trains a generator on the seed images that `command` names, and makes images with it.
    ///
    /// # Errors
    /// When the job has no generator, training diverges, or a newer command arrives.
    pub(crate) fn generate(&mut self, fence: Fence, command: &GenerateCommand) -> anyhow::Result<Report> {
        let spec = self.job.cvae.context("the job has no generator of images")?;
        let images = self.seeds.subset(&command.seeds);
        let (epochs, batch) = match is_convolutional(images.shape()) {
            true => CONVOLUTIONAL,
            false => CONNECTED,
        };
        let config = CvaeConfig {
            epochs: spec.epochs.unwrap_or(epochs),
            batch: spec.batch.unwrap_or(batch) as usize,
            learning_rate: spec.learning_rate,
            latent: spec.latent as usize,
            spread: spec.spread,
            seed: self.job.spec.training.seed,
        };
        let labelled = Labelled {
            images: &images,
            classes: &command.classes,
            class_count: self.spec.classes(),
        };
        let (control, mut outbox) = (self.control.clone(), self.outbox.clone());
        let mut observe = |done, total| {
            outbox.progress(fence, done, total, f32::NAN);
            control.goes_on(fence)
        };
        let device = self.device()?;
        let made = cvae::generate(labelled, &config, command.images as usize, device, &mut observe)?;
        Ok(Report::Generated {
            images: made.images,
            loss: made.loss,
        })
    }
}
