//! What is read of a job's `summary.json` (`docs/summary.md`); other keys are skipped.

use anyhow::{Context, ensure};
use serde::Deserialize;

const VERSION: u32 = 1;

/// A finished job.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    version: u32,
    state: State,
    started: Moment,
    finished: Option<Moment>,
    /// What was spent.
    pub(crate) budget: Budget,
    /// The student whose queries the acquisition function chose.
    pub(crate) active: Arm,
    /// The random control.
    pub(crate) control: Option<Arm>,
}

#[derive(Clone, Debug, Deserialize)]
struct State {
    name: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moment {
    unix_ms: u64,
}

/// Queries.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Budget {
    /// May be billed in all.
    pub(crate) queries: u64,
    /// Were billed.
    pub(crate) billed: Billed,
    /// May have been billed.
    pub(crate) ambiguous: u64,
}

/// Queries that were billed.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Billed {
    /// All of them.
    pub(crate) total: u64,
}

/// One student.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Arm {
    /// In order; round 0 trains on the seed images alone.
    pub(crate) rounds: Vec<Round>,
}

/// One round of one student.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Round {
    /// Its number.
    pub(crate) round: u32,
    /// Queries of this student up to and with this round.
    pub(crate) queries_total: u64,
    /// Test accuracy.
    pub(crate) accuracy: Option<Accuracy>,
    /// Fraction of the slice where student and teacher name the same class.
    pub(crate) agreement: Option<f64>,
    /// Where the time went.
    pub(crate) timings: Timings,
}

/// Test accuracy as fractions of 1.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Accuracy {
    /// After the last epoch.
    pub(crate) last: f64,
    /// After the best epoch.
    pub(crate) best: f64,
}

/// Where the time of a round went.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timings {
    /// Scoring the pool.
    pub(crate) scan_seconds: f64,
    /// Rescoring the guard band.
    pub(crate) rescore_seconds: f64,
    /// Asking the teacher.
    pub(crate) query_seconds: f64,
    /// Training and evaluating the student.
    pub(crate) train_seconds: f64,
    /// Pairs times lambdas scored a second.
    pub(crate) candidates_per_second: Option<f64>,
}

impl Summary {
    /// Reads the summary of a finished job.
    ///
    /// # Errors
    /// When it is none, or the job did not finish.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let summary: Self = serde_json::from_str(text).context("expected a summary in JSON")?;
        ensure!(
            summary.version == VERSION,
            "expected summary version {VERSION}, found {}",
            summary.version
        );
        let state = &summary.state.name;
        ensure!(
            state == "finished",
            "expected a finished job, found one that is {state}"
        );
        Ok(summary)
    }

    /// Minutes from the first start to the end, interruptions included.
    pub(crate) fn wall_minutes(&self) -> Option<f64> {
        let ms = self.finished?.unix_ms.saturating_sub(self.started.unix_ms);
        Some(ms as f64 / 60_000.0)
    }
}
