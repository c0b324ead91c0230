//! One rank's part in a training.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::ensure;
use stillhouse_collective::ring::Membership;
use stillhouse_collective::{AbortHandle, CardRing, Collective, CollectiveError, GroupId, Local, Ring, nccl};
use stillhouse_core::Sample;
use stillhouse_core::job::{Augmentation as AugmentationSpec, CollectiveKind, Spec};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_protocol::message::TrainCommand;
use stillhouse_protocol::{Fence, FromWorker, Measurement, Report};
use stillhouse_student::train::{
    Augmentation, Evaluation, EvaluationSet, Init, OneLoss, Progress, Session, TrainConfig, Training, TransferSet,
};
use tch::Device;

use crate::account;
use crate::computer::Computer;

/// How long a rank waits for the others in one operation. A lost peer is noticed at once by its
/// closed connection; this bounds one that hangs, and must exceed the slowest rank's step.
const PATIENCE: Duration = Duration::from_secs(120);

/// A twin is trained for so many times fewer epochs than its student: the guard compares, it needs no champion.
const TWIN_PART: u32 = 4;

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
        one: job.student.one.map_or_else(OneLoss::default, |one| OneLoss {
            temperature: one.temperature,
            ramp: one.ramp,
        }),
        mixing: spec.mixing,
        determinism: spec.determinism,
    }
}

/// A training that this worker takes part in, kept from one world of ranks to the next.
pub(crate) struct UnderWay {
    /// See [`TrainCommand::identity`].
    identity: String,
    session: Session,
}

/// A session for `command`, from its checkpoint if that is any good.
fn begin(training: &Training<'_>, command: &TrainCommand) -> anyhow::Result<Session> {
    if let Some(state) = &command.resume {
        match Session::resume(training, state) {
            Ok(session) => return Ok(session),
            Err(error) => tracing::warn!(%error, student = %command.student, "the checkpoint is of no use"),
        }
    }
    Ok(Session::begin(training)?)
}

fn measurement((epoch, found): &(u32, Evaluation)) -> Measurement {
    Measurement {
        epoch: epoch + 1,
        labelled: found.labelled,
        correct: found.correct,
        asked: found.answered,
        agreed: found.agreed,
    }
}

impl Computer {
    /// Trains with the other ranks, from wherever the furthest of them is; returns the report and
    /// the weights.
    ///
    /// # Errors
    /// When a rank is lost, a newer command arrives, or training diverges. What was trained so far
    /// is kept for the next world.
    pub(crate) fn train(&mut self, fence: Fence, command: &TrainCommand) -> anyhow::Result<(Report, Vec<u8>)> {
        let images = self.render(&command.samples)?;
        let config = self.config_of(command);
        let training = Training {
            spec: &self.spec,
            init: command.initial.as_deref().map_or(Init::Fresh, Init::Weights),
            device: self.device()?,
            transfer: TransferSet {
                images: &images,
                labels: &command.labels,
            },
            evaluation: match command.twin {
                // The seed images that were kept from it.
                Some(_) => Some(EvaluationSet {
                    images: self.seeds.bytes(),
                    classes: None,
                    teacher: &command.teacher_classes,
                }),
                None => self.evaluation.as_ref().map(|images| EvaluationSet {
                    images: images.bytes(),
                    classes: self.evaluation_labels.as_deref(),
                    teacher: &command.teacher_classes,
                }),
            },
            config: &config,
            threads: self.site.threads,
        };
        let mut session = match self.under_way.take() {
            Some(kept) if kept.identity == command.identity => kept.session,
            _ => begin(&training, command)?,
        };
        let ended = self.go_on(fence, command, &training, &mut session);
        let kept = self.under_way.insert(UnderWay {
            identity: command.identity.clone(),
            session,
        });
        let loss = ended?;
        let weights = kept.session.network().weights()?;
        let report = Report::Trained {
            digest: blake3::hash(&weights).to_hex().to_string(),
            weights: (command.rank == 0).then(|| weights.clone()),
            loss,
            measurements: kept.session.evaluations().iter().map(measurement).collect(),
            steps: kept.session.step(),
            parameters: kept.session.network().deployed()?.parameter_count() as u64,
        };
        Ok((report, weights))
    }

    /// How `command` is trained: a twin a quarter as long as its student, and measured at its end alone.
    fn config_of(&self, command: &TrainCommand) -> TrainConfig {
        let every = match (&self.job.spec.evaluation, command.twin) {
            (Some(evaluation), None) => evaluation.every_epochs,
            (None, _) | (_, Some(_)) => 0,
        };
        let (samples, round) = (command.samples.len(), command.student.round);
        let config = train_config(&self.job.spec, samples, command.attempt, round, every);
        match command.twin {
            Some(_) => TrainConfig {
                epochs: config.epochs.div_ceil(TWIN_PART),
                ..config
            },
            None => config,
        }
    }

    /// Trains `session` on in the world of `command`; returns the loss.
    fn go_on(
        &self,
        fence: Fence,
        command: &TrainCommand,
        training: &Training<'_>,
        session: &mut Session,
    ) -> anyhow::Result<f32> {
        let mut collective = self.join(fence, command.rank as usize, command)?;
        let mut outbox = self.outbox.clone();
        let every = Duration::from_secs(self.job.spec.checkpoints.every_seconds.into());
        let mut clock = (command.rank == 0 && !every.is_zero()).then(Instant::now);
        let metrics = stillhouse_metrics::worker();
        metrics.ranks.set(command.peers.len() as f64);
        let mut observe = |progress: &Progress, session: &Session| -> ControlFlow<()> {
            account::step(progress);
            outbox.progress(fence, progress.step, progress.steps, progress.loss);
            if let Some(last) = clock.as_mut().filter(|last| last.elapsed() >= every) {
                *last = Instant::now();
                match session.state() {
                    Ok(state) => outbox.send(FromWorker::Checkpoint {
                        fence,
                        step: progress.step,
                        state,
                    }),
                    Err(error) => tracing::warn!(%error, "no checkpoint was made"),
                }
            }
            self.control.goes_on(fence)
        };
        Ok(session.train(training, &mut *collective, &mut observe)?)
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
            secret: self.site.secret.expose(),
            seal: Some(&self.site.seal).filter(|_| self.is_ring_sealed),
            deadline: PATIENCE,
        };
        let abort = AbortHandle::new();
        self.control.watch(fence, &abort);
        let ring = Ring::join(&self.site.ring, &membership, &abort)?;
        self.with_cards(ring)
    }

    /// The ring with NCCL between the ranks' cards, where the job wants that and the ranks can.
    fn with_cards(&self, mut ring: Ring) -> anyhow::Result<Box<dyn Collective>> {
        let wanted = self.job.spec.workers.collective;
        if wanted == CollectiveKind::Ring {
            return Ok(Box::new(ring));
        }
        let card = self
            .site
            .card
            .filter(|_| self.device().is_ok_and(|device| device != Device::Cpu));
        match (nccl::obstacle(&mut ring, card.as_ref())?, card) {
            (None, Some(card)) => {
                let joined = CardRing::join(ring, card, PATIENCE)?;
                tracing::info!(ranks = joined.world_size(), "gradients go from card to card");
                Ok(Box::new(joined))
            }
            (reason, _) if wanted == CollectiveKind::Nccl => Err(CollectiveError::NoNccl {
                rank: ring.rank(),
                reason: reason.unwrap_or_default(),
            }
            .into()),
            (reason, _) => {
                if let (Some(reason), Some(_)) = (reason, card) {
                    tracing::info!(reason, "gradients go through the hosts' memory");
                }
                Ok(Box::new(ring))
            }
        }
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
