//! What a process says by its exit status, the same for every program of Stillhouse.

/// The job is complete, or the command did what was asked.
pub const OK: i32 = 0;
/// A defect or a failure that fits nothing below; the log says more.
pub const INTERNAL: i32 = 1;
/// The command line or the job file is invalid (what `clap` uses for the command line).
pub const USAGE: i32 = 2;
/// The input images or labels cannot be read or do not fit the job.
pub const INPUT_DATA: i32 = 3;
/// The teacher refused, or answered what cannot be used.
pub const TEACHER: i32 = 4;
/// The budget buys nothing more, or is smaller than the number of seed images.
pub const BUDGET: i32 = 5;
/// The job directory is in use by another process, or belongs to another job.
pub const JOB_DIRECTORY: i32 = 6;
/// The disk is full, or what is stored is corrupt.
pub const STORAGE: i32 = 7;
/// Workers died faster than restarting them helps; of a worker itself, that its coordinator refuses it or something failed.
pub const WORKER: i32 = 8;
/// A worker's card is not there, or does not work.
pub const DEVICE: i32 = 9;
/// A signal ended the run in good order; the same command resumes it.
pub const INTERRUPTED: i32 = 130;

/// Whether the same program with the same input would end the same way, so that starting it again
/// is useless.
#[must_use]
pub fn is_permanent(code: i32) -> bool {
    matches!(code, USAGE | INPUT_DATA | BUDGET | JOB_DIRECTORY)
}
