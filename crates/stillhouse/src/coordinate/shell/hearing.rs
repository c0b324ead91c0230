//! What comes over the links of workers.

use serde_json::json;
use stillhouse_protocol::{Event, FromWorker, Report, WorkerId};

use super::Shell;
use crate::coordinate::links::LinkEvent;
use crate::failure::{Failure, Kind};

impl Shell {
    pub(super) async fn linked(&mut self, event: LinkEvent) -> Result<(), Failure> {
        match event {
            LinkEvent::Joined {
                worker,
                ring,
                process,
                threads,
                device,
            } => {
                let id = process.process;
                tracing::debug!(worker = worker.0, process = id, threads, device, "worker joined");
                // Where its process is one of this host, it can be found there, and no other be taken for it.
                let started = self.is_here(&process).then_some(process.started);
                if started.is_some() {
                    self.processes.insert(worker, id);
                }
                self.note(
                    "worker-joined",
                    json!({ "worker": worker.0, "process": id, "started": started, "threads": threads, "device": device }),
                );
                self.show_arrival(worker, ring, id, (threads, device));
                self.handle(Event::Joined { worker, ring }).await
            }
            LinkEvent::Unfit { obstacle } => {
                let message = format!("the student cannot be built (nothing was spent on it): {obstacle}");
                Err(Failure::message(Kind::Usage, message)
                    .hint("change spec.student, or bring the images to another size with spec.images.size"))
            }
            LinkEvent::Lost { worker, cause } => {
                tracing::warn!(worker = worker.0, cause, "worker lost");
                self.note("worker-lost", json!({ "worker": worker.0, "cause": cause }));
                self.meter.lose(worker);
                self.trainers.remove(&worker);
                self.processes.remove(&worker);
                self.show_loss(worker);
                self.handle(Event::Lost { worker }).await
            }
            LinkEvent::Message { worker, message } => self.heard(worker, message).await,
        }
    }

    async fn heard(&mut self, worker: WorkerId, message: FromWorker) -> Result<(), Failure> {
        match message {
            FromWorker::Progress { fence, done, total, .. } => {
                let reading = self.meter.progress(worker, fence, done, total);
                reading.show(&self.bars);
                self.show_reading(reading);
                if !self.coordinator.is_training(fence) {
                    return Ok(());
                }
                if self.trains != Some(fence) {
                    self.trains = Some(fence);
                    self.note("training", json!({ "worker": worker.0, "step": done, "steps": total }));
                }
                self.handle(Event::Progressed { worker, fence, done }).await
            }
            FromWorker::Checkpoint { fence, step, state } => {
                if self.coordinator.is_training(fence) {
                    self.keep_checkpoint(step, state);
                }
                Ok(())
            }
            FromWorker::Report { fence, report } => {
                if let Report::Failed { retry, cause } = &report {
                    stillhouse_metrics::coordinator().commands_failed.inc();
                    tracing::warn!(worker = worker.0, retry, cause, "a worker's command failed");
                    self.note(
                        "command-failed",
                        json!({ "worker": worker.0, "retry": retry, "cause": cause }),
                    );
                }
                let counts = self.coordinator.awaits(worker, fence);
                let pairs = if counts { scored(&report) } else { 0 };
                if counts && !matches!(report, Report::Failed { .. }) {
                    self.useful.extend(self.processes.get(&worker));
                }
                let reading = self.meter.done(worker, fence, pairs);
                reading.show(&self.bars);
                self.show_reading(reading);
                self.handle(Event::Reported { worker, fence, report }).await
            }
            FromWorker::Hello { .. } | FromWorker::Ready { .. } | FromWorker::Heartbeat => Ok(()),
        }
    }
}

/// Pairs that were scored.
fn scored(report: &Report) -> u64 {
    match report {
        Report::Scanned { histogram, .. } => histogram.total(),
        Report::Rescored { entries } => entries.len() as u64,
        Report::Trained { .. }
        | Report::Generated { .. }
        | Report::Calibrated { .. }
        | Report::Exported { .. }
        | Report::Failed { .. } => 0,
    }
}
