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
//!
//! What stands after a step is a [`Session`], which outlives the ranks that made it.

mod augment;
mod batches;
mod config;
mod crew;
mod data;
mod evaluate;
mod exchange;
mod mixing;
mod one;
mod optimizer;
mod session;
mod shard;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use stillhouse_collective::Collective;
use stillhouse_core::ImageShape;
use stillhouse_core::job::Determinism;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::shards::owned;
use tch::Device;

use crate::error::StudentError;
use crate::ffi::{Shortcuts, flush_denormal};
use crate::network::{Network, NetworkSpec};
use batches::{Steps, shards_used};
pub(crate) use crew::SingleThreaded;

use crew::Crew;
use exchange::Exchange;
use shard::{BucketLayout, Material, Shard, Step};

pub use config::{Augmentation, TrainConfig};
pub use data::TransferSet;
pub use evaluate::{Evaluation, EvaluationSet, evaluate};
pub use one::OneLoss;
pub use session::Session;

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
    /// What is measured at the end of epochs, by all ranks together.
    pub evaluation: Option<EvaluationSet<'a>>,
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
    /// What was measured, at the end of an epoch that is evaluated.
    pub evaluation: Option<Evaluation>,
    /// Where this step's time went.
    pub times: StepTimes,
}

/// Parts of a step as a rank spends them. On a card, what is still under way there counts for whoever
/// waits for it: mostly for `all_reduce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Images and forward, of the thread of this rank that took longest.
    pub forward: Duration,
    /// The rest of what that thread did: backward.
    pub backward: Duration,
    /// Waiting for other ranks; counted as `all_reduce` where that cannot be told, as between cards.
    pub wait: Duration,
    /// Adding the gradients of all ranks, without the wait.
    pub all_reduce: Duration,
    /// The optimiser's step.
    pub update: Duration,
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
    /// The last evaluation.
    pub evaluation: Option<Evaluation>,
}

/// Is called after each step with the session as it then is; breaking ends the training there.
pub type Observer<'a> = &'a mut dyn FnMut(&Progress, &Session) -> ControlFlow<()>;

/// Trains a student together with the other ranks of `collective`, which make the same call. The
/// weights have the same bits for any number of ranks and threads (same machine type and libtorch).
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use stillhouse_collective::Local;
/// use stillhouse_student::train::{Training, train};
/// # fn example(training: &Training<'_>) -> Result<(), stillhouse_student::StudentError> {
/// let trained = train(training, &mut Local, &mut |progress, _| {
///     println!("step {} of {}: {}", progress.step, progress.steps, progress.loss);
///     ControlFlow::Continue(())
/// })?;
/// let weights = trained.network.weights()?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`Session::begin`] and [`Session::train`].
pub fn train(
    training: &Training<'_>,
    collective: &mut dyn Collective,
    observer: Observer<'_>,
) -> Result<Trained, StudentError> {
    training.config.check()?;
    let mut session = Session::begin(training)?;
    let loss = session.train(training, collective, observer)?;
    Ok(Trained {
        loss,
        steps: session.step,
        evaluation: session.evaluations.last().map(|(_, evaluation)| *evaluation),
        network: session.network,
    })
}

impl Session {
    /// Trains on to the end, from wherever this session or that of another rank of `collective` is;
    /// returns the mean loss of the last epoch's steps. All ranks make the same call.
    ///
    /// After [`StudentError::Collective`] and [`StudentError::Stopped`] the session stands after
    /// the last step that it applied, and can go on with another world.
    ///
    /// # Errors
    /// [`StudentError::Training`] for settings or data that cannot be trained with,
    /// [`StudentError::Diverged`] when the loss is no longer a number, [`StudentError::Collective`]
    /// when a rank is lost, [`StudentError::Stopped`] when the observer breaks off. Queries are
    /// never spent.
    pub fn train(
        &mut self,
        training: &Training<'_>,
        collective: &mut dyn Collective,
        observer: Observer<'_>,
    ) -> Result<f32, StudentError> {
        let Training {
            spec,
            config,
            transfer,
            threads,
            ..
        } = training;
        config.check()?;
        let (shape, classes) = (spec.shape(), spec.classes());
        let samples = transfer.samples(shape, classes)?;
        self.meet(collective)?;
        let _calm = SingleThreaded::enter();
        flush_denormal(true);
        let is_hurried = config.determinism == Determinism::Fast && matches!(training.device, Device::Cuda(_));
        let shortcuts = is_hurried.then(Shortcuts::take).transpose();
        let _shortcuts = shortcuts.map_err(StudentError::Torch)?;
        let mine = owned(config.shards, collective.rank(), collective.world_size());
        let shards = mine
            .map(|index| Shard::new(&self.network, index))
            .collect::<Result<Vec<_>, _>>()?;
        let buckets = shards.iter().map(|shard| (shard.index(), shard.bucket())).collect();
        let layout = BucketLayout::of(&self.network);
        let material = Material {
            config,
            transfer: *transfer,
            shape,
            classes,
        };
        std::thread::scope(|scope| {
            let run = Run {
                training,
                session: self,
                layout,
                exchange: Exchange::new(config, buckets, layout.len(), training.device),
                crew: Crew::start(scope, material, shards, *threads)?,
                collective,
                steps: Steps::new(samples, config.batch),
                samples,
                shape,
            };
            run.train_on(observer)
        })
    }
}

