//! What coordinator and workers say to each other, over one authenticated framed link a worker.
//!
//! Commands carry a [`Fence`]; a report quotes the fence of its command, and one that quotes a
//! fence that is no longer current changes nothing. A worker obeys the newest command: an older
//! one still running is abandoned. Seed images, weights and labels travel here; candidates never
//! travel as pixels.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stillhouse_core::guard::Twin;
use stillhouse_core::image::ImageSet;
use stillhouse_core::job::Job;
use stillhouse_core::pool::PairId;
use stillhouse_core::sample::Sample;
use stillhouse_core::selection::{Entry, Histogram};
use stillhouse_core::trace::JobTrace;

use crate::compact;
use crate::history::{Measurement, Student};

/// The number that voids old work: each command wave takes a new one, ever increasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence(pub u64);

/// A worker's connection; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// Version of these messages; both ends must agree.
pub const PROTOCOL_VERSION: u32 = 5;

/// From the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// First message: everything a worker needs to know of the job.
    Welcome(Box<Welcome>),
    /// Something to do.
    Command {
        /// Voids what came before.
        fence: Fence,
        /// What.
        command: Command,
    },
    /// Leave in peace.
    Leave,
    /// Go, and do not come back.
    Refused {
        /// Why.
        reason: String,
    },
}

/// The job as a worker sees it, the same for all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The job, as JSON of [`Job`] (its optional fields have no fixed binary layout).
    pub job: String,
    /// What the traces of its query batches are named after.
    pub trace: JobTrace,
    /// Number of classes.
    pub classes: u32,
    /// TorchScript file of the student; empty for a network of the zoo.
    pub module: Vec<u8>,
    /// The seed images.
    pub seeds: ImageSet,
    /// The evaluation images.
    pub evaluation: Option<EvaluationData>,
    /// Whether ranks speak TLS to each other.
    pub is_ring_sealed: bool,
}

impl Welcome {
    /// Parses the job.
    ///
    /// # Errors
    /// When it is not one, which means the two ends differ in version.
    pub fn job(&self) -> Result<Job, serde_json::Error> {
        serde_json::from_str(&self.job)
    }
}

/// Images that accuracy and agreement are measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluationData {
    /// The images.
    pub images: ImageSet,
    /// Their true classes, if known.
    pub labels: Option<Vec<u16>>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Take over these weights; no report. All workers are told with one fence, which may be older than their last.
    Load {
        /// Whose.
        student: Student,
        /// A safetensors file.
        weights: Vec<u8>,
    },
    /// Take these images into the pool, behind its pairs; no report.
    Extend {
        /// The images.
        generated: ImageSet,
    },
    /// Train a conditional VAE on seed images, and make images with it.
    Generate(Box<GenerateCommand>),
    /// Train together with other ranks.
    Train(Box<TrainCommand>),
    /// Compare approximate with exact scores.
    Calibrate {
        /// With which student.
        student: Student,
        /// On which pairs.
        pairs: Vec<PairId>,
    },
    /// Scan one shard of the pool.
    Scan {
        /// With which student.
        student: Student,
        /// First candidate.
        start: u64,
        /// One past the last.
        end: u64,
        /// Candidates wanted of the whole pool.
        k: u64,
        /// Guard width.
        width: f32,
        /// Scores above this are of no interest.
        ceiling: f32,
        /// Entries after which a report may end before the shard does; it says where.
        cap: u64,
    },
    /// Score pairs on their exact bytes.
    Rescore {
        /// With which student.
        student: Student,
        /// Which pairs.
        pairs: Vec<PairId>,
    },
    /// Write the student as TorchScript.
    Export {
        /// Which student.
        student: Student,
    },
}

/// What images are generated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateCommand {
    /// How many images.
    pub images: u32,
    /// Seed images that the teacher labelled, by position.
    pub seeds: Vec<u32>,
    /// The teacher's class of each.
    pub classes: Vec<u16>,
}

