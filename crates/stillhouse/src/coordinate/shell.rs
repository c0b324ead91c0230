//! The loop around the coordinator's state machine: event, handle, persist, perform.

mod announce;
mod batches;
mod generating;
mod hearing;
mod publishing;
pub(super) mod scans;
mod sight;
mod training;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stillhouse_core::key::Fingerprint;
use stillhouse_core::trace::JobTrace;
use stillhouse_core::{Sample, SoftLabel};
use stillhouse_ledger::Ledger;
use stillhouse_protocol::message::{Command, Fence, TrainCommand};
use stillhouse_protocol::{
    Action, AskOutcome, Coordinator, Durable, Effects, Event, JobFailure, Student, ToWorker, Transition, WorkerId,
    codec,
};
use tokio::sync::mpsc;

use self::batches::Batches;
use super::asking::{AskError, Asker};
use super::links::{LinkEvent, Links};
use super::measure;
use super::meter::Meter;
use crate::checkpoints::{Checkpoints, TrainingId};
use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::{EventLog, JobDir};
use crate::report::ProgressBars;
use crate::report::burn::Burn;
use crate::report::terminal::Stage;
use crate::watch::serve::Window;

/// What the asking task says.
#[derive(Debug)]
pub enum AskEvent {
    /// So many queries of the batch are through.
    Progress {
        /// Through.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// The batch is through.
    Done {
        /// Whose.
        student: Student,
        /// How it went.
        outcome: Result<AskOutcome, AskError>,
    },
}

/// Something that the shell handles.
#[derive(Debug)]
pub enum Happening {
    /// Something came over a link.
    Link(LinkEvent),
    /// The asking task said something.
    Ask(AskEvent),
}

/// Asking is told of progress at most a few times a second; a small buffer is enough.
const ASK_EVENTS: usize = 64;

/// Everything a running job holds.
pub struct Shell {
    inputs: Arc<Inputs>,
    dir: JobDir,
    events: EventLog,
    ledger: Ledger,
    asker: Arc<Asker>,
    coordinator: Coordinator,
    links: Links,
    bars: ProgressBars,
    meter: Meter,
    asked: (mpsc::Sender<AskEvent>, mpsc::Receiver<AskEvent>),
    begun: Instant,
    started_ms: u64,
    fingerprint: Fingerprint,
    classes: u32,
    window: Window,
    /// When watchers were last shown what goes on, and which stage of whose round it was.
    shown: Option<(Instant, Option<Student>, Stage)>,
    checkpoints: Option<Checkpoints>,
    /// The weights that workers were last sent, as a message.
    weights: Option<(Fence, Bytes)>,
    /// When the scan under way was kept last, or began.
    scan_kept_at: Option<Instant>,
    /// The training under way.
    training: Option<TrainingId>,
    /// Processes of workers on this host.
    processes: BTreeMap<WorkerId, u32>,
    /// Those of them that finished some work since they were last asked for.
    useful: BTreeSet<u32>,
    /// Workers that have taken part in it, and are there.
    trainers: BTreeSet<WorkerId>,
    /// The world of ranks that was last heard to train.
    trains: Option<Fence>,
    /// Why nothing is asked at the moment.
    paused: Option<String>,
    finished: bool,
    /// What the metrics say of stages.
    stages: measure::Stages,
    /// What the traces say of them.
    batches: Batches,
    /// What was billed when.
    burn: Burn,
}

/// What a shell is made of.
pub struct Parts {
    /// The job.
    pub inputs: Arc<Inputs>,
    /// Its directory.
    pub dir: JobDir,
    /// Its event log.
    pub events: EventLog,
    /// Its ledger.
    pub ledger: Ledger,
    /// Who asks.
    pub asker: Arc<Asker>,
    /// Who decides.
    pub coordinator: Coordinator,
    /// Who computes.
    pub links: Links,
    /// Who shows.
    pub bars: ProgressBars,
    /// Who looks on.
    pub window: Window,
    /// Where trainings under way are kept.
    pub checkpoints: Option<Checkpoints>,
    /// First start of the job.
    pub started_ms: u64,
    /// What the traces of its batches are named after.
    pub trace: JobTrace,
    /// Who is asked.
    pub fingerprint: Fingerprint,
    /// Number of classes.
    pub classes: u32,
    /// What was billed when, as an earlier life of the job saw it.
    pub burn: Burn,
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Shell {
    /// A shell that has not begun.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let stages = measure::Stages::new(u64::from(parts.inputs.plan.lambdas));
        Self {
            meter: Meter::new(parts.inputs.plan.scored),
            inputs: parts.inputs,
            dir: parts.dir,
            events: parts.events,
            ledger: parts.ledger,
            asker: parts.asker,
            coordinator: parts.coordinator,
            links: parts.links,
            bars: parts.bars,
            asked: mpsc::channel(ASK_EVENTS),
            begun: Instant::now(),
            started_ms: parts.started_ms,
            fingerprint: parts.fingerprint,
            classes: parts.classes,
            window: parts.window,
            shown: None,
            checkpoints: parts.checkpoints,
            weights: None,
            scan_kept_at: None,
            training: None,
            processes: BTreeMap::new(),
            useful: BTreeSet::new(),
            trainers: BTreeSet::new(),
            trains: None,
            paused: None,
            finished: false,
            stages,
            batches: Batches::new(parts.trace),
            burn: parts.burn,
        }
    }

