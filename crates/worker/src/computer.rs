//! Obeys commands on the computing thread.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use stillhouse_collective::{Card, RingListener, Seal};
use stillhouse_core::image::ImageSet;
use stillhouse_core::job::{Device as DeviceSpec, Job, OneDeploy, Scan};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::Pool;
use stillhouse_core::sample::Sources;
use stillhouse_core::trace::{JobTrace, Stage};
use stillhouse_protocol::message::{Command, Welcome};
use stillhouse_protocol::{Fence, FromWorker, Report, Student};
use stillhouse_runtime::Secret;
use stillhouse_student::StudentError;
use stillhouse_student::scoring::{Keep, ScanMode, Scorer, ScorerConfig};
use stillhouse_student::{Head, Network, NetworkSpec, device, export};
use stillhouse_trace::{Kind, Place, Span};
use tch::Device;
use tokio::sync::mpsc;

use crate::account::counted;
use crate::control::Control;
use crate::training::UnderWay;

/// Progress is told at most so often, and less often the longer a command takes, down to once a heartbeat: there may be
/// thousands of workers.
const PROGRESS_EVERY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(3)];
/// A long command tells of about so many steps.
const PROGRESS_STEPS: u32 = 100;

/// Everything the computing thread holds.
pub(crate) struct Computer {
    pub(crate) job: Job,
    /// What the traces of its batches are named after.
    trace: JobTrace,
    pub(crate) spec: NetworkSpec,
    pub(crate) seeds: Arc<ImageSet>,
    /// Images that were generated for the pool.
    generated: Option<Arc<ImageSet>>,
    pub(crate) evaluation: Option<ImageSet>,
    pub(crate) evaluation_labels: Option<Vec<u16>>,
    /// Whether ranks speak TLS to each other.
    pub(crate) is_ring_sealed: bool,
    pub(crate) site: Site,
    pub(crate) control: Control,
    pub(crate) outbox: Outbox,
    pub(crate) under_way: Option<UnderWay>,
    loaded: Option<(Student, Arc<Vec<u8>>)>,
    scorer: Option<(Student, Scorer)>,
}

/// What a worker has of its own, whatever the job.
#[derive(Clone)]
pub(crate) struct Site {
    /// Where the other ranks come in.
    pub(crate) ring: Arc<RingListener>,
    pub(crate) secret: Secret,
    pub(crate) threads: usize,
    /// What was found at the start.
    pub(crate) device: Device,
    /// Whether the command line named it, so that no job may choose another.
    pub(crate) is_told: bool,
    /// For NCCL, where there is a card.
    pub(crate) card: Option<Card>,
    /// For a ring under TLS.
    pub(crate) seal: Seal,
}

impl Site {
    /// Where to compute for `job`.
    ///
    /// # Errors
    /// The job wants a card, and there is none.
    fn device_for(&self, job: &Job) -> anyhow::Result<Device> {
        match job.spec.workers.device {
            DeviceSpec::Cpu if !self.is_told => Ok(Device::Cpu),
            DeviceSpec::Cuda if !self.is_told => {
                if self.device == Device::Cpu {
                    return Err(StudentError::Device {
                        wanted: "cuda, as spec.workers.device says".to_owned(),
                        reason: "this worker finds no card (stillhouse-worker worker --device cuda says why)"
                            .to_owned(),
                    }
                    .into());
                }
                Ok(self.device)
            }
            _ => Ok(self.device),
        }
    }
}

/// The way to the coordinator.
#[derive(Clone)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<FromWorker>,
    last: Instant,
    /// When the command under way began.
    begun: Instant,
}

impl Outbox {
    pub(crate) fn send(&self, message: FromWorker) {
        // Over a closed link there is nobody to tell.
        let _ = self.sender.blocking_send(message);
    }

    /// Tells how far a command is, unless that was told a moment ago.
    pub(crate) fn progress(&mut self, fence: Fence, done: u64, total: u64, loss: f32) {
        let [least, most] = PROGRESS_EVERY;
        let pause = (self.begun.elapsed() / PROGRESS_STEPS).clamp(least, most);
        if self.last.elapsed() >= pause {
            self.last = Instant::now();
            self.send(FromWorker::Progress {
                fence,
                done,
                total,
                loss,
            });
        }
    }
}

