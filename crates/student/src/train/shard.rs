//! One virtual shard of a step: a replica of the network that shares the parameters and adds its
//! gradients into a bucket of its own.
//!
//! The bucket is one flat tensor, `[gradients | running statistics | loss]`.

use std::time::{Duration, Instant};

use stillhouse_core::ImageShape;
use stillhouse_core::mix::mix_into;
use stillhouse_core::sampler::{Purpose, Stream};
use tch::{Kind, Tensor};

use super::augment;
use super::batches::shard_range;
use super::config::{Augmentation, TrainConfig};
use super::data::TransferSet;
use super::mixing::{self, Partner};
use super::one::cross_entropy;
use crate::error::StudentError;
use crate::network::{BranchLogits, Head, Mode, Network, NetworkSpec, unit_pixels};

/// One step, the same for all shards and ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// From 0, over all epochs.
    pub(crate) index: u64,
    /// From 0.
    pub(crate) epoch: u32,
    /// Positions in the transfer set.
    pub(crate) samples: &'a [u32],
}

/// Where the parts of a bucket begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketLayout {
    pub(crate) gradients: i64,
    pub(crate) buffers: i64,
}

impl BucketLayout {
    pub(crate) fn of(network: &Network) -> Self {
        let memory = network.memory();
        Self {
            gradients: memory.parameters.numel() as i64,
            buffers: memory.buffers.numel() as i64,
        }
    }

    /// Numbers in a bucket.
    pub(crate) fn len(self) -> usize {
        (self.gradients + self.buffers + 1) as usize
    }

    pub(crate) fn gradients_of(self, bucket: &Tensor) -> Result<Tensor, StudentError> {
        Ok(bucket.f_narrow(0, 0, self.gradients)?)
    }

    pub(crate) fn buffers_of(self, bucket: &Tensor) -> Result<Tensor, StudentError> {
        Ok(bucket.f_narrow(0, self.gradients, self.buffers)?)
    }

    pub(crate) fn loss_of(self, bucket: &Tensor) -> Result<Tensor, StudentError> {
        Ok(bucket.f_narrow(0, self.gradients + self.buffers, 1)?)
    }
}

/// What is needed to compute a shard, lent to the computing threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Material<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) transfer: TransferSet<'a>,
    pub(crate) shape: ImageShape,
    pub(crate) classes: usize,
}

/// A replica with its bucket.
pub(crate) struct Shard {
    index: usize,
    replica: Network,
    /// Running statistics from which every shard starts the step.
    shared_buffers: Tensor,
    bucket: Tensor,
    own_buffers: Tensor,
    own_loss: Tensor,
}

impl Shard {
    pub(crate) fn new(network: &Network, index: usize) -> Result<Self, StudentError> {
        let layout = BucketLayout::of(network);
        let bucket = Tensor::f_zeros([layout.len() as i64], (Kind::Float, network.device()))?;
        let own_buffers = layout.buffers_of(&bucket)?;
        let own_loss = layout.loss_of(&bucket)?;
        let replica = network.replica(&layout.gradients_of(&bucket)?, own_buffers.shallow_clone())?;
        let shared_buffers = network.memory().buffers.shallow_clone();
        Ok(Self {
            index,
            replica,
            shared_buffers,
            bucket,
            own_buffers,
            own_loss,
        })
    }

    /// Position of this shard among the step's shards.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The bucket; a handle on the same memory.
    pub(crate) fn bucket(&self) -> Tensor {
        self.bucket.shallow_clone()
    }

