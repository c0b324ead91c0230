//! What goes into the coordinator and what comes out: settings, events, and effects in the order
//! in which they must happen.

use std::net::SocketAddr;

use stillhouse_core::diversity::Diversity;
use stillhouse_core::guard::{Guard, Twin};
use stillhouse_core::image::ImageSet;
use stillhouse_core::one_shot::BetaMixup;
use stillhouse_core::plan::{Arm, Plan};
use stillhouse_core::pool::{LambdaGrid, Pool};
use stillhouse_core::sample::Sample;
use stillhouse_core::score::Acquisition;
use stillhouse_core::stochastic::Stochastic;

use crate::history::{AskOutcome, StoppingRule, Student, Transition};
use crate::message::{Command, Fence, Report, WorkerId};
use crate::selecting::Cutting;

/// Failures of one stage, one after another and without any progress between them, after which the job is given up: a
/// worker that always dies is not noise.
pub(crate) const MAX_RETRIES: u32 = 20;
/// Fresh starts of a student whose loss stays near that of knowing nothing.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// What a coordinator needs to know of its job.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Queries and rounds.
    pub plan: Plan,
    /// Students that are trained.
    pub arms: Vec<Arm>,
    /// The pool, before any image is generated.
    pub pool: Pool,
    /// Weights tried a pair.
    pub grid: LambdaGrid,
    /// How mixes are drawn, where no score chooses them.
    pub one_shot: Option<BetaMixup>,
    /// How the active arm chooses.
    pub acquisition: Acquisition,
    /// How chance takes part in that, if it does.
    pub stochastic: Option<Stochastic>,
    /// What keeps a batch from being of one kind, if anything.
    pub diversity: Option<Diversity>,
    /// Pairs scored a round; the whole pool when absent.
    pub sample: Option<u64>,
    /// Whether scans score exact bytes.
    pub exact_scan: bool,
    /// Sizes of what workers are given of a selection.
    pub cutting: Cutting,
    /// Whether students go on from the last round's weights.
    pub warm: bool,
    /// Seed of random acquisition and calibration.
    pub seed: u64,
    /// Number of classes.
    pub classes: usize,
    /// Workers that must be there before the job begins; it goes on with fewer.
    pub min_workers: usize,
    /// Workers used; more are spares.
    pub max_workers: usize,
    /// Virtual shards of a training step: more ranks would have nothing to compute.
    pub shards: usize,
    /// How the choice is watched, if it is.
    pub guard: Option<Guard>,
    /// Evaluation images that the teacher labels.
    pub evaluation: Vec<u32>,
    /// When agreement has converged.
    pub stopping: Option<StoppingRule>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker was welcomed and can build the student.
    Joined {
        /// Who.
        worker: WorkerId,
        /// Where its ring listens.
        ring: SocketAddr,
    },
    /// A worker's link closed, or it was silent for too long.
    Lost {
        /// Who.
        worker: WorkerId,
    },
    /// A worker told how far its part of a training is.
    Progressed {
        /// Who.
        worker: WorkerId,
        /// On which command.
        fence: Fence,
        /// Steps applied.
        done: u64,
    },
    /// A worker reported.
    Reported {
        /// Who.
        worker: WorkerId,
        /// On which command.
        fence: Fence,
        /// What.
        report: Report,
    },
    /// A query batch is through.
    Asked {
        /// Whose.
        student: Student,
        /// How it went.
        outcome: AskOutcome,
    },
}

/// Something that must be on disk before any action is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Durable {
    /// Weights of a student, as safetensors.
    Weights {
        /// Whose.
        student: Student,
        /// The file.
        weights: Vec<u8>,
    },
    /// Images for the pool, before the step that says so.
    Images(ImageSet),
    /// A step of the history.
    Transition(Transition),
    /// A TorchScript file.
    Module {
        /// Whose.
        student: Student,
        /// The file.
        module: Vec<u8>,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put these to the teacher; answer with [`Event::Asked`].
    Ask {
        /// For whom.
        student: Student,
        /// What.
        samples: Vec<Sample>,
    },
    /// Send a student's weights to a worker.
    Load {
        /// To whom.
        worker: WorkerId,
        /// Command number.
        fence: Fence,
        /// Which.
        student: Student,
    },
    /// Send the generated images to a worker.
    Extend {
        /// To whom.
        worker: WorkerId,
        /// Command number.
        fence: Fence,
    },
    /// Have a worker generate images, from the labels of the seed images.
    Generate {
        /// Who.
        worker: WorkerId,
        /// Command number.
        fence: Fence,
        /// How many.
        images: u32,
    },
    /// Send a scoring or export command.
    Command {
        /// To whom.
        worker: WorkerId,
        /// Command number.
        fence: Fence,
        /// What.
        command: Box<Command>,
    },
    /// Send a training command, filled in with samples, labels and weights.
    Train {
        /// To whom.
        worker: WorkerId,
        /// The same for all ranks.
        fence: Fence,
        /// Which student.
        student: Student,
        /// Fresh starts so far.
        attempt: u32,
        /// Which twin of the student, where it is for the guard.
        twin: Option<Twin>,
        /// Rank of this worker.
        rank: u32,
        /// Rings of all ranks, in order.
        peers: Vec<SocketAddr>,
        /// Weights to go on from.
        initial: Option<Student>,
    },
    /// The job is done.
    Finish,
    /// The job cannot go on.
    Fail(JobFailure),
}

/// Why a job cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFailure {
    /// Something no retry mends.
    #[error("{0}")]
    Work(String),
    /// A stage failed again and again.
    #[error("{stage} failed {MAX_RETRIES} times without getting anywhere; the last time: {cause}")]
    Retries {
        /// Which stage.
        stage: &'static str,
        /// Last cause.
        cause: String,
    },
    /// The student does not learn.
    #[error("student {student} does not learn: after {MAX_ATTEMPTS} fresh starts its loss is still {loss}")]
    Dead {
        /// Which.
        student: Student,
        /// Its loss, as text.
        loss: String,
    },
}

/// What must be durable, and then what to do, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// First these, on disk.
    pub durable: Vec<Durable>,
    /// Then these.
    pub actions: Vec<Action>,
}