impl Computer {
    /// A computer for the job that `welcome` describes, over a new link: `known` itself, with all that
    /// it holds, when it is of this job.
    ///
    /// # Errors
    /// When the welcome is not from this version.
    pub(crate) fn welcomed(
        known: Option<Self>,
        welcome: Welcome,
        site: Site,
        control: Control,
        sender: mpsc::Sender<FromWorker>,
    ) -> anyhow::Result<Self> {
        let job = welcome.job().context("the coordinator's job")?;
        let trace = welcome.trace;
        let (shape, classes) = (welcome.seeds.shape(), welcome.classes as usize);
        let spec = match &job.student {
            stillhouse_core::job::Student::Zoo(architecture) => match &job.spec.student.one {
                None => NetworkSpec::Zoo {
                    architecture: *architecture,
                    shape,
                    classes,
                },
                Some(one) => NetworkSpec::One {
                    architecture: *architecture,
                    shape,
                    classes,
                    branches: one.branches as usize,
                    head: match one.deploy {
                        OneDeploy::Branch => Head::Branch,
                        OneDeploy::Ensemble => Head::Ensemble,
                    },
                },
            },
            stillhouse_core::job::Student::TorchScript(_) => NetworkSpec::TorchScript {
                module: Arc::from(welcome.module),
                shape,
                classes,
            },
        };
        let outbox = Outbox {
            sender,
            last: Instant::now(),
            begun: Instant::now(),
        };
        let is_same =
            |known: &Self| known.job.digest() == job.digest() && known.spec == spec && *known.seeds == welcome.seeds;
        let is_ring_sealed = welcome.is_ring_sealed;
        if let Some(known) = known.filter(is_same) {
            return Ok(Self {
                job,
                trace,
                is_ring_sealed,
                control,
                outbox,
                ..known
            });
        }
        let (evaluation, evaluation_labels) = welcome.evaluation.map(|data| (data.images, data.labels)).unzip();
        Ok(Self {
            job,
            trace,
            spec,
            seeds: Arc::new(welcome.seeds),
            generated: None,
            evaluation,
            evaluation_labels: evaluation_labels.flatten(),
            is_ring_sealed,
            site,
            control,
            outbox,
            under_way: None,
            loaded: None,
            scorer: None,
        })
    }

    /// Builds the student once, before anything is paid for, and tells whether that works.
    pub(crate) fn introduce(&self) {
        let device = self.site.device_for(&self.job);
        let built = device.and_then(|device| {
            let network = Network::build(&self.spec, 0, device)?;
            Ok(device::kind(network.device()))
        });
        let device = built.map_err(|error| format!("{error:#}"));
        self.outbox.send(FromWorker::Ready { device });
    }

    /// Does what a command says and reports. A command that was overtaken is not reported on.
    pub(crate) fn obey(&mut self, fence: Fence, command: Command) {
        let metrics = stillhouse_metrics::worker();
        self.outbox.begun = Instant::now();
        let span = self.span(&command);
        let result = counted(name(&command), span, || self.execute(fence, command));
        metrics.ranks.set(0.0);
        if self.control.goes_on(fence).is_break() {
            return;
        }
        let report = match result {
            Ok(None) => return,
            Ok(Some(report)) => report,
            Err(error) => {
                let retry = is_worth_another_try(&error);
                let is_of_use = if retry { "yes" } else { "no" };
                metrics.failures.with_label_values(&[is_of_use]).inc();
                Report::Failed {
                    retry,
                    cause: format!("{error:#}"),
                }
            }
        };
        self.outbox.send(FromWorker::Report { fence, report });
    }

    /// The span of a command, below the stage of the batch that it is a part of.
    fn span(&self, command: &Command) -> Span {
        let (arm, round, stage) = match command {
            Command::Load { student, .. } | Command::Export { student } => {
                (student.arm, student.round, Stage::Training)
            }
            Command::Train(command) if command.twin.is_some() => {
                (command.student.arm, command.student.round, Stage::Comparing)
            }
            Command::Train(command) => (command.student.arm, command.student.round, Stage::Training),
            // What is scored is for the round after the student's; a control needs no scores.
            Command::Calibrate { student, .. } | Command::Scan { student, .. } | Command::Rescore { student, .. } => {
                (Arm::Active, student.round + 1, Stage::Scoring)
            }
            Command::Extend { .. } | Command::Generate(_) => (Arm::Active, 1, Stage::Generating),
        };
        let mut span = Place::of(self.trace.batch(arm, round), stage).span(name(command), Kind::Internal);
        match command {
            Command::Scan { start, end, .. } => span.set("stillhouse.pairs", (end - start) as i64),
            Command::Calibrate { pairs, .. } | Command::Rescore { pairs, .. } => {
                span.set("stillhouse.pairs", pairs.len() as i64);
            }
            Command::Train(command) => {
                span.set("stillhouse.rank", i64::from(command.rank));
                span.set("stillhouse.ranks", command.peers.len() as i64);
                span.set("stillhouse.samples", command.samples.len() as i64);
            }
            _ => {}
        }
        span
    }

