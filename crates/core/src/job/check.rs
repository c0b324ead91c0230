//! Every check of a job that needs nothing but its text.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::acquisition_check::check_acquisition;
use super::explain::nearest;
use super::places::{self, CheckpointsSpec};
use super::pool::CvaeSpec;
use super::pool_check::{Sources, check_pool};
use super::preset::filled_in;
use super::queue::QueueSpec;
use super::spec::{Architecture, Control, JobSpec, MAX_BRANCHES, OnAmbiguous, OneSpec, Spec, StudentSpec, WorkersSpec};
use super::teacher;
use super::training::MAX_EPOCHS;
use crate::guard::Guard;
use crate::one_shot::BetaMixup;
use crate::plan::Arm;
use crate::pool::{LambdaGrid, Pairing, Pool};

const API_VERSION: &str = "stillhouse.dev/v1alpha1";
const KIND: &str = "DistillJob";

/// A job that says something that makes sense.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What was written.
    pub spec: Spec,
    /// The checked student.
    pub student: Student,
    /// The checked lambda grid.
    pub grid: LambdaGrid,
    /// Which pairs the pool offers.
    pub pairing: Pairing,
    /// How mixes are drawn, where no score chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_shot: Option<BetaMixup>,
    /// What makes further candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cvae: Option<CvaeSpec>,
}

/// The network to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Student {
    /// A network of the zoo.
    Zoo(Architecture),
    /// A TorchScript file.
    TorchScript(PathBuf),
}

/// Why a job file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Not YAML, a missing or unknown key, a value of the wrong type.
    #[error("{message}")]
    Syntax {
        /// What the parser found and where.
        message: String,
        /// The known word nearest to an unknown one.
        nearest: Option<String>,
    },
    /// A value that makes no sense.
    #[error("{field}: expected {expected}, found {found}")]
    Value {
        /// Path of the field.
        field: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was written.
        found: String,
    },
}

pub(super) fn value(field: &'static str, expected: impl Into<String>, found: impl std::fmt::Display) -> JobError {
    let (expected, found) = (expected.into(), found.to_string());
    JobError::Value { field, expected, found }
}

pub(super) fn require(
    holds: bool,
    field: &'static str,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> Result<(), JobError> {
    if holds {
        Ok(())
    } else {
        Err(value(field, expected, found))
    }
}

impl JobError {
    /// How to mend it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            JobError::Syntax { nearest, .. } => nearest.as_ref().map(|known| format!("did you mean `{known}`?")),
            JobError::Value { field, .. } => teacher::hint(field).map(str::to_owned),
        }
    }
}

