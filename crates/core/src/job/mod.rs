//! The job file: [`JobSpec`] is what was written, [`Job`] is what was meant, with all checks done.
//!
//! The same file runs on a laptop and is the custom resource of a cluster.

mod check;
mod explain;
mod spec;

pub use check::{Job, JobError, Student};
pub use spec::{
    AcquisitionSpec, Architecture, Augmentation, BudgetSpec, Control, Determinism, Device, EvaluationSpec, ImageFormat,
    ImagesSpec, JobSpec, LambdaSpec, Metadata, MixupSpec, OnAmbiguous, Optimizer, PoolSource, Protocol, Response,
    Restart, Scan, Schedule, Size, Spec, StoppingSpec, StudentSpec, TeacherSpec, TrainingSpec, WorkersSpec,
    steps_an_epoch,
};