    /// Fills the bucket for `step`: zeros when this shard has no sample in it. Returns how long all before the backward
    /// pass took.
    pub(crate) fn compute(&mut self, material: &Material<'_>, step: &Step<'_>) -> Result<Duration, StudentError> {
        let begun = Instant::now();
        let _zeroed = self.bucket.f_zero_()?;
        let range = shard_range(step.samples.len(), self.index, material.config.shards);
        if range.is_empty() {
            return Ok(Duration::ZERO);
        }
        self.own_buffers.f_copy_(&self.shared_buffers)?;
        let samples = &step.samples[range.clone()];
        let batch = step.samples.len();
        let partners = mixing::partners(material.config, step, range.clone());
        let x = self.images(material, step.epoch, samples, partners.as_deref())?;
        let targets = self.targets(material, samples, partners.as_deref(), batch)?;
        let TrainConfig { seed, round, .. } = *material.config;
        let dropout = Stream::new(seed, Purpose::Dropout, round)
            .fork(step.index)
            .fork(self.index as u64);
        let mode = Mode::Train { dropout };
        let (wanted, told) = match self.replica.forward_branches(&x, mode)? {
            Some(answers) => {
                let TrainConfig { one, epochs, .. } = material.config;
                let weight = one.weight(step.epoch, *epochs);
                let loss = one.of(&answers, &targets, weight, batch)?;
                (loss, cross_entropy(self.deployed(&answers), &targets)?)
            }
            None => {
                let loss = cross_entropy(&self.replica.forward(&x, mode)?, &targets)?;
                (loss.shallow_clone(), loss)
            }
        };
        let forward = begun.elapsed();
        wanted.f_backward()?;
        self.own_loss.f_copy_(&told.f_detach()?.f_view([1])?)?;
        Ok(forward)
    }

    /// The answer that a multi-branch student is used for, whose cross-entropy is what is reported.
    fn deployed<'b>(&self, answers: &'b BranchLogits) -> &'b Tensor {
        match self.replica.spec() {
            NetworkSpec::One {
                head: Head::Ensemble, ..
            } => &answers.ensemble,
            _ => &answers.branches[0],
        }
    }

    /// Mixed and augmented images, `[n, c, h, w]` in 0..=1.
    fn images(
        &self,
        material: &Material<'_>,
        epoch: u32,
        samples: &[u32],
        partners: Option<&[Partner]>,
    ) -> Result<Tensor, StudentError> {
        let Material {
            config,
            transfer,
            shape,
            ..
        } = material;
        let draws = Stream::new(config.seed, Purpose::Augmentation, config.round).fork(u64::from(epoch));
        let mut bytes = Vec::with_capacity(samples.len() * shape.len());
        let image_of = |sample: u32| &transfer.images[sample as usize * shape.len()..][..shape.len()];
        let mut mixed = vec![0; shape.len()];
        for (at, sample) in samples.iter().enumerate() {
            let image = match partners {
                Some(partners) => {
                    let Partner { sample: other, lambda } = partners[at];
                    mix_into(image_of(*sample), image_of(other), lambda, &mut mixed);
                    &mixed
                }
                None => image_of(*sample),
            };
            augment::place(
                config.augmentation,
                *shape,
                image,
                draws.fork(u64::from(*sample)),
                &mut bytes,
            );
        }
        let size = [
            samples.len() as i64,
            shape.channels.into(),
            shape.height.into(),
            shape.width.into(),
        ];
        let bytes = Tensor::f_from_data_size(&bytes, &size, Kind::Uint8)?;
        let x = unit_pixels(&bytes.f_to_device(self.bucket.device())?)?;
        match config.augmentation {
            Augmentation::Jitter { degrees, shift } => {
                let draws = samples.iter().map(|sample| draws.fork(u64::from(*sample)));
                Ok(augment::jitter(&x, degrees, shift, draws)?)
            }
            Augmentation::None | Augmentation::CropFlip => Ok(x),
        }
    }

    /// Labels over `-batch`, so that their product with log-probabilities sums to this shard's part
    /// of the batch's mean cross-entropy (natural logarithm).
    fn targets(
        &self,
        material: &Material<'_>,
        samples: &[u32],
        partners: Option<&[Partner]>,
        batch: usize,
    ) -> Result<Tensor, StudentError> {
        let Material { transfer, classes, .. } = material;
        let label_of = |sample: u32| &transfer.labels[sample as usize * classes..][..*classes];
        let mut values = Vec::with_capacity(samples.len() * classes);
        for (at, sample) in samples.iter().enumerate() {
            let own = label_of(*sample);
            match partners {
                Some(partners) => {
                    let Partner { sample: other, lambda } = partners[at];
                    let (lambda, other) = (lambda.as_f32(), label_of(other));
                    let mixed = own.iter().zip(other).map(|(a, b)| lambda * a + (1.0 - lambda) * b);
                    values.extend(mixed.map(|value| -value / batch as f32));
                }
                None => values.extend(own.iter().map(|value| -value / batch as f32)),
            }
        }
        let targets = Tensor::f_from_slice(&values)?.f_view([samples.len() as i64, *classes as i64])?;
        Ok(targets.f_to_device(self.bucket.device())?)
    }
}
