//! The directory of a job: one job a directory, one process at a time.
//!
//! | path | what | written |
//! |---|---|---|
//! | `lock` | held by the running process | while it runs |
//! | `job.yaml` | the job file as first given | at the first start |
//! | `seeds.safetensors` | the seed images | at every start |
//! | `evaluation.safetensors` | the evaluation images that the teacher is asked about | at every start |
//! | `generated.safetensors` | the images that were generated for the pool | once, before the step that says so |
//! | `ledger/` | permits, labels, history: the only truth | always before anything depends on it |
//! | `token` | the secret by which workers, gateways and watchers join | once |
//! | `coordinator.json` | where the coordinator listens, and its process | while it runs |
//! | `checkpoints/` | the training under way | every few seconds of a training |
//! | `scan.kept` | the scan under way | every few seconds of a scan |
//! | `reuse/` | labels of other jobs | by `stillhouse ledger import` |
//! | `students/ARM-ROUND.safetensors` | every trained student | before its round counts |
//! | `summary.json`, `report.html` | see `docs/summary.md` | after every step |
//! | `events.jsonl` | what happened, a JSON object a line | as it happens |
//! | `student.safetensors`, `student.pt` | the last student (`control.*`: the control's) | at the end |
//! | `labels.safetensors` | every image asked with its answer | at the end |
//! | `chaos/` | of a trial by `stillhouse chaos`: its report, what the job printed | by it |
//! | `worker-N.log` | what worker processes print | as it happens |

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use stillhouse_core::plan::Arm;
use stillhouse_protocol::Student;
use stillhouse_runtime::atomic_file;

use crate::failure::{Failure, Kind};

/// An open job directory; the lock goes with it.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    _lock: File,
}

impl JobDir {
    /// Opens `path`, making it when needed, and locks it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let storage = |error: std::io::Error| {
            Failure::new(Kind::Storage, error).context(format!("cannot use the job directory {}", path.display()))
        };
        std::fs::create_dir_all(path.join("students")).map_err(storage)?;
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join("lock"))
            .map_err(storage)?;
        if !lock.try_lock_exclusive().map_err(storage)? {
            let message = format!("the job directory {} is in use by a running job", path.display());
            return Err(Failure::message(Kind::Directory, message)
                .hint("stillhouse status shows it; wait for it, or name another --dir"));
        }
        let path = path.to_path_buf();
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file whole or not at all.
    ///
    /// # Errors
    /// When the disk is full or the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        write_file(&self.path.join(name), bytes)
    }

    /// Where a trained student is kept.
    #[must_use]
    pub fn student(&self, student: Student) -> String {
        format!("students/{student}.safetensors")
    }

    /// Weights of a trained student.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn weights(&self, student: Student) -> Result<Vec<u8>, Failure> {
        let path = self.path.join(self.student(student));
        std::fs::read(&path)
            .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot read {}", path.display())))
    }

    /// Stem of an arm's final files.
    #[must_use]
    pub fn final_stem(arm: Arm) -> &'static str {
        match arm {
            Arm::Active => "student",
            Arm::Control => "control",
        }
    }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// When the disk is full or the file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    atomic_file::write(path, bytes).map_err(|error| {
        Failure::new(Kind::Storage, error)
            .hint("free some space, then run the same command again: nothing paid for is lost")
    })
}

/// `events.jsonl`: one JSON object a line, in order of time.
#[derive(Debug)]
pub struct EventLog {
    file: File,
}

impl EventLog {
    /// Opens the log of a job directory and goes on at its end.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: &JobDir) -> Result<Self, Failure> {
        let path = dir.path().join("events.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file
            .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot open {}", path.display())))?;
        Ok(Self { file })
    }

    /// Writes one event. The log is for people and tools; nothing depends on it, so a full disk
    /// loses a line here and stops the job where it matters.
    pub fn write(&mut self, unix_ms: u64, event: &str, mut fields: serde_json::Value) {
        if let Some(object) = fields.as_object_mut() {
            object.insert("unixMs".into(), unix_ms.into());
            object.insert("event".into(), event.into());
        }
        if let Err(error) = writeln!(self.file, "{fields}") {
            tracing::warn!(%error, "cannot write to the event log");
        }
    }
}
