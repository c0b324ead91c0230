//! What the shell says of steps that are done: to the event log, and to whoever sits before it.

use serde_json::json;
use stillhouse_protocol::{Student, Transition};
use stillhouse_runtime::logging;
use stillhouse_runtime::process::Identity;

use super::Shell;
use crate::report::summary::Summary;
use crate::report::terminal;

impl Shell {
    /// Whether a process is one of this host, or of this container.
    pub(super) fn is_here(&self, process: &Identity) -> bool {
        Identity::own().is_ok_and(|own| own.host == process.host)
    }

    /// Notes a step of the history.
    pub(super) fn announce(&mut self, transition: &Transition) {
        self.meter.reset();
        self.stages.ended(transition);
        self.batches.ended(transition);
        match transition {
            Transition::Selected { student, selection } => {
                let digest = stillhouse_core::selection::batch_digest(&selection.batch);
                let cut = selection.scan.as_ref().map(|scan| scan.cut);
                self.note("selected", json!({ "student": student.to_string(), "size": selection.batch.len(), "digest": digest, "cut": cut }));
            }
            Transition::Asked { student, outcome } => {
                self.note(
                    "asked",
                    json!({ "student": student.to_string(), "labelled": outcome.labelled, "held": outcome.held }),
                );
            }
            Transition::Generated { outcome } => {
                let images = json!({ "images": outcome.images, "digest": outcome.digest, "loss": outcome.loss });
                self.note("generated", images);
            }
            Transition::Trained { student, outcome } => {
                self.forget_checkpoints();
                let last = outcome.measurements.last();
                let accuracy = last.and_then(stillhouse_protocol::Measurement::accuracy);
                let agreement = last.and_then(stillhouse_protocol::Measurement::agreement);
                self.note("trained", json!({ "student": student.to_string(), "loss": outcome.loss, "accuracy": accuracy, "agreement": agreement, "weights": outcome.weights }));
            }
            Transition::Compared { student, twin, outcome } => {
                let found = json!({ "student": student.to_string(), "twin": twin, "right": outcome.right, "images": outcome.images });
                self.note("compared", found);
            }
            Transition::Stopped { reason } => self.note("stopped", json!({ "reason": reason.to_string() })),
        }
    }

    /// Prints the line of a round that ended, or logs it where somebody collects logs.
    pub(super) fn tell(&self, summary: &Summary, student: Student) {
        let arm = summary.arms().find(|(arm, _)| *arm == student.arm);
        let round = arm.and_then(|(_, arm)| arm.rounds.iter().find(|round| round.round == student.round));
        let Some(round) = round else { return };
        if logging::is_json() {
            let (arm, number, queries) = (student.arm.to_string(), round.round, round.queries_total);
            let accuracy = round.accuracy.map(|accuracy| accuracy.last);
            let (agreement, loss) = (round.agreement, round.loss);
            tracing::info!(arm, round = number, queries, accuracy, agreement, loss, "round done");
        } else {
            let line = terminal::round_line(student.arm, round, terminal::Color::for_stdout());
            self.bars.line(&line);
        }
    }
}
