//! One rank's part in a training.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::ensure;
use stillhouse_collective::ring::Membership;
use stillhouse_collective::{AbortHandle, Collective, GroupId, Local, Ring};
use stillhouse_core::job::{Augmentation as AugmentationSpec, Spec};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{Sample, shards};
use stillhouse_protocol::message::TrainCommand;
use stillhouse_protocol::{Fence, Measurement, Report};
use stillhouse_student::train::{Augmentation, EvaluationSet, Init, TrainConfig, Training, TransferSet, train};
use tch::Device;

use crate::computer::Computer;

/// How long a rank waits for the others in one operation. A lost peer is noticed at once by its
/// closed connection; this bounds one that hangs, and must exceed the slowest rank's step.
const PATIENCE: Duration = Duration::from_secs(120);

/// ALGORITHMS of FS-BBT: rotation within 10 degrees, shift within 10 %.
const JITTER: Augmentation = Augmentation::Jitter {
    degrees: 10.0,
    shift: 0.1,
};

/// The student crate's settings for what a job says about a transfer set of `samples`.
pub(crate) fn train_config(job: &Spec, samples: usize, attempt: u32, round: u32, evaluate_every: u32) -> TrainConfig {
    let spec = &job.training;
    TrainConfig {
        epochs: spec.epochs_over(samples as u64),
        batch: spec.batch as usize,
        learning_rate: spec.learning_rate,
        momentum: spec.momentum,
        weight_decay: spec.weight_decay,
        schedule: spec.schedule,
        warmup_steps: u64::from(spec.warmup_steps),
        optimizer: spec.optimizer,
        augmentation: match spec.augmentation {
            AugmentationSpec::None => Augmentation::None,
            AugmentationSpec::Jitter => JITTER,
            AugmentationSpec::CropFlip => Augmentation::CropFlip,
        },
        shards: job.shards() as usize,
        seed: match attempt {
            0 => spec.seed,
            again => Stream::new(spec.seed, Purpose::Initialisation, u64::from(again)).at(0),
        },
        round: u64::from(round),
        evaluate_every,
    }
}

impl Computer {
    /// Trains with the other ranks; returns the report and the weights.
    ///
    /// # Errors
    /// When a rank is lost, a newer command arrives, or training diverges.
    pub(crate) fn train(&mut self, fence: Fence, command: TrainCommand) -> anyhow::Result<(Report, Vec<u8>)> {
        let images = self.render(&command.samples)?;
        let every = self.job.spec.evaluation.as_ref().map_or(0, |e| e.every_epochs);
        let config = train_config(
            &self.job.spec,
            command.samples.len(),
            command.attempt,
            command.student.round,
            every,
        );
        let rank = command.rank as usize;
        let mut collective = self.join(fence, rank, &command)?;
        let evaluation = self.evaluation.as_ref().map(|images| {
            let slice = shards::owned(images.len(), rank, command.peers.len());
            let set = EvaluationSet {
                images: images.bytes(),
                classes: self.evaluation_labels.as_deref(),
                teacher: &command.teacher_classes,
            };
            (set, slice)
        });
        let training = Training {
            spec: &self.spec,
            init: command.initial.as_deref().map_or(Init::Fresh, Init::Weights),
            device: Device::Cpu,
            transfer: TransferSet {
                images: &images,
                labels: &command.labels,
            },
            evaluation,
            config: &config,
            threads: self.threads,
        };
        let mut measurements = Vec::new();
        let (control, mut outbox) = (self.control.clone(), self.outbox.clone());
        let trained = train(&training, &mut *collective, &mut |progress| -> ControlFlow<()> {
            if let Some(found) = progress.evaluation {
                measurements.push(Measurement {
                    epoch: progress.epoch + 1,
                    labelled: found.labelled,
                    correct: found.correct,
                    asked: found.answered,
                    agreed: found.agreed,
                });
            }
            outbox.progress(fence, progress.step, progress.steps, progress.loss);
            control.goes_on(fence)
        })?;
        let weights = trained.network.weights()?;
        let report = Report::Trained {
            digest: blake3::hash(&weights).to_hex().to_string(),
            weights: (rank == 0).then(|| weights.clone()),
            loss: trained.loss,
            measurements,
            steps: trained.steps,
            parameters: trained.network.parameter_count() as u64,
        };
        Ok((report, weights))
    }

    /// Joins the other ranks.
    fn join(&self, fence: Fence, rank: usize, command: &TrainCommand) -> anyhow::Result<Box<dyn Collective>> {
        if command.peers.len() == 1 {
            return Ok(Box::new(Local));
        }
        let membership = Membership {
            rank,
            peers: &command.peers,
            group: GroupId(fence.0),
            secret: self.secret.expose(),
            deadline: PATIENCE,
        };
        let abort = AbortHandle::new();
        self.control.watch(fence, &abort);
        Ok(Box::new(Ring::join(&self.ring, &membership, &abort)?))
    }

    /// Canonical pixels of samples, one after another.
    fn render(&self, samples: &[Sample]) -> anyhow::Result<Vec<u8>> {
        let (sources, size) = (self.sources(), self.seeds.shape().len());
        let mut images = vec![0; samples.len() * size];
        for (sample, pixels) in samples.iter().zip(images.chunks_exact_mut(size)) {
            ensure!(
                sources.render_into(*sample, pixels),
                "{sample:?} refers to no image of this job"
            );
        }
        Ok(images)
    }
}
