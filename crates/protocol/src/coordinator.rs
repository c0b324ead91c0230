//! The state machine that gets the next step done by workers that come and go.
//!
//! `handle(now, event)` returns [`Effects`]: first what must become durable, then what to do. The
//! shell writes the durable part to disk before it does anything else; if it cannot, it stops.
//! Progress (the history) and membership (the workers) are separate: losing every worker forgets
//! nothing that was paid for.

mod choosing;
mod generating;
mod handing_out;
mod training;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use stillhouse_core::plan::Arm;
use stillhouse_core::selection::Histogram;

use crate::effects::MAX_RETRIES;
pub use crate::effects::{Action, Durable, Effects, Event, JobFailure, Settings};
use crate::fault::{Fault, Planted};
use crate::history::{History, Step, Student, Transition};
use crate::message::{Fence, Report, WorkerId};
use crate::selecting::{Selecting, WorkId};
use crate::wave::Wave;

#[derive(Clone, Debug)]
struct Worker {
    ring: SocketAddr,
    loaded: Option<Student>,
    /// Whether it has the generated images.
    is_extended: bool,
    busy: Option<(Fence, Task)>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupation {
    /// Nothing: it waits, or is a spare.
    Idle,
    /// It trains a conditional VAE and makes images with it.
    Generating,
    /// It scores candidates.
    Scoring,
    /// It trains, as this rank.
    Training {
        /// Its rank.
        rank: u32,
    },
    /// It writes a student as TorchScript.
    Exporting,
}

#[derive(Clone, Debug)]
enum Task {
    Generate,
    Select(WorkId),
    Train { rank: u32 },
    Export(Student),
}

#[derive(Clone, Debug)]
enum Stage {
    Between,
    Asking(Student),
    Generating { images: u32, since: Duration },
    Selecting(Box<Selecting>),
    Training(Wave),
    Exporting { left: Vec<Student>, given: usize },
    Over,
}

/// The state machine of a job.
#[derive(Clone, Debug)]
pub struct Coordinator {
    settings: Settings,
    history: History,
    workers: BTreeMap<WorkerId, Worker>,
    stage: Stage,
    /// Whether enough workers were there once.
    started: bool,
    retries: u32,
    /// Failures of what was given out up to here count no more.
    counted: Fence,
    last_fence: u64,
    /// The student that workers are to load, and the fence of all those commands: they are one message for everybody.
    loading: Option<(Student, Fence)>,
    /// A scan that an earlier life of the job kept, and then how many pairs of one under way it had scanned.
    kept: Option<Vec<u8>>,
    resumed: Option<u64>,
    pub(crate) planted: Planted,
}

impl Coordinator {
    /// A coordinator that goes on after `history`. `epoch` must grow with every start of the job,
    /// so that no fence of an earlier life is ever used again.
    #[must_use]
    pub fn new(settings: Settings, history: History, epoch: u32) -> Self {
        Self {
            started: !history.transitions().is_empty(),
            settings,
            history,
            workers: BTreeMap::new(),
            stage: Stage::Between,
            retries: 0,
            counted: Fence(0),
            last_fence: u64::from(epoch) << 32,
            loading: None,
            kept: None,
            resumed: None,
            planted: Planted::default(),
        }
    }

