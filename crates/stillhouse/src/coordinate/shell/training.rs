//! The shell's part in a training: what its ranks are given, and its checkpoints.

use std::time::Instant;

use serde_json::json;
use stillhouse_core::Sample;
use stillhouse_core::guard::{Twin, is_held_out};
use stillhouse_protocol::Student;
use stillhouse_protocol::message::TrainCommand;

use super::Shell;
use crate::checkpoints::{TrainingId, Watermark};
use crate::failure::{Failure, Kind};

impl Shell {
    /// What all ranks of a training share, and the checkpoint that rank 0 goes on from.
    pub(super) async fn transfer_set(
        &mut self,
        student: Student,
        twin: Option<Twin>,
        attempt: u32,
        initial: Option<Student>,
    ) -> Result<TrainCommand, Failure> {
        let (history, seeds) = (self.coordinator.history(), self.inputs.plan.seeds);
        let samples = match twin {
            Some(twin) => history.twin_set(student, twin, seeds),
            None => history.transfer_set(student, seeds),
        };
        let known = self.labels(&samples).await?;
        let mut command = TrainCommand {
            student,
            attempt,
            twin,
            identity: String::new(),
            rank: 0,
            peers: Vec::new(),
            initial: initial.map(|initial| self.dir.weights(initial)).transpose()?,
            resume: None,
            samples: Vec::new(),
            labels: Vec::new(),
            teacher_classes: Vec::new(),
        };
        for (sample, label) in samples.into_iter().zip(known) {
            if let Some(label) = label {
                command.samples.push(sample);
                command.labels.extend_from_slice(label.probabilities());
            }
        }
        if command.samples.is_empty() {
            return Err(Failure::message(
                Kind::Teacher,
                "the teacher labelled no image, so there is nothing to train on",
            ));
        }
        command.teacher_classes = match twin {
            Some(_) => {
                let kept_back = (0..seeds).filter(|seed| is_held_out(student.round, *seed)).collect();
                self.teacher_classes(kept_back, Sample::Seed).await?
            }
            None => {
                let asked = self.inputs.evaluation_asked.clone();
                self.teacher_classes(asked, Sample::Evaluation).await?
            }
        };
        let training = TrainingId::of(&self.inputs.digest(), self.inputs.job.spec.shards(), &command);
        command.identity = training.digest();
        if self.training.as_ref() != Some(&training) {
            self.trainers.clear();
        }
        // Who has taken part has something newer.
        if self.trainers.is_empty() {
            command.resume = self.find_checkpoint(&training, student).await;
        }
        self.training = Some(training);
        Ok(command)
    }

    /// The teacher's class of those images that it labelled.
    async fn teacher_classes(&self, images: Vec<u32>, sample: fn(u32) -> Sample) -> Result<Vec<(u32, u16)>, Failure> {
        let samples: Vec<Sample> = images.iter().copied().map(sample).collect();
        let labels = self.labels(&samples).await?;
        let labelled = images.into_iter().zip(labels);
        Ok(labelled
            .filter_map(|(index, label)| Some((index, label?.class() as u16)))
            .collect())
    }

    /// The state to go on from. A store that cannot be read costs time and nothing else.
    async fn find_checkpoint(&mut self, training: &TrainingId, student: Student) -> Option<Vec<u8>> {
        match self.checkpoints.as_ref()?.newest(training).await {
            Ok(found) => found.map(|(step, state)| {
                tracing::info!(%student, step, "training may go on from a checkpoint");
                self.note(
                    "checkpoint-found",
                    json!({ "student": student.to_string(), "step": step }),
                );
                state
            }),
            Err(error) => {
                tracing::warn!(%error, "the checkpoints cannot be read");
                None
            }
        }
    }

    /// Keeps a state of the training under way, beside everything else.
    pub(super) fn keep_checkpoint(&mut self, step: u64, state: Vec<u8>) {
        let (Some(checkpoints), Some(training)) = (self.checkpoints.clone(), self.training.clone()) else {
            return;
        };
        self.note("checkpoint", json!({ "step": step, "bytes": state.len() }));
        let watermark = Watermark {
            epoch: self.ledger.epoch(),
            transitions: self.coordinator.history().transitions().len() as u64,
        };
        tokio::spawn(async move {
            let (begun, metrics) = (Instant::now(), stillhouse_metrics::coordinator());
            metrics.checkpoint_bytes.set(state.len() as f64);
            let kept = checkpoints.keep(training, step, state, watermark).await;
            metrics.checkpoint_seconds.observe(begun.elapsed().as_secs_f64());
            let outcome = if kept.is_ok() { "kept" } else { "failed" };
            metrics.checkpoints.with_label_values(&[outcome]).inc();
            if let Err(error) = kept {
                tracing::warn!(%error, "a checkpoint could not be kept");
            }
        });
    }

    /// Forgets the checkpoints of a training that is done.
    pub(super) fn forget_checkpoints(&mut self) {
        self.training = None;
        self.trainers.clear();
        if let Some(checkpoints) = self.checkpoints.clone() {
            tokio::spawn(async move {
                if let Err(error) = checkpoints.clear().await {
                    tracing::warn!(%error, "old checkpoints could not be deleted");
                }
            });
        }
    }
}
