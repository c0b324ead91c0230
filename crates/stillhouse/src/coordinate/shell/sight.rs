//! The shell's part in being looked at.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use stillhouse_core::Sample;
use stillhouse_metrics::coordinator;
use stillhouse_protocol::{Occupation, Student, WorkerId};

use super::{Shell, unix_ms};
use crate::coordinate::meter::Reading;
use crate::coordinate::{measure, record};
use crate::failure::{Failure, Kind};
use crate::report::summary::HARDEST;
use crate::report::terminal::{Live, Stage};
use crate::watch::{BatchSight, ScanSight, WorkerSight};

/// Least time between two changes within a stage that watchers are shown: there may be a thousand workers.
const PAUSE: Duration = Duration::from_millis(200);
/// Events that a watcher is shown when it comes.
const EVENTS: usize = 50;

impl Shell {
    pub(super) fn show_event(&self, event: &str, fields: &Value) {
        coordinator().events.with_label_values(&[event]).inc();
        let fields = fields.as_object().into_iter().flatten();
        let text = fields.fold(event.to_owned(), |text, (name, value)| {
            format!("{text}  {name} {value}")
        });
        self.window.change(|now| {
            now.events.push(text);
            let old = now.events.len().saturating_sub(EVENTS);
            now.events.drain(..old);
        });
    }

    pub(super) fn show_arrival(
        &mut self,
        worker: WorkerId,
        ring: SocketAddr,
        process: u32,
        (threads, device): (u32, String),
    ) {
        coordinator().workers_joined.inc();
        self.window.change(|now| {
            now.workers.push(WorkerSight {
                worker: worker.0,
                address: ring.to_string(),
                process,
                threads,
                device,
                does: "joining".to_owned(),
            });
        });
        self.shown = None;
    }

    pub(super) fn show_loss(&mut self, worker: WorkerId) {
        coordinator().workers_lost.inc();
        self.window.change(|now| {
            now.workers.retain(|known| known.worker != worker.0);
            now.lost += 1;
        });
        self.shown = None;
    }

    pub(super) fn show_reading(&mut self, reading: Reading) {
        match reading {
            Reading::Nothing => {}
            Reading::Scoring(done, total) => drop(self.show_stage(Stage::Scoring, done, total)),
            Reading::Generating(done, total) => drop(self.show_stage(Stage::Generating, done, total)),
            Reading::Training(done, total) => drop(self.show_stage(Stage::Training, done, total)),
        }
    }

    /// Shows the first candidates of the batch that is asked, with the answers that are there.
    ///
    /// # Errors
    /// When labels cannot be read.
    pub(super) async fn show_batch(&mut self) -> Result<(), Failure> {
        let student = self.coordinator.student();
        let selection = student.and_then(|student| Some((student, self.coordinator.history().selection(student)?)));
        // The seed images are asked without a selection.
        let Some((student, selection)) = selection else {
            return Ok(());
        };
        let samples = selection.batch.iter().take(HARDEST).copied().map(Sample::Mix).collect();
        let labels = self.labelled(samples).await?;
        let batch = BatchSight {
            arm: student.arm,
            round: student.round,
            hardest: record::hardest(&self.inputs, selection, &labels),
        };
        self.window.change(|now| now.batch = Some(batch));
        let billed = self.ledger.counts().await.map(|counts| counts.billed());
        self.burn
            .add(unix_ms(), billed.map_err(|error| Failure::new(Kind::Storage, error))?);
        Ok(())
    }

    /// Shows how far a stage is; `false` when it was shown just before.
    pub(super) fn show_stage(&mut self, stage: Stage, done: u64, total: u64) -> bool {
        let (now, student) = (Instant::now(), self.coordinator.student());
        self.stages.progress(student, stage, done, total);
        let is_news =
            |(when, of, was): (Instant, Option<Student>, Stage)| (of, was) != (student, stage) || now - when >= PAUSE;
        if !self.shown.is_none_or(is_news) {
            return false;
        }
        self.shown = Some((now, student, stage));
        let workers = self.coordinator.workers() as u32;
        measure::crew(self.coordinator.crew().map(|(_, occupation)| occupation));
        // In order of workers, of whom there may be thousands.
        let crew: Vec<(u64, Occupation)> = (self.coordinator.crew())
            .map(|(worker, occupation)| (worker.0, occupation))
            .collect();
        let scan = self.coordinator.scan().map(|(histogram, cut)| ScanSight {
            histogram: histogram.clone(),
            cut,
        });
        self.window.change(|now| {
            now.scan = scan;
            now.batch.take_if(|_| stage != Stage::Querying);
            now.live = student.map(|student| Live {
                arm: student.arm,
                round: student.round,
                stage,
                done,
                total,
                workers,
            });
            for known in &mut now.workers {
                if let Ok(at) = crew.binary_search_by_key(&known.worker, |(worker, _)| *worker) {
                    known.does = words(crew[at].1);
                }
            }
        });
        true
    }
}

fn words(occupation: Occupation) -> String {
    match occupation {
        Occupation::Idle => "idle".to_owned(),
        Occupation::Generating => "generating".to_owned(),
        Occupation::Scoring => "scoring".to_owned(),
        Occupation::Training { rank } => format!("training, rank {rank}"),
        Occupation::Exporting => "exporting".to_owned(),
    }
}