/// One training under way, in one world.
struct Run<'a, 'scope> {
    training: &'a Training<'a>,
    session: &'a mut Session,
    layout: BucketLayout,
    exchange: Exchange,
    crew: Crew<'scope>,
    collective: &'a mut dyn Collective,
    steps: Steps,
    samples: usize,
    shape: ImageShape,
}

impl Run<'_, '_> {
    fn train_on(mut self, observer: Observer<'_>) -> Result<f32, StudentError> {
        let config = self.training.config;
        let count = self.steps.count() as u64;
        let steps = u64::from(config.epochs) * count;
        // One that an earlier world did not finish.
        self.evaluate_if_due()?;
        let mut order: Option<(u32, Vec<u32>)> = None;
        while self.session.step < steps {
            let index = self.session.step;
            let (epoch, at) = ((index / count) as u32, (index % count) as usize);
            let order = match order.take() {
                Some(known) if known.0 == epoch => order.insert(known),
                _ => order.insert((epoch, self.order(epoch))),
            };
            if at == 0 {
                if config.resets(epoch) {
                    self.session.optimizer.reset()?;
                }
                self.session.losses = 0.0;
            }
            let step = Step {
                index,
                epoch,
                samples: &order.1[self.steps.range(at)],
            };
            let (loss, times) = self.step(&step, config.rate(epoch, index, steps))?;
            self.session.losses += f64::from(loss);
            self.session.step += 1;
            let progress = Progress {
                epoch,
                step: index + 1,
                steps,
                loss,
                evaluation: self.evaluate_if_due()?,
                times,
            };
            if observer(&progress, self.session).is_break() {
                return Err(StudentError::Stopped { step: index + 1 });
            }
        }
        if config.determinism == Determinism::Fast {
            self.session.agree(self.collective)?;
        }
        if self.collective.cards().is_some() {
            // Another card may still read from this one. That its rank is gone meanwhile is no loss:
            // everything is applied here.
            let _gone = self.collective.barrier();
        }
        Ok((self.session.losses / count as f64) as f32)
    }

    /// The order of samples in `epoch`.
    fn order(&self, epoch: u32) -> Vec<u32> {
        let TrainConfig { seed, round, .. } = *self.training.config;
        let stream = Stream::new(seed, Purpose::Shuffle, round).fork(u64::from(epoch));
        stream.permutation(self.samples as u32)
    }

    /// Computes, adds up and applies one step; returns its loss, and where the time went.
    fn step(&mut self, step: &Step<'_>, rate: f64) -> Result<(f32, StepTimes), StudentError> {
        let begun = Instant::now();
        let forward = self.crew.compute(step)?;
        let computed = Instant::now();
        // Waiting at a measurement before this step is none of its own.
        let _before = self.collective.take_waited();
        let _no_grad = tch::no_grad_guard();
        let sum = self.exchange.sum(self.collective, step.index)?;
        let loss = self.layout.loss_of(&sum)?.f_double_value(&[0])? as f32;
        if !loss.is_finite() {
            return Err(StudentError::Diverged { step: step.index, loss });
        }
        let exchanged = Instant::now();
        let gradients = self.layout.gradients_of(&sum)?;
        let Session { network, optimizer, .. } = &mut *self.session;
        let memory = network.memory();
        optimizer.step(self.training.config, rate, &memory.parameters, &gradients)?;
        if self.layout.buffers > 0 {
            let used = shards_used(step.samples.len(), self.training.config.shards);
            let mean = self.layout.buffers_of(&sum)?.f_div_scalar_(used as f64)?;
            memory.buffers.shallow_clone().f_copy_(&mean)?;
        }
        let (compute, exchange) = (computed - begun, exchanged - computed);
        let wait = self.collective.take_waited().min(exchange);
        let times = StepTimes {
            forward: forward.min(compute),
            backward: compute.saturating_sub(forward),
            wait,
            all_reduce: exchange - wait,
            update: exchanged.elapsed(),
        };
        Ok((loss, times))
    }

    /// Measures the student with the other ranks, where an epoch ended that is evaluated and was not.
    fn evaluate_if_due(&mut self) -> Result<Option<Evaluation>, StudentError> {
        let (step, count) = (self.session.step, self.steps.count() as u64);
        let Some(set) = &self.training.evaluation else {
            return Ok(None);
        };
        if step == 0 || !step.is_multiple_of(count) {
            return Ok(None);
        }
        let epoch = (step / count - 1) as u32;
        let is_done = self.session.evaluations.last().is_some_and(|(last, _)| *last == epoch);
        if is_done || !self.training.config.evaluates(epoch) {
            return Ok(None);
        }
        let (rank, world) = (self.collective.rank(), self.collective.world_size());
        let slice = owned(set.len(self.shape), rank, world);
        let mine = evaluate(&self.session.network, set, slice, self.training.threads)?;
        let parts = self.collective.gather_words(&mine.words());
        let parts = parts.map_err(|source| StudentError::Collective { step, source })?;
        let mut whole = Evaluation::default();
        parts
            .iter()
            .filter_map(|words| Evaluation::of_words(words))
            .for_each(|part| whole += part);
        self.session.evaluations.push((epoch, whole));
        Ok(Some(whole))
    }
}
