//! Names of traces: one trace a query batch, under the same name whoever adds to it.
//!
//! A name is a function of job and batch, so coordinator, gateways and workers agree on it without telling each
//! other, and a coordinator that was started again adds to the trace that it had begun.

use serde::{Deserialize, Serialize};

use crate::plan::Arm;

/// What all traces of a job are named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTrace([u8; 32]);

/// One query batch, from the choice of its candidates to the student that learned from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTrace([u8; 32]);

/// Parts of a batch's trace whose names are known beforehand, so that others can hang below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All of it: the parent of the other stages.
    Batch,
    /// Candidates are scored and chosen.
    Scoring,
    /// The teacher is asked.
    Querying,
    /// Images are generated for the pool.
    Generating,
    /// The student is trained.
    Training,
    /// Twins of the student are trained and compared.
    Comparing,
}

impl JobTrace {
    /// Of the job with this digest that was first started at `started_ms`, milliseconds since 1970: the same job file
    /// run once more has other traces.
    #[must_use]
    pub fn new(job_digest: &[u8; 32], started_ms: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse traces of a job v1");
        hasher.update(job_digest).update(&started_ms.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Of the batch that `arm` asks in `round`; the seed images are round 0, which is both arms'.
    #[must_use]
    pub fn batch(self, arm: Arm, round: u32) -> BatchTrace {
        let arm = match arm {
            Arm::Control if round > 0 => 1,
            Arm::Active | Arm::Control => 0,
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[arm]).update(&round.to_le_bytes());
        BatchTrace(*hasher.finalize().as_bytes())
    }
}

impl BatchTrace {
    /// The trace's name; not zero.
    #[must_use]
    pub fn id(self) -> u128 {
        let bytes = self.0.first_chunk().expect("32 bytes hold 16");
        u128::from_be_bytes(*bytes).max(1)
    }

    /// The name of a stage's span; not zero.
    #[must_use]
    pub fn span(self, stage: Stage) -> u64 {
        let hash = blake3::keyed_hash(&self.0, stage.name().as_bytes());
        let bytes = hash.as_bytes().first_chunk().expect("32 bytes hold 8");
        u64::from_be_bytes(*bytes).max(1)
    }
}

impl Stage {
    /// What people read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "query batch",
            Self::Scoring => "scoring",
            Self::Querying => "querying",
            Self::Generating => "generating",
            Self::Training => "training",
            Self::Comparing => "comparing",
        }
    }

    /// Below what it hangs.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        (self != Self::Batch).then_some(Self::Batch)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everybody_has_the_same_names_and_no_two_things_share_one() {
        let job = JobTrace::new(&[7; 32], 1_000);
        let again: JobTrace = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(again.batch(Arm::Active, 3).id(), job.batch(Arm::Active, 3).id());
        assert_eq!(job.batch(Arm::Control, 0), job.batch(Arm::Active, 0));
        let other = JobTrace::new(&[7; 32], 1_001);
        let batches = [
            (job, Arm::Active, 0),
            (job, Arm::Active, 1),
            (job, Arm::Control, 1),
            (other, Arm::Active, 1),
        ];
        let names: HashSet<u128> = batches
            .iter()
            .map(|(job, arm, round)| job.batch(*arm, *round).id())
            .collect();
        assert_eq!(names.len(), batches.len());
        let batch = job.batch(Arm::Active, 1);
        let stages = [
            Stage::Batch,
            Stage::Scoring,
            Stage::Querying,
            Stage::Generating,
            Stage::Training,
            Stage::Comparing,
        ];
        let spans: HashSet<u64> = stages.iter().map(|stage| batch.span(*stage)).collect();
        assert_eq!(spans.len(), stages.len());
    }
}
