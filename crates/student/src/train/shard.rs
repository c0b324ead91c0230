//! One virtual shard of a step: a replica of the network that shares the parameters and adds its
//! gradients into a bucket of its own.
//!
//! The bucket is one flat tensor, `[gradients | running statistics | loss]`.

use stillhouse_core::ImageShape;
use stillhouse_core::sampler::{Purpose, Stream};
use tch::{Kind, Tensor};

use super::augment;
use super::batches::shard_range;
use super::config::{Augmentation, TrainConfig};
use super::data::TransferSet;
use crate::error::StudentError;
use crate::network::{Mode, Network, unit_pixels};

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

    /// Fills the bucket for `step`: zeros when this shard has no sample in it.
    pub(crate) fn compute(&mut self, material: &Material<'_>, step: &Step<'_>) -> Result<(), StudentError> {
        let _zeroed = self.bucket.f_zero_()?;
        let range = shard_range(step.samples.len(), self.index, material.config.shards);
        if range.is_empty() {
            return Ok(());
        }
        self.own_buffers.f_copy_(&self.shared_buffers)?;
        let samples = &step.samples[range];
        let x = self.images(material, step.epoch, samples)?;
        let targets = self.targets(material, samples, step.samples.len())?;
        let TrainConfig { seed, round, .. } = *material.config;
        let dropout = Stream::new(seed, Purpose::Dropout, round)
            .fork(step.index)
            .fork(self.index as u64);
        let logits = self.replica.forward(&x, Mode::Train { dropout })?;
        let loss = logits
            .f_log_softmax(-1, Kind::Float)?
            .f_mul(&targets)?
            .f_sum(Kind::Float)?;
        loss.f_backward()?;
        self.own_loss.f_copy_(&loss.f_detach()?.f_view([1])?)?;
        Ok(())
    }

    /// Augmented images, `[n, c, h, w]` in 0..=1.
    fn images(&self, material: &Material<'_>, epoch: u32, samples: &[u32]) -> Result<Tensor, StudentError> {
        let Material {
            config,
            transfer,
            shape,
            ..
        } = material;
        let draws = Stream::new(config.seed, Purpose::Augmentation, config.round).fork(u64::from(epoch));
        let mut bytes = Vec::with_capacity(samples.len() * shape.len());
        for sample in samples {
            let image = &transfer.images[*sample as usize * shape.len()..][..shape.len()];
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
    fn targets(&self, material: &Material<'_>, samples: &[u32], batch: usize) -> Result<Tensor, StudentError> {
        let Material { transfer, classes, .. } = material;
        let rows = samples
            .iter()
            .map(|sample| &transfer.labels[*sample as usize * classes..][..*classes]);
        let values: Vec<f32> = rows.flatten().map(|value| -value / batch as f32).collect();
        let targets = Tensor::f_from_slice(&values)?.f_view([samples.len() as i64, *classes as i64])?;
        Ok(targets.f_to_device(self.bucket.device())?)
    }
}