/// One rank's part in a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainCommand {
    /// Which student.
    pub student: Student,
    /// Counts fresh starts after one that did not learn; part of the seed.
    pub attempt: u32,
    /// Which twin of the student, where this is for the guard: a shorter training, measured on seed images and then
    /// thrown away.
    pub twin: Option<Twin>,
    /// Digest of everything that makes this training this training, hexadecimal: what was trained under
    /// another one is of no use here.
    pub identity: String,
    /// This worker's rank.
    pub rank: u32,
    /// Where every rank listens, in order of rank; its length is the world size.
    pub peers: Vec<SocketAddr>,
    /// Weights to go on from; fresh ones when absent.
    pub initial: Option<Vec<u8>>,
    /// A checkpoint of this very training, for when no rank has anything newer.
    pub resume: Option<Vec<u8>>,
    /// The transfer set.
    pub samples: Vec<Sample>,
    /// Its soft labels, `[samples, classes]`.
    pub labels: Vec<f32>,
    /// The teacher's class of evaluation images, by index; of seed images for a twin.
    pub teacher_classes: Vec<(u32, u16)>,
}

/// From a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// First message.
    Hello {
        /// [`PROTOCOL_VERSION`] of the worker.
        version: u32,
        /// Process id on its host, for the log.
        process: u32,
        /// When the process began, in the clock ticks of its host; 0 where that is not known.
        started: u64,
        /// What tells its host, and the space of its process id, from others; empty where that is not known.
        host: String,
        /// Where its ring listens.
        ring: SocketAddr,
        /// Threads it computes with.
        threads: u32,
    },
    /// Answer to the welcome: the student was built here, or cannot be. Nothing is asked before the
    /// first worker could.
    Ready {
        /// Kind of device that this job is computed on here, such as `cpu AVX512` or `cuda 9.0`
        /// (equal kinds give equal bits); or why the student cannot be built.
        device: Result<String, String>,
    },
    /// Still here; sent every few seconds.
    Heartbeat,
    /// How far a command is.
    Progress {
        /// Which command.
        fence: Fence,
        /// Done so far, in pairs or steps.
        done: u64,
        /// Of so many.
        total: u64,
        /// Latest training loss; NaN when scoring.
        loss: f32,
    },
    /// What a training under way stands at, from rank 0 every so often.
    Checkpoint {
        /// Which command, and so which training.
        fence: Fence,
        /// Steps applied.
        step: u64,
        /// The training's state, a safetensors file.
        state: Vec<u8>,
    },
    /// A command is done, or failed.
    Report {
        /// Which command.
        fence: Fence,
        /// What came of it.
        report: Report,
    },
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// A rank finished its training.
    Trained {
        /// BLAKE3 of the weights, hexadecimal.
        digest: String,
        /// The weights as safetensors, from rank 0.
        weights: Option<Vec<u8>>,
        /// Mean loss of the last epoch (nats).
        loss: f32,
        /// What all ranks measured together, in order of epochs.
        measurements: Vec<Measurement>,
        /// Optimiser steps.
        steps: u64,
        /// Trainable values of the student.
        parameters: u64,
    },
    /// Images were generated.
    Generated {
        /// The images.
        images: ImageSet,
        /// Mean loss of the last epoch, a sample (nats).
        loss: f32,
    },
    /// Approximate against exact scores.
    Calibrated {
        /// Largest absolute difference a pair; 0 when the scan is exact.
        deviation: f32,
    },
    /// A shard was scanned, or the first part of it.
    Scanned {
        /// One past the last pair that was scanned.
        end: u64,
        /// Every pair scanned up to the bound, in order.
        entries: Vec<Entry>,
        /// Scores of every pair scanned.
        #[serde(with = "compact")]
        histogram: Histogram,
    },
    /// Pairs were scored exactly.
    Rescored {
        /// One for each pair asked for.
        entries: Vec<Entry>,
    },
    /// A TorchScript file.
    Exported {
        /// Its bytes.
        module: Vec<u8>,
    },
    /// It could not be done.
    Failed {
        /// Whether trying again makes sense.
        retry: bool,
        /// Why, in a sentence.
        cause: String,
    },
}
