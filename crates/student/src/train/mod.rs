//! Trains a student on the transfer set, on any number of ranks and threads, with the same bits.
//!
//! A step goes like this (invariant I11 in brackets: why nobody can tell who computed it).
//!
//! 1. The order of an epoch is a permutation drawn from (seed, round, epoch) [`batches`].
//! 2. The step's samples are cut into a fixed number of virtual shards [`batches`].
//! 3. Each rank computes the shards it owns, each on one thread, with images changed by draws
//!    addressed by (epoch, sample) and dropout masks by (step, shard) [`shard`, `augment`].
//! 4. The buckets `[gradients | running statistics | loss]` are added along one fixed tree
//!    [`exchange`].
//! 5. Every rank makes the same optimiser step [`optimizer`].

mod augment;
mod batches;
mod config;
mod crew;
mod data;
mod evaluate;
mod exchange;
mod optimizer;
mod shard;

use std::ops::{ControlFlow, Range};

use stillhouse_collective::Collective;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::shards::owned;
use tch::Device;

use crate::error::StudentError;
use crate::ffi::flush_denormal;
use crate::network::{Network, NetworkSpec};
use batches::{Steps, shards_used};
use crew::{Crew, SingleThreaded};
use exchange::Exchange;
use optimizer::OptimizerState;
use shard::{BucketLayout, Material, Shard, Step};

pub use config::{Augmentation, TrainConfig};
pub use data::TransferSet;
pub use evaluate::{Evaluation, EvaluationSet, evaluate};

/// What training starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a> {
    /// Weights drawn from (seed, round); for a TorchScript student those in the module.
    Fresh,
    /// A safetensors file, see [`Network::weights`].
    Weights(&'a [u8]),
}

/// Everything that one training needs.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// The student.
    pub spec: &'a NetworkSpec,
    /// Its weights at the start.
    pub init: Init<'a>,
    /// Where this rank computes.
    pub device: Device,
    /// The same on every rank.
    pub transfer: TransferSet<'a>,
    /// What is measured at the end of epochs, and this rank's part of it.
    pub evaluation: Option<(EvaluationSet<'a>, Range<usize>)>,
    /// The same on every rank.
    pub config: &'a TrainConfig,
    /// Threads of this rank; more than it has shards are of no use.
    pub threads: usize,
}

/// Where a training is. Reported after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done, over all epochs.
    pub step: u64,
    /// Steps of the whole training.
    pub steps: u64,
    /// Mean cross-entropy of this step's samples (natural logarithm).
    pub loss: f32,
    /// This rank's part of the evaluation, at the end of an epoch that is evaluated.
    pub evaluation: Option<Evaluation>,
}

/// A trained student.
#[derive(Debug)]
pub struct Trained {
    /// The student with its weights, the same on every rank.
    pub network: Network,
    /// Mean loss of the last epoch's steps.
    pub loss: f32,
    /// Steps done.
    pub steps: u64,
    /// This rank's part of the last evaluation.
    pub evaluation: Option<Evaluation>,
}

