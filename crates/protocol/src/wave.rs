//! One attempt of all ranks at one training.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Measurement, Student, TrainOutcome};
use crate::message::Fence;

/// One attempt of all ranks at one training.
#[derive(Clone, Debug)]
pub(crate) struct Wave {
    pub(crate) student: Student,
    pub(crate) attempt: u32,
    pub(crate) since: Duration,
    /// `None` while there are too few workers.
    pub(crate) fence: Option<Fence>,
    pub(crate) ranks: usize,
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
    pub(crate) fn new(student: Student, attempt: u32, since: Duration) -> Self {
        Self {
            student,
            attempt,
            since,
            fence: None,
            ranks: 0,
            reports: BTreeMap::new(),
            weights: None,
        }
    }

    pub(crate) fn restart(&mut self) {
        *self = Self::new(self.student, self.attempt, self.since);
    }

    /// The training as a whole, once every rank reported.
    pub(crate) fn outcome(&self, now: Duration) -> Result<TrainOutcome, String> {
        let first = self.reports.get(&0).ok_or("rank 0 did not report")?;
        if let Some((rank, other)) = self.reports.iter().find(|(_, r)| r.digest != first.digest) {
            let (a, b) = (&first.digest, &other.digest);
            return Err(format!("ranks 0 and {rank} trained different students: {a} and {b}"));
        }
        let mut measurements = first.measurements.clone();
        for report in self.reports.values().skip(1) {
            for (sum, slice) in measurements.iter_mut().zip(&report.measurements) {
                sum.add(slice);
            }
        }
        Ok(TrainOutcome {
            weights: first.digest.clone(),
            loss: first.loss,
            measurements,
            steps: first.steps,
            parameters: first.parameters,
            millis: u64::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX),
        })
    }
}
