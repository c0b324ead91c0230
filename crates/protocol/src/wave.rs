//! One training, and the world of ranks that does it at the moment.

use std::collections::BTreeMap;
use std::time::Duration;

use stillhouse_core::guard::Twin;

use crate::history::{Measurement, Student, TrainOutcome};
use crate::message::Fence;

/// One training. Its ranks change when workers come and go; they keep what they trained so far,
/// and a new world goes on with the next step.
#[derive(Clone, Debug)]
pub(crate) struct Wave {
    pub(crate) student: Student,
    pub(crate) attempt: u32,
    /// Which twin of the student it is, where it is for the guard.
    pub(crate) twin: Option<Twin>,
    pub(crate) since: Duration,
    /// `None` while no world is formed.
    pub(crate) fence: Option<Fence>,
    /// When the world was formed.
    pub(crate) formed: Duration,
    pub(crate) ranks: usize,
    /// Most steps that a rank is known to have applied.
    pub(crate) done: u64,
    pub(crate) reports: BTreeMap<u32, RankReport>,
    pub(crate) weights: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(crate) struct RankReport {
    pub(crate) digest: String,
    pub(crate) loss: f32,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) steps: u64,
    pub(crate) parameters: u64,
}

impl Wave {
    pub(crate) fn new(student: Student, twin: Option<Twin>, attempt: u32, since: Duration) -> Self {
        Self {
            student,
            attempt,
            twin,
            since,
            fence: None,
            formed: since,
            ranks: 0,
            done: 0,
            reports: BTreeMap::new(),
            weights: None,
        }
    }

    /// Ends the world, to form another one.
    pub(crate) fn disband(&mut self) {
        self.fence = None;
        self.ranks = 0;
        self.reports.clear();
        self.weights = None;
    }

    /// The training as a whole, once every rank reported.
    pub(crate) fn outcome(&self, now: Duration) -> Result<TrainOutcome, String> {
        let first = self.reports.get(&0).ok_or("rank 0 did not report")?;
        if let Some((rank, other)) = self.reports.iter().find(|(_, r)| r.digest != first.digest) {
            let (a, b) = (&first.digest, &other.digest);
            return Err(format!("ranks 0 and {rank} trained different students: {a} and {b}"));
        }
        Ok(TrainOutcome {
            weights: first.digest.clone(),
            loss: first.loss,
            measurements: first.measurements.clone(),
            steps: first.steps,
            parameters: first.parameters,
            millis: u64::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX),
        })
    }
}
