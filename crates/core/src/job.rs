//! The job file.
/// What was written.
pub struct JobSpec;
/// What was meant.
pub struct Job;
