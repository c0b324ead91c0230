//! The same job, unharmed: it takes every label from the job that was tried, asks nothing, and must come out the same.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Serialize;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::life::LOG;
use super::reckon::Essence;
use super::trial::FOLDER;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};

/// How the twin came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    /// Its job directory.
    pub directory: PathBuf,
    /// Queries that it was billed for itself: 0.
    pub queries: u64,
    /// Whether its query batches are the same.
    pub same_batches: bool,
    /// Whether its students are, bit for bit.
    pub same_students: bool,
}

impl Twin {
    /// What is wrong, in words.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let Self {
            queries,
            same_batches,
            same_students,
            ..
        } = self;
        let mut found = Vec::new();
        if !same_batches {
            found.push("the unharmed job asked other queries".to_owned());
        }
        if !same_students {
            found.push("the unharmed job trained other students".to_owned());
        }
        if *queries > 0 {
            found.push(format!(
                "the unharmed job was billed for {queries} queries, expected none"
            ));
        }
        found
    }
}

/// Runs the job in `dir` again in `twin`, by the `arguments` of `stillhouse` that do so, and compares what came out.
///
/// # Errors
/// When it does not finish, or `shutdown` is cancelled.
pub async fn run(
    dir: &Path,
    twin: &Path,
    arguments: &[OsString],
    shutdown: &CancellationToken,
) -> Result<Twin, Failure> {
    let start = || -> std::io::Result<tokio::process::Child> {
        std::fs::create_dir_all(twin.join(FOLDER))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        // A twin that is not waited for has no use.
        command
            .stderr(File::create(twin.join(LOG))?)
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    };
    let failed = |error: std::io::Error| Failure::new(Kind::Internal, error).context("cannot run the unharmed job");
    let mut child = start().map_err(failed)?;
    let status = tokio::select! {
        status = child.wait() => status.map_err(failed)?,
        () = shutdown.cancelled() => return Err(Failure::message(Kind::Interrupted, "interrupted while the unharmed job ran")),
    };
    if !status.success() {
        let kind = status.code().map_or(Kind::Internal, Kind::of_exit_code);
        let failure = Failure::message(kind, format!("the unharmed job ended with {status}"));
        return Err(failure.hint(format!("see {}", twin.join(LOG).display())));
    }
    compare(dir, twin)
}

fn compare(dir: &Path, twin: &Path) -> Result<Twin, Failure> {
    let (tried, unharmed) = (Essence::of(dir)?, Essence::of(twin)?);
    let budget = results::read_summary(twin)?.budget;
    Ok(Twin {
        directory: twin.to_path_buf(),
        queries: budget.billed.total + budget.ambiguous,
        same_batches: tried.batches == unharmed.batches,
        same_students: tried.students == unharmed.students,
    })
}