    fn execute(&mut self, fence: Fence, command: Command) -> anyhow::Result<Option<Report>> {
        if !matches!(command, Command::Train(_) | Command::Extend { .. }) {
            // Whatever was trained has ended, or these would not be asked for.
            self.under_way = None;
        }
        Ok(match command {
            Command::Load { student, weights } => {
                self.keep(student, weights);
                None
            }
            Command::Extend { generated } => {
                self.scorer = None;
                self.generated = Some(Arc::new(generated));
                None
            }
            Command::Generate(command) => Some(self.generate(fence, &command)?),
            Command::Train(command) => {
                self.scorer = None;
                let (student, is_twin) = (command.student, command.twin.is_some());
                let (report, weights) = self.train(fence, &command)?;
                if is_twin {
                    self.loaded = None;
                } else {
                    self.keep(student, weights);
                }
                Some(report)
            }
            Command::Calibrate { student, pairs } => {
                let deviation = self.scorer(student)?.calibrate(&pairs)?;
                Some(Report::Calibrated { deviation })
            }
            Command::Scan {
                student,
                start,
                end,
                k,
                width,
                ceiling,
                cap,
            } => {
                let (control, mut outbox) = (self.control.clone(), self.outbox.clone());
                let mut observe = |done: u64| -> ControlFlow<()> {
                    outbox.progress(fence, done, end - start, f32::NAN);
                    control.goes_on(fence)
                };
                let keep = Keep {
                    k: usize::try_from(k).unwrap_or(usize::MAX),
                    width,
                    ceiling,
                    cap: usize::try_from(cap).unwrap_or(usize::MAX),
                };
                let lambdas = self.job.grid.lambdas().len() as u64;
                let scan = self.scorer(student)?.scan(start..end, keep, &mut observe)?;
                stillhouse_metrics::worker().scored.inc_by(scan.scanned * lambdas);
                Some(Report::Scanned {
                    end: start + scan.scanned,
                    entries: scan.entries,
                    histogram: scan.histogram,
                })
            }
            Command::Rescore { student, pairs } => {
                let entries = self.scorer(student)?.rescore(&pairs)?;
                let lambdas = self.job.grid.lambdas().len();
                stillhouse_metrics::worker()
                    .scored
                    .inc_by((entries.len() * lambdas) as u64);
                Some(Report::Rescored { entries })
            }
            Command::Export { student } => {
                let mut network = Network::build(&self.spec, 0, Device::Cpu)?;
                network.load_weights(&self.weights(student)?)?;
                let module = export::torchscript(&network)?;
                Some(Report::Exported { module })
            }
        })
    }

    /// Takes over weights; a scorer with other weights goes.
    fn keep(&mut self, student: Student, weights: Vec<u8>) {
        self.scorer = None;
        self.loaded = Some((student, Arc::new(weights)));
    }

    fn weights(&self, student: Student) -> anyhow::Result<Arc<Vec<u8>>> {
        match &self.loaded {
            Some((loaded, weights)) if *loaded == student => Ok(weights.clone()),
            _ => anyhow::bail!("student {student} was not loaded"),
        }
    }

    fn scorer(&mut self, student: Student) -> anyhow::Result<&mut Scorer> {
        if self.scorer.as_ref().is_none_or(|(of, _)| *of != student) {
            let weights = self.weights(student)?;
            let mode = match self.job.spec.acquisition.scan {
                Scan::Exact => ScanMode::Exact,
                Scan::Guarded => ScanMode::Guarded,
            };
            let config = ScorerConfig {
                seeds: self.seeds.clone(),
                generated: self.generated.clone(),
                pool: self.pool(),
                lambdas: self.job.grid.clone(),
                acquisition: self.job.spec.acquisition.score,
                stochastic: (self.job.spec.acquisition.stochastic)
                    .map(|stochastic| (stochastic, self.job.spec.training.seed, student.round + 1)),
                threads: self.site.threads,
                scan: mode,
                device: self.device()?,
            };
            let scorer = Scorer::new(&self.spec, &weights, &config)?;
            self.scorer = Some((student, scorer));
        }
        let (_, scorer) = self.scorer.as_mut().expect("made above");
        Ok(scorer)
    }

    /// Where this job is computed.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        self.site.device_for(&self.job)
    }

    pub(crate) fn pool(&self) -> Pool {
        let count = |images: &ImageSet| u32::try_from(images.len()).unwrap_or(u32::MAX);
        let generated = self.generated.as_deref().map_or(0, count);
        self.job.pool(count(&self.seeds)).with_generated(generated)
    }

    /// Where samples get their pixels.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            seeds: &self.seeds,
            evaluation: self.evaluation.as_ref(),
            generated: self.generated.as_deref(),
            pool: self.pool(),
        }
    }
}

/// One word for a command, for what is counted.
fn name(command: &Command) -> &'static str {
    match command {
        Command::Load { .. } => "load",
        Command::Extend { .. } => "extend",
        Command::Generate(_) => "generate",
        Command::Train(_) => "train",
        Command::Calibrate { .. } => "calibrate",
        Command::Scan { .. } => "scan",
        Command::Rescore { .. } => "rescore",
        Command::Export { .. } => "export",
    }
}

/// Losing a peer is noise; anything else would happen again.
fn is_worth_another_try(error: &anyhow::Error) -> bool {
    let lost = |error: &StudentError| matches!(error, StudentError::Collective { .. } | StudentError::Stopped { .. });
    error.downcast_ref::<StudentError>().is_some_and(lost) || error.is::<stillhouse_collective::CollectiveError>()
}