/// Trains a student together with the other ranks of `collective`, which make the same call. The
/// weights have the same bits for any number of ranks and threads (same machine type and libtorch).
///
/// `observer` is called after each step and ends the training with [`ControlFlow::Break`].
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use stillhouse_collective::Local;
/// use stillhouse_student::train::{Training, train};
/// # fn example(training: &Training<'_>) -> Result<(), stillhouse_student::StudentError> {
/// let trained = train(training, &mut Local, &mut |progress| {
///     println!("step {} of {}: {}", progress.step, progress.steps, progress.loss);
///     ControlFlow::Continue(())
/// })?;
/// let weights = trained.network.weights()?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`StudentError::Training`] for settings or data that cannot be trained with,
/// [`StudentError::Diverged`] when the loss is no longer a number, [`StudentError::Collective`] when
/// a rank is lost, [`StudentError::Stopped`] when the observer breaks off. Queries are never spent.
pub fn train(
    training: &Training<'_>,
    collective: &mut dyn Collective,
    observer: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Trained, StudentError> {
    let Training {
        spec,
        config,
        transfer,
        threads,
        ..
    } = training;
    config.check()?;
    let (shape, classes) = (spec.shape(), spec.classes());
    let network = initial_network(training)?;
    let samples = transfer.samples(shape, classes)?;
    let _calm = SingleThreaded::enter();
    flush_denormal(true);
    let mine = owned(config.shards, collective.rank(), collective.world_size());
    let shards = mine
        .map(|index| Shard::new(&network, index))
        .collect::<Result<Vec<_>, _>>()?;
    let buckets = shards.iter().map(|shard| (shard.index(), shard.bucket())).collect();
    let layout = BucketLayout::of(&network);
    let material = Material {
        config,
        transfer: *transfer,
        shape,
        classes,
    };
    std::thread::scope(|scope| {
        let run = Run {
            training,
            optimizer: OptimizerState::new(config.optimizer, &network.memory().parameters)?,
            network,
            layout,
            exchange: Exchange::new(config.shards, buckets, layout.len(), training.device),
            crew: Crew::start(scope, material, shards, *threads)?,
            collective,
            steps: Steps::new(samples, config.batch),
            samples,
        };
        run.all_epochs(observer)
    })
}

/// The network with the weights that training starts from.
fn initial_network(training: &Training<'_>) -> Result<Network, StudentError> {
    let TrainConfig { seed, round, .. } = *training.config;
    let init_seed = Stream::new(seed, Purpose::Initialisation, round).at(0);
    let mut network = Network::build(training.spec, init_seed, training.device)?;
    if network.parameter_count() == 0 {
        return Err(StudentError::Training {
            reason: "the network has no trainable parameter".to_owned(),
        });
    }
    match training.init {
        Init::Fresh => {}
        Init::Weights(bytes) => network.load_weights(bytes)?,
    }
    Ok(network)
}

/// One training under way.
struct Run<'a, 'scope> {
    training: &'a Training<'a>,
    network: Network,
    layout: BucketLayout,
    optimizer: OptimizerState,
    exchange: Exchange,
    crew: Crew<'scope>,
    collective: &'a mut dyn Collective,
    steps: Steps,
    samples: usize,
}

impl Run<'_, '_> {
    fn all_epochs(mut self, observer: &mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Result<Trained, StudentError> {
        let config = self.training.config;
        let steps = u64::from(config.epochs) * self.steps.count() as u64;
        let (mut loss, mut evaluation) = (0.0, None);
        for epoch in 0..config.epochs {
            if config.resets(epoch) {
                self.optimizer.reset()?;
            }
            (loss, evaluation) = self.epoch(epoch, steps, observer)?;
        }
        Ok(Trained {
            network: self.network,
            loss,
            steps,
            evaluation,
        })
    }

    /// One pass over the transfer set; returns the mean loss of its steps.
    fn epoch(
        &mut self,
        epoch: u32,
        steps: u64,
        observer: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(f32, Option<Evaluation>), StudentError> {
        let config = self.training.config;
        let order = Stream::new(config.seed, Purpose::Shuffle, config.round).fork(u64::from(epoch));
        let order = order.permutation(self.samples as u32);
        let count = self.steps.count();
        let (mut total, mut evaluation) = (0.0_f64, None);
        for at in 0..count {
            let index = u64::from(epoch) * count as u64 + at as u64;
            let step = Step {
                index,
                epoch,
                samples: &order[self.steps.range(at)],
            };
            let loss = self.step(&step, config.rate(epoch, index, steps))?;
            total += f64::from(loss);
            if at + 1 == count && config.evaluates(epoch) {
                evaluation = self.evaluate()?;
            }
            let progress = Progress {
                epoch,
                step: index + 1,
                steps,
                loss,
                evaluation,
            };
            if observer(&progress).is_break() {
                return Err(StudentError::Stopped { step: index + 1 });
            }
        }
        Ok(((total / count as f64) as f32, evaluation))
    }

    /// Computes, adds up and applies one step; returns its loss.
    fn step(&mut self, step: &Step<'_>, rate: f64) -> Result<f32, StudentError> {
        self.crew.compute(step)?;
        let _no_grad = tch::no_grad_guard();
        let sum = self.exchange.sum(self.collective, step.index)?;
        let loss = self.layout.loss_of(&sum)?.f_double_value(&[0])? as f32;
        if !loss.is_finite() {
            return Err(StudentError::Diverged { step: step.index, loss });
        }
        let memory = self.network.memory();
        let gradients = self.layout.gradients_of(&sum)?;
        self.optimizer
            .step(self.training.config, rate, &memory.parameters, &gradients)?;
        if self.layout.buffers > 0 {
            let used = shards_used(step.samples.len(), self.training.config.shards);
            let mean = self.layout.buffers_of(&sum)?.f_div_scalar_(used as f64)?;
            memory.buffers.shallow_clone().f_copy_(&mean)?;
        }
        Ok(loss)
    }

    fn evaluate(&self) -> Result<Option<Evaluation>, StudentError> {
        let Some((set, slice)) = &self.training.evaluation else {
            return Ok(None);
        };
        evaluate(&self.network, set, slice.clone(), self.training.threads).map(Some)
    }
}