    /// Goes on with the scan in `kept` when it comes to select what that was for.
    #[must_use]
    pub fn with_scan(mut self, kept: Vec<u8>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// How many pairs an earlier life of the job had scanned, once after their scan went on.
    pub fn take_resumed_scan(&mut self) -> Option<u64> {
        self.resumed.take()
    }

    /// The scan under way as bytes, for [`with_scan`](Self::with_scan); `None` when there is nothing to keep.
    #[must_use]
    pub fn keep_scan(&self, now: Duration) -> Option<Vec<u8>> {
        match &self.stage {
            Stage::Selecting(selecting) => selecting.keep(now),
            _ => None,
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Connected workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Whose round is under way; `None` between rounds, and when all is done.
    #[must_use]
    pub fn student(&self) -> Option<Student> {
        match &self.stage {
            Stage::Asking(student) => Some(*student),
            Stage::Selecting(selecting) => Some(selecting.problem().student),
            Stage::Training(wave) => Some(wave.student),
            Stage::Generating { .. } => Some(Student::new(Arm::Active, 0)),
            Stage::Between | Stage::Exporting { .. } | Stage::Over => None,
        }
    }

    /// The scan under way: how many pairs have which score so far, and where the cut would be now.
    #[must_use]
    pub fn scan(&self) -> Option<(&Histogram, Option<f32>)> {
        match &self.stage {
            Stage::Selecting(selecting) => selecting.scan(),
            _ => None,
        }
    }

    /// Whether a report of `worker` on the command with `fence` counts (I5).
    #[must_use]
    pub fn awaits(&self, worker: WorkerId, fence: Fence) -> bool {
        let busy = self.workers.get(&worker).and_then(|worker| worker.busy.as_ref());
        busy.is_some_and(|(current, _)| *current == fence)
    }

    /// What each connected worker does.
    pub fn crew(&self) -> impl Iterator<Item = (WorkerId, Occupation)> {
        self.workers.iter().map(|(id, worker)| {
            let occupation = match &worker.busy {
                None => Occupation::Idle,
                Some((_, Task::Generate)) => Occupation::Generating,
                Some((_, Task::Select(_))) => Occupation::Scoring,
                Some((_, Task::Train { rank })) => Occupation::Training { rank: *rank },
                Some((_, Task::Export(_))) => Occupation::Exporting,
            };
            (*id, occupation)
        })
    }

    /// Takes in an event at `now`, the time since some fixed moment.
    #[must_use]
    pub fn handle(&mut self, now: Duration, event: Event) -> Effects {
        let mut effects = Effects::default();
        if matches!(self.stage, Stage::Over) {
            return effects;
        }
        match event {
            Event::Joined { worker, ring } => {
                let newcomer = Worker {
                    ring,
                    loaded: None,
                    is_extended: false,
                    busy: None,
                };
                self.workers.insert(worker, newcomer);
            }
            Event::Lost { worker } => self.lose(worker, &mut effects),
            Event::Reported { worker, fence, report } => self.report(now, worker, fence, report, &mut effects),
            Event::Progressed { worker, fence, done } => self.progress(worker, fence, done),
            Event::Asked { student, outcome } => {
                if matches!(self.stage, Stage::Asking(asking) if asking == student) {
                    self.record(Transition::Asked { student, outcome }, &mut effects);
                    self.stage = Stage::Between;
                }
            }
        }
        self.advance(now, &mut effects);
        effects
    }

    fn record(&mut self, transition: Transition, effects: &mut Effects) {
        self.history.push(transition.clone());
        effects.durable.push(Durable::Transition(transition));
        self.retries = 0;
    }

    fn fence(&mut self) -> Fence {
        self.last_fence += 1;
        Fence(self.last_fence)
    }

    /// Begins stages until one needs something from outside, then gives idle workers work.
    fn advance(&mut self, now: Duration, effects: &mut Effects) {
        let wanted = if self.planted(Fault::BeginAlone) {
            1
        } else {
            self.settings.min_workers.max(1)
        };
        self.started |= self.workers.len() >= wanted;
        if !self.started {
            return;
        }
        while matches!(self.stage, Stage::Between) {
            self.begin(now, effects);
        }
        match self.stage {
            Stage::Selecting(_) | Stage::Exporting { .. } => self.hand_out(now, effects),
            Stage::Generating { images, .. } => self.give_generation(images, effects),
            Stage::Training(_) => self.form_world(now, effects),
            Stage::Between | Stage::Asking(_) | Stage::Over => {}
        }
    }

    fn begin(&mut self, now: Duration, effects: &mut Effects) {
        let Settings {
            plan,
            arms,
            evaluation,
            stopping,
            ..
        } = &self.settings;
        self.stage = match self.history.next_step(plan, arms, evaluation, *stopping) {
            Step::Ask { student, samples } => {
                effects.actions.push(Action::Ask { student, samples });
                Stage::Asking(student)
            }
            Step::Select { student, size } => match self.random_batch(student, size) {
                Some(selection) => {
                    self.record(Transition::Selected { student, selection }, effects);
                    Stage::Between
                }
                None => Stage::Selecting(Box::new(self.selecting(student, size, now))),
            },
            Step::Generate { images } => Stage::Generating { images, since: now },
            Step::Train { student } => Stage::Training(Wave::new(student, None, 0, now)),
            Step::Compare { student, twin } => Stage::Training(Wave::new(student, Some(twin), 0, now)),
            Step::Stop { reason } => {
                self.record(Transition::Stopped { reason }, effects);
                Stage::Between
            }
            Step::Done => Stage::Exporting {
                left: self.last_students(),
                given: 0,
            },
        };
    }

    /// The selection of a batch, from where an earlier life of the job was with it.
    fn selecting(&mut self, student: Student, size: u64, now: Duration) -> Selecting {
        let mut selecting = Selecting::new(self.problem(student, size), now);
        if self.kept.take().is_some_and(|kept| selecting.take_up(&kept)) {
            self.resumed = selecting.scan().map(|(histogram, _)| histogram.total());
        }
        selecting
    }

    fn last_students(&self) -> Vec<Student> {
        let rounds = |arm: Arm| {
            (0..)
                .take_while(|round| self.history.trained(Student::new(arm, *round)).is_some())
                .last()
                .unwrap_or(0)
        };
        let mut students: Vec<Student> = self
            .settings
            .arms
            .iter()
            .map(|arm| Student::new(*arm, rounds(*arm)))
            .collect();
        students.dedup();
        students
    }

    fn lose(&mut self, id: WorkerId, effects: &mut Effects) {
        if let Some((fence, task)) = self.workers.remove(&id).and_then(|worker| worker.busy) {
            self.undo((fence, task), "a worker was lost", effects);
        }
    }

    /// Gives work back that a worker did not finish. A training goes on in another world: its ranks
    /// keep what they have, so at most the step under way is computed again.
    fn undo(&mut self, (fence, task): (Fence, Task), cause: &str, effects: &mut Effects) {
        let drop_shard = self.planted(Fault::DropLostShard);
        let keep_rank = self.planted(Fault::KeepLostRank);
        let stage = match (&mut self.stage, task) {
            (Stage::Selecting(selecting), Task::Select(work)) => {
                selecting.give_back(work);
                if drop_shard {
                    selecting.forget_one_scan();
                }
                "scoring"
            }
            (Stage::Exporting { left, given }, Task::Export(student)) => {
                left.push(student);
                *given -= 1;
                "export"
            }
            (Stage::Generating { .. }, Task::Generate) => "generation",
            (Stage::Training(_), Task::Train { .. }) if keep_rank => return,
            (Stage::Training(wave), Task::Train { .. }) => {
                wave.disband();
                self.release_ranks();
                "training"
            }
            _ => return,
        };
        // Workers that are lost together count once: a thousand of them may share a switch.
        if fence <= self.counted {
            return;
        }
        self.counted = Fence(self.last_fence);
        self.retries += 1;
        if self.retries >= MAX_RETRIES {
            let cause = cause.to_owned();
            self.fail(JobFailure::Retries { stage, cause }, effects);
        }
    }

    fn fail(&mut self, failure: JobFailure, effects: &mut Effects) {
        self.stage = Stage::Over;
        effects.actions.push(Action::Fail(failure));
    }

    fn report(&mut self, now: Duration, id: WorkerId, fence: Fence, report: Report, effects: &mut Effects) {
        let any_fence = self.planted(Fault::IgnoreFence);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        // An older fence: the command was withdrawn, and its report changes nothing (I5).
        let Some((given, task)) = worker.busy.take_if(|(current, _)| *current == fence || any_fence) else {
            return;
        };
        if !matches!(report, Report::Failed { .. }) {
            self.retries = 0;
        }
        match (report, task) {
            (Report::Failed { retry: true, cause }, task) => self.undo((given, task), &cause, effects),
            (Report::Failed { retry: false, cause }, _) => self.fail(JobFailure::Work(cause), effects),
            (report, Task::Generate) => self.accept_images(now, report, effects),
            (report, Task::Select(work)) => self.accept_scores(now, work, report, effects),
            (report, Task::Train { rank }) => self.accept_training(now, id, rank, report, effects),
            (Report::Exported { module }, Task::Export(student)) => {
                effects.durable.push(Durable::Module { student, module });
                if let Stage::Exporting { given, .. } = &mut self.stage {
                    *given -= 1;
                }
            }
            (_, Task::Export(_)) => self.fail(
                JobFailure::Work("a worker answered something else than an export".into()),
                effects,
            ),
        }
    }

    fn planted(&self, fault: Fault) -> bool {
        self.planted.is(fault)
    }
}