impl Job {
    /// Parses and checks a job file (YAML; JSON is a subset).
    ///
    /// # Errors
    /// [`JobError`] with the first thing that is wrong. Nothing is read, asked or spent.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        // The file as written first, since only then are faults told by line and column.
        let written: JobSpec = serde_saphyr::from_str(text).map_err(|error| syntax(&error.to_string()))?;
        let Some(preset) = written.spec.preset else {
            return Self::check(written);
        };
        let plain = serde_saphyr::from_str(text).map_err(|error| syntax(&error.to_string()))?;
        let filled = serde_json::from_value(filled_in(plain, preset)).map_err(|error| syntax(&error.to_string()))?;
        Self::check(filled)
    }

    fn check(job: JobSpec) -> Result<Self, JobError> {
        require(
            job.api_version == API_VERSION,
            "apiVersion",
            API_VERSION,
            &job.api_version,
        )?;
        require(job.kind == KIND, "kind", KIND, &job.kind)?;
        let name = job.metadata.name;
        let expected = "1 to 63 lower-case letters, digits and '-'";
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        require(
            (1..=63).contains(&name.len()) && name.chars().all(plain),
            "metadata.name",
            expected,
            &name,
        )?;
        let spec = job.spec;
        let student = check_student(&spec.student)?;
        let Sources {
            grid,
            pairing,
            one_shot,
            cvae,
        } = check_pool(&spec)?;
        teacher::check(&spec)?;
        check_acquisition(&spec)?;
        check_training(&spec)?;
        check_budget(&spec)?;
        spec.queue.as_ref().map_or(Ok(()), QueueSpec::check)?;
        check_workers(&spec.workers)?;
        places::check(&spec)?;
        check_evaluation(&spec)?;
        Ok(Self {
            name,
            spec,
            student,
            grid,
            pairing,
            one_shot,
            cvae,
        })
    }

    /// The students that are trained, in order.
    #[must_use]
    pub fn arms(&self) -> &'static [Arm] {
        match self.spec.control {
            Control::None => &[Arm::Active],
            Control::Random => &[Arm::Active, Arm::Control],
        }
    }

    /// The pool over `seeds` seed images, before any image is generated.
    #[must_use]
    pub fn pool(&self, seeds: u32) -> Pool {
        Pool::new(seeds, self.pairing)
    }

    /// How the job watches whether its choice pays, if it does.
    #[must_use]
    pub fn guard(&self) -> Option<Guard> {
        self.spec.acquisition.guard.map(|guard| Guard {
            share: guard.share,
            shifts: guard.shift,
        })
    }

    /// BLAKE3 over what makes a job this job. Left out is what may change between two runs of one
    /// job directory: the budget (it may grow), labels that are reused, the workers, the cluster, where
    /// checkpoints are kept and results are copied, and where and how fast the teacher is.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut same = self.clone();
        same.spec.budget.queries = 0;
        same.spec.budget.on_ambiguous = OnAmbiguous::default();
        same.spec.queue = None;
        same.spec.budget.reuse.clear();
        same.spec.workers = WorkersSpec::default();
        same.spec.checkpoints = CheckpointsSpec::default();
        same.spec.results = None;
        same.spec.cluster = None;
        same.spec.images.path = PathBuf::new();
        same.spec.teacher = same.spec.teacher.identity();
        let text = serde_json::to_vec(&same).expect("a job has only text keys");
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse job v1");
        hasher.update(&text);
        *hasher.finalize().as_bytes()
    }
}

fn syntax(whole: &str) -> JobError {
    let first = whole.lines().next().unwrap_or_default();
    JobError::Syntax {
        message: first.trim_end_matches('.').to_owned(),
        nearest: nearest(whole).map(str::to_owned),
    }
}

fn check_student(student: &StudentSpec) -> Result<Student, JobError> {
    require(
        student.classes.is_none_or(|c| (2..=100_000).contains(&c)),
        "spec.student.classes",
        "2 to 100000",
        student.classes.unwrap_or(0),
    )?;
    student.one.as_ref().map_or(Ok(()), check_one)?;
    match (&student.architecture, &student.torchscript) {
        (None, Some(_)) if student.one.is_some() => Err(value(
            "spec.student.one",
            "an architecture of the zoo",
            "a TorchScript file",
        )),
        (Some(architecture), None) => Ok(Student::Zoo(*architecture)),
        (None, Some(path)) => Ok(Student::TorchScript(path.clone())),
        (Some(_), Some(_)) => Err(value("spec.student", "one of architecture and torchscript", "both")),
        (None, None) => Err(value("spec.student", "one of architecture and torchscript", "neither")),
    }
}

fn check_one(one: &OneSpec) -> Result<(), JobError> {
    require(
        (2..=MAX_BRANCHES).contains(&(one.branches as usize)),
        "spec.student.one.branches",
        format!("2 to {MAX_BRANCHES}"),
        one.branches,
    )?;
    require(
        one.temperature > 0.0 && one.temperature <= 100.0,
        "spec.student.one.temperature",
        "above 0, at most 100",
        one.temperature,
    )?;
    require(
        (0.0..=1.0).contains(&one.ramp),
        "spec.student.one.ramp",
        "0 to 1",
        one.ramp,
    )
}

