//! The job file: [`JobSpec`] is what was written, [`Job`] is what was meant, with all checks done.
//!
//! The same file runs on a laptop and is the custom resource of a cluster.

mod acquisition_check;
mod check;
mod explain;
mod places;
mod pool;
mod pool_check;
mod preset;
mod queue;
mod recipe;
mod spec;
mod teacher;
mod training;

pub use check::{Job, JobError, Student};
pub use places::{CheckpointsSpec, ResultsSpec, S3, is_remote};
pub use pool::{BetaMixupSpec, CvaeSpec, LambdaSpec, MAX_GENERATED, MixupSpec, PoolSource};
pub use preset::Preset;
pub use queue::{QueueSpec, SecretSource};
pub use recipe::Recipe;
pub use spec::{
    AcquisitionSpec, Architecture, BudgetSpec, CollectiveKind, Control, Device, EvaluationSpec, GuardSpec, ImageFormat,
    ImagesSpec, JobSpec, MAX_BRANCHES, Metadata, OnAmbiguous, OneDeploy, OneSpec, Scan, Size, Spec, StoppingSpec,
    StudentSpec, WorkersSpec,
};
pub use teacher::{
    AnswerSpec, AuthSpec, Axes, DEFAULT_PROMPT, EACH, Encoding, ImageForm, Piece, Protocol, Response, Slot,
    TeacherSpec, UnknownSlot, parse_template,
};
pub use training::{Augmentation, Determinism, Mixing, Optimizer, Restart, Schedule, TrainingSpec, steps_an_epoch};
