//! What the traces say of batches: a span for each stage that ended, and one for all of it.

use std::collections::HashMap;
use std::time::SystemTime;

use stillhouse_core::plan::Arm;
use stillhouse_core::trace::{JobTrace, Stage};
use stillhouse_protocol::{Student, Transition};
use stillhouse_trace::record;

/// Since when a batch and its stage under way are there, as far as this process knows.
#[derive(Debug)]
pub(super) struct Batches {
    trace: JobTrace,
    /// When the stage before the one under way ended.
    begun: SystemTime,
    batches: HashMap<Student, SystemTime>,
}

impl Batches {
    pub(super) fn new(trace: JobTrace) -> Self {
        Self {
            trace,
            begun: SystemTime::now(),
            batches: HashMap::new(),
        }
    }

    /// A stage ended.
    pub(super) fn ended(&mut self, transition: &Transition) {
        let begun = std::mem::replace(&mut self.begun, SystemTime::now());
        let (student, stage) = match transition {
            Transition::Selected { student, .. } => (*student, Stage::Scoring),
            Transition::Asked { student, .. } => (*student, Stage::Querying),
            Transition::Generated { .. } => (Student::new(Arm::Active, 1), Stage::Generating),
            Transition::Trained { student, .. } => (*student, Stage::Training),
            Transition::Compared { student, .. } => (*student, Stage::Comparing),
            Transition::Stopped { .. } => return,
        };
        let batch = self.trace.batch(student.arm, student.round);
        let since = *self.batches.entry(student).or_insert(begun);
        match transition {
            Transition::Selected { selection, .. } => {
                let scans = selection.scan.as_ref().map_or(0, |scan| i64::from(scan.scans));
                let said = [
                    ("stillhouse.candidates", (selection.batch.len() as i64).into()),
                    ("stillhouse.scans", scans.into()),
                ];
                record(batch, stage, begun, said);
            }
            Transition::Asked { outcome, .. } => {
                let said = [
                    ("stillhouse.labelled", (outcome.labelled as i64).into()),
                    ("stillhouse.held", (outcome.held as i64).into()),
                ];
                record(batch, stage, begun, said);
            }
            Transition::Trained { outcome, .. } => {
                record(
                    batch,
                    stage,
                    begun,
                    [("stillhouse.loss", f64::from(outcome.loss).into())],
                );
                let said = [
                    ("stillhouse.arm", student.arm.to_string().into()),
                    ("stillhouse.round", i64::from(student.round).into()),
                ];
                record(batch, Stage::Batch, since, said);
            }
            _ => record(batch, stage, begun, []),
        }
    }
}