    /// Waits for something to happen. Cancel safe: a call that is dropped loses nothing.
    pub async fn next(&mut self) -> Happening {
        tokio::select! {
            event = self.links.next() => Happening::Link(event),
            Some(event) = self.asked.1.recv() => Happening::Ask(event),
        }
    }

    /// Handles what [`next`](Self::next) returned; `true` once the job is done. Must run to its
    /// end: an event that is dropped half-way leaves memory and disk apart.
    ///
    /// # Errors
    /// When something cannot be written, or the job cannot go on.
    pub async fn take(&mut self, happening: Happening) -> Result<bool, Failure> {
        match happening {
            Happening::Link(event) => self.linked(event).await?,
            Happening::Ask(event) => self.answered(event).await?,
        }
        self.keep_scan();
        Ok(self.finished)
    }

    /// Process ids of workers on this host that finished some work since the last call.
    pub fn take_useful(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.useful)
    }

    /// Lets the workers go, when the job is over; else they wait for it to be taken up again.
    pub fn dismiss(&mut self) {
        if self.finished {
            self.links.dismiss();
        }
        self.bars.clear();
    }

    /// The progress bars.
    #[must_use]
    pub fn bars(&self) -> &ProgressBars {
        &self.bars
    }

    async fn answered(&mut self, event: AskEvent) -> Result<(), Failure> {
        match event {
            AskEvent::Progress { done, total } => {
                self.bars.querying(done, total);
                if self.show_stage(Stage::Querying, done, total) {
                    self.show_batch().await?;
                }
                Ok(())
            }
            AskEvent::Done { student, outcome } => {
                let outcome = outcome.map_err(|error| Failure::new(Kind::Storage, error))?;
                self.handle(Event::Asked { student, outcome }).await
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), Failure> {
        let Effects { durable, actions } = self.coordinator.handle(self.begun.elapsed(), event);
        let trained: Vec<Student> = durable.iter().filter_map(trained).collect();
        let changed = !durable.is_empty();
        for item in durable {
            self.persist(item).await?;
        }
        if changed {
            let summary = self.publish(self.state()).await?;
            trained.into_iter().for_each(|student| self.tell(&summary, student));
        }
        self.tell_of_resumed_scan();
        let mut training = None;
        for action in actions {
            self.perform(action, &mut training).await?;
        }
        Ok(())
    }

    async fn persist(&mut self, item: Durable) -> Result<(), Failure> {
        match item {
            Durable::Weights { student, weights } => self.dir.write(&self.dir.student(student), &weights),
            Durable::Module { student, module } => {
                let stem = JobDir::final_stem(student.arm);
                self.dir
                    .write(&format!("{stem}.safetensors"), &self.dir.weights(student)?)?;
                self.dir.write(&format!("{stem}.pt"), &module)
            }
            Durable::Images(images) => self.keep_images(images),
            Durable::Transition(transition) => {
                let line = serde_json::to_vec(&transition).expect("transitions have only text keys");
                let appended = self.ledger.append(line).await;
                appended.map_err(|error| Failure::new(Kind::Storage, error).context("cannot record progress"))?;
                self.announce(&transition);
                if matches!(transition, Transition::Selected { .. }) {
                    self.forget_scan();
                }
                Ok(())
            }
        }
    }

    async fn perform(&mut self, action: Action, training: &mut Option<TrainCommand>) -> Result<(), Failure> {
        match action {
            Action::Ask { student, samples } => self.ask(student, samples),
            Action::Load { worker, fence, student } => self.load(worker, fence, student)?,
            Action::Extend { worker, fence } => {
                if let Some(generated) = self.inputs.generated.get().cloned() {
                    self.send(worker, fence, Command::Extend { generated });
                }
            }
            Action::Generate { worker, fence, images } => self.generate(worker, fence, images).await?,
            Action::Command { worker, fence, command } => {
                let command = *command;
                match &command {
                    Command::Scan { start, end, .. } => self.meter.scan(worker, fence, end - start),
                    Command::Rescore { pairs, .. } if self.inputs.job.spec.acquisition.sample.is_some() => {
                        self.meter.scan(worker, fence, pairs.len() as u64);
                    }
                    _ => {}
                }
                self.send(worker, fence, command);
            }
            Action::Train {
                worker,
                fence,
                student,
                attempt,
                twin,
                rank,
                peers,
                initial,
            } => {
                if training.is_none() {
                    *training = Some(self.transfer_set(student, twin, attempt, initial).await?);
                }
                let base = training.as_ref().expect("made above");
                let command = TrainCommand {
                    rank,
                    peers,
                    // The others are fed by rank 0, and all by whoever has something newer.
                    resume: base.resume.clone().filter(|_| rank == 0),
                    ..base.clone()
                };
                if rank == 0 {
                    stillhouse_metrics::coordinator().worlds.inc();
                    self.meter.train(worker, fence);
                }
                self.trainers.insert(worker);
                self.send(worker, fence, Command::Train(Box::new(command)));
            }
            Action::Finish => self.finished = true,
            Action::Fail(failure) => return Err(job_failure(failure)),
        }
        Ok(())
    }

    /// Sends a student's weights, read and encoded once for all workers.
    fn load(&mut self, worker: WorkerId, fence: Fence, student: Student) -> Result<(), Failure> {
        let bytes = match &self.weights {
            Some((of, bytes)) if *of == fence => bytes.clone(),
            _ => {
                let weights = self.dir.weights(student)?;
                let command = Command::Load { student, weights };
                let encoded = codec::encode(&ToWorker::Command { fence, command });
                encoded.map_err(|error| Failure::new(Kind::Internal, error))?.into()
            }
        };
        self.weights = Some((fence, bytes.clone()));
        self.links.send_encoded(worker, bytes);
        Ok(())
    }

    fn send(&mut self, worker: WorkerId, fence: Fence, command: Command) {
        self.links.send(worker, &ToWorker::Command { fence, command });
    }

    fn ask(&self, student: Student, samples: Vec<Sample>) {
        let (asker, events) = (self.asker.clone(), self.asked.0.clone());
        let total = samples.len() as u64;
        tokio::spawn(async move {
            let progress = events.clone();
            // Progress may be dropped when the shell is busy; the end may not.
            let observe = |done| drop(progress.try_send(AskEvent::Progress { done, total }));
            let outcome = asker.ask(student, &samples, observe).await;
            // The shell may be gone, and then nobody waits.
            let _ = events.send(AskEvent::Done { student, outcome }).await;
        });
    }

    async fn labels(&self, samples: &[Sample]) -> Result<Vec<Option<SoftLabel>>, Failure> {
        let labels = self.asker.labels(samples).await;
        labels.map_err(|error| Failure::new(Kind::Storage, error).context("cannot read labels"))
    }

    /// Lets watchers go, with the last summary.
    pub async fn close_window(&self) {
        self.window.close().await;
    }

    /// Takes a file out of the job directory that only a running job has.
    pub fn leave(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.dir.path().join(name)) {
            tracing::debug!(%error, name, "cannot be removed");
        }
    }

    /// What a finished or stopped job leaves behind.
    #[must_use]
    pub fn into_parts(self) -> (JobDir, Ledger, Arc<Inputs>, ProgressBars) {
        (self.dir, self.ledger, self.inputs, self.bars)
    }
}

/// The student whose round ends with this.
fn trained(item: &Durable) -> Option<Student> {
    match item {
        Durable::Transition(Transition::Trained { student, .. }) => Some(*student),
        Durable::Transition(_) | Durable::Weights { .. } | Durable::Images(_) | Durable::Module { .. } => None,
    }
}

fn job_failure(failure: JobFailure) -> Failure {
    let hint = match &failure {
        JobFailure::Dead { .. } => Some("lower spec.training.learningRate, or set warmupSteps"),
        JobFailure::Retries { .. } => Some("see worker-*.log in the job directory"),
        JobFailure::Work(_) => None,
    };
    Failure::new(Kind::Workers, failure).maybe_hint(hint.map(str::to_owned))
}
