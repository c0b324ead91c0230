//! The shell's part in being known: the event log, and `summary.json`.

use std::collections::HashMap;

use serde_json::json;
use stillhouse_core::{Sample, SoftLabel};

use super::{Shell, unix_ms};
use crate::coordinate::measure;
use crate::coordinate::record::{Record, hardest_samples};
use crate::failure::{Failure, Kind};
use crate::report::summary::{State, Summary};

impl Shell {
    /// Says that the job goes on, and how far it is.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.note("started", json!({ "process": std::process::id() }));
        self.publish(State::Running).await.map(drop)
    }

    /// Writes something down for people.
    pub fn note(&mut self, event: &str, fields: serde_json::Value) {
        self.show_event(event, &fields);
        self.events.write(unix_ms(), event, fields);
    }

    /// Notes that nothing is asked for a while and why, or that it is again.
    ///
    /// # Errors
    /// When the summary cannot be written.
    pub async fn pause(&mut self, reason: Option<String>) -> Result<(), Failure> {
        let changes = self.paused.is_some() != reason.is_some();
        self.paused = reason;
        if changes {
            self.publish(self.state()).await?;
        }
        Ok(())
    }

    pub(super) fn state(&self) -> State {
        match &self.paused {
            Some(reason) => State::Paused { reason: reason.clone() },
            None => State::Running,
        }
    }

    /// Writes `summary.json` and prints a line for each round that ended since.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn publish(&mut self, state: State) -> Result<Summary, Failure> {
        let history = self.coordinator.history();
        let labels = self.labelled(hardest_samples(history, self.inputs.job.arms())).await?;
        let counts = self
            .ledger
            .counts()
            .await
            .map_err(|error| Failure::new(Kind::Storage, error))?;
        measure::counts(&counts, self.inputs.job.spec.teacher.price_per_query);
        measure::state(&state);
        self.burn.add(unix_ms(), counts.billed());
        let summary = Record {
            inputs: &self.inputs,
            history,
            counts: &counts,
            fingerprint: self.fingerprint,
            classes: self.classes,
            labels: &labels,
            burn: &self.burn,
            started_ms: self.started_ms,
            now_ms: unix_ms(),
            state,
        }
        .summary();
        if let Some(found) = &summary.comparison {
            measure::guard(found.verdict);
        }
        self.dir.write("summary.json", summary.to_json().as_bytes())?;
        self.window.summary(&summary);
        Ok(summary)
    }

    /// The labels that are there.
    pub(super) async fn labelled(&self, samples: Vec<Sample>) -> Result<HashMap<Sample, SoftLabel>, Failure> {
        let labels = self.labels(&samples).await?;
        let pairs = samples.into_iter().zip(labels);
        Ok(pairs.filter_map(|(sample, label)| Some((sample, label?))).collect())
    }
}