fn check_training(spec: &Spec) -> Result<(), JobError> {
    let training = &spec.training;
    require(
        (1..=MAX_EPOCHS).contains(&training.epochs),
        "spec.training.epochs",
        "1 to 100000",
        training.epochs,
    )?;
    require(
        training.min_steps <= 10_000_000,
        "spec.training.minSteps",
        "0 to 10000000",
        training.min_steps,
    )?;
    require(
        (2..=65_536).contains(&training.batch),
        "spec.training.batch",
        "2 to 65536",
        training.batch,
    )?;
    let shards = spec.shards();
    require(
        shards.is_power_of_two() && shards <= 64,
        "spec.training.shards",
        "a power of two up to 64",
        shards,
    )?;
    require(
        training.batch >= shards,
        "spec.training.batch",
        format!("at least spec.training.shards ({shards})"),
        training.batch,
    )?;
    let rate = training.learning_rate;
    require(
        rate.is_finite() && rate > 0.0,
        "spec.training.learningRate",
        "a number above 0",
        rate,
    )?;
    require(
        (0.0..1.0).contains(&training.momentum),
        "spec.training.momentum",
        "0 up to below 1",
        training.momentum,
    )?;
    let decay = training.weight_decay;
    require(
        decay.is_finite() && decay >= 0.0,
        "spec.training.weightDecay",
        "a number of at least 0",
        decay,
    )
}

fn check_budget(spec: &Spec) -> Result<(), JobError> {
    require(
        spec.budget.queries > 0,
        "spec.budget.queries",
        "at least 1",
        spec.budget.queries,
    )?;
    let per_round = spec.budget.per_round;
    require(
        (1..=100_000_000).contains(&per_round),
        "spec.budget.perRound",
        "1 to 100000000",
        per_round,
    )?;
    check_on_ambiguous(spec)?;
    match spec.images.take {
        Some(take) => require(take >= 2, "spec.images.take", "at least 2", take),
        None => Ok(()),
    }
}

fn check_on_ambiguous(spec: &Spec) -> Result<(), JobError> {
    const AT: &str = "spec.budget.onAmbiguous";
    match spec.budget.on_ambiguous {
        OnAmbiguous::Hold => Ok(()),
        OnAmbiguous::Resend(attempts) => require((1..=10).contains(&attempts), AT, "1 to 10 attempts", attempts),
        OnAmbiguous::IdempotencyKey(attempts) => {
            require((1..=10).contains(&attempts), AT, "1 to 10 attempts", attempts)?;
            // A key names one query for ever; a batch of another make-up would need another.
            let expected = "1 with spec.budget.onAmbiguous: idempotency-key";
            require(
                spec.teacher.batch_size() == 1,
                "spec.teacher.batch",
                expected,
                spec.teacher.batch_size(),
            )
        }
    }
}

fn check_workers(workers: &WorkersSpec) -> Result<(), JobError> {
    require(workers.min >= 1, "spec.workers.min", "at least 1", workers.min)?;
    let expected = format!("spec.workers.min ({}) to 1024", workers.min);
    require(
        (workers.min..=1024).contains(&workers.max),
        "spec.workers.max",
        expected,
        workers.max,
    )
}

fn check_evaluation(spec: &Spec) -> Result<(), JobError> {
    let queries = spec.evaluation.as_ref().map_or(0, |e| e.agreement_queries);
    if let Some(stopping) = spec.stopping {
        let gain = stopping.agreement_gain;
        require(
            gain.is_finite() && gain > 0.0,
            "spec.stopping.agreementGain",
            "points above 0",
            gain,
        )?;
        require(
            stopping.rounds >= 1,
            "spec.stopping.rounds",
            "at least 1",
            stopping.rounds,
        )?;
        require(
            queries > 0,
            "spec.evaluation.agreementQueries",
            "above 0, since spec.stopping watches agreement",
            0,
        )?;
    }
    match &spec.evaluation {
        Some(e) => require(
            e.every_epochs >= 1,
            "spec.evaluation.everyEpochs",
            "at least 1",
            e.every_epochs,
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
