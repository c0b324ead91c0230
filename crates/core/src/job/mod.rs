//! The job file: [`JobSpec`] is what was written, [`Job`] is what was meant, with all checks done.
//!
//! The same file runs on a laptop and is the custom resource of a cluster.

mod check;
mod explain;
mod queue;
mod spec;
mod teacher;

pub use check::{Job, JobError, Student};
pub use queue::{QueueSpec, SecretSource};
pub use spec::{
    AcquisitionSpec, Architecture, Augmentation, BudgetSpec, Control, Determinism, Device, EvaluationSpec, ImageFormat,
    ImagesSpec, JobSpec, LambdaSpec, Metadata, MixupSpec, OnAmbiguous, Optimizer, PoolSource, Restart, Scan, Schedule,
    Size, Spec, StoppingSpec, StudentSpec, TrainingSpec, WorkersSpec, steps_an_epoch,
};
pub use teacher::{
    AnswerSpec, AuthSpec, Axes, DEFAULT_PROMPT, EACH, Encoding, ImageForm, Piece, Protocol, Response, Slot,
    TeacherSpec, UnknownSlot, parse_template,
};
