//! The coordinator's part in a training: worlds of ranks form, lose members and form again.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Action, Coordinator, Durable, Effects, JobFailure, Stage, Task};
use crate::effects::MAX_ATTEMPTS;
use crate::fault::Fault;
use crate::history::{CompareOutcome, Student, TrainOutcome, Transition};
use crate::message::{Fence, Report, WorkerId};
use crate::wave::{RankReport, Wave};

/// A loss above this part of `ln(classes)`, the loss of a uniform guess, is not learning.
const DEAD_LOSS: f32 = 0.95;
/// A world is left alone for so long before a newcomer may interrupt it, so that workers that
/// arrive one after another do not each cost a step.
const SETTLING: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Whether `fence` is that of the world that trains at the moment.
    #[must_use]
    pub fn is_training(&self, fence: Fence) -> bool {
        matches!(&self.stage, Stage::Training(wave) if wave.fence == Some(fence))
    }

    /// Notes how far a training is: what gets on is not given up.
    pub(super) fn progress(&mut self, id: WorkerId, fence: Fence, done: u64) {
        if !self.awaits(id, fence) {
            return;
        }
        if let Stage::Training(wave) = &mut self.stage
            && done > wave.done
        {
            wave.done = done;
            self.retries = 0;
        }
    }

    /// Forms the world of a training from the workers that are there, where there is none or a
    /// larger one is worth the interruption.
    pub(super) fn form_world(&mut self, now: Duration, effects: &mut Effects) {
        let shards = if self.planted(Fault::CrowdWorld) {
            usize::MAX
        } else {
            self.settings.shards
        };
        let most = self.settings.max_workers.min(shards).max(1);
        let Stage::Training(wave) = &mut self.stage else { return };
        let size = self.workers.len().min(most);
        if wave.fence.is_some() {
            let is_young = now.saturating_sub(wave.formed) < SETTLING;
            if size <= wave.ranks || is_young || !wave.reports.is_empty() {
                return;
            }
            wave.disband();
        }
        if size == 0 {
            return;
        }
        let (student, attempt, twin) = (wave.student, wave.attempt, wave.twin);
        let is_warm = self.settings.warm && student.round > 0 && twin.is_none();
        let initial = is_warm.then(|| Student::new(student.arm, student.round - 1));
        let ids: Vec<WorkerId> = self.workers.keys().copied().take(size).collect();
        ids.iter().for_each(|id| self.extend(*id, effects));
        let fence = self.fence();
        let peers: Vec<SocketAddr> = ids.iter().map(|id| self.workers[id].ring).collect();
        for (rank, id) in (0..).zip(&ids) {
            let worker = self.workers.get_mut(id).expect("from the map");
            worker.busy = Some((fence, Task::Train { rank }));
            worker.loaded = None;
            let (worker, peers) = (*id, peers.clone());
            effects.actions.push(Action::Train {
                worker,
                fence,
                student,
                attempt,
                twin,
                rank,
                peers,
                initial,
            });
        }
        if let Stage::Training(wave) = &mut self.stage {
            wave.fence = Some(fence);
            wave.formed = now;
            wave.ranks = ids.len();
        }
    }

    /// Voids what the ranks were told to do.
    pub(super) fn release_ranks(&mut self) {
        for worker in self.workers.values_mut() {
            if matches!(worker.busy, Some((_, Task::Train { .. }))) {
                worker.busy = None;
            }
        }
    }

    pub(super) fn accept_training(
        &mut self,
        now: Duration,
        id: WorkerId,
        rank: u32,
        report: Report,
        effects: &mut Effects,
    ) {
        let early = self.planted(Fault::EndEarly);
        let Stage::Training(wave) = &mut self.stage else { return };
        let Report::Trained {
            digest,
            weights,
            loss,
            measurements,
            steps,
            parameters,
        } = report
        else {
            let cause = "a worker answered something else than a training".to_owned();
            return self.fail(JobFailure::Work(cause), effects);
        };
        wave.weights = weights.or(wave.weights.take());
        let report = RankReport {
            digest,
            loss,
            measurements,
            steps,
            parameters,
        };
        wave.reports.insert(rank, report);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.loaded = wave.twin.is_none().then_some(wave.student);
        }
        // A round ends only when every rank trained it (I6).
        if wave.reports.len() == wave.ranks || (early && wave.weights.is_some()) {
            self.end_training(now, effects);
        }
    }

    fn end_training(&mut self, now: Duration, effects: &mut Effects) {
        let Stage::Training(wave) = &mut self.stage else { return };
        let student = wave.student;
        let outcome = match wave.outcome(now) {
            Ok(outcome) => outcome,
            Err(cause) => return self.fail(JobFailure::Work(cause), effects),
        };
        let is_fresh = !self.settings.warm || student.round == 0 || wave.twin.is_some();
        let is_dead = is_fresh && outcome.loss > DEAD_LOSS * (self.settings.classes as f32).ln();
        let is_last = wave.attempt + 1 >= MAX_ATTEMPTS;
        if let Some(twin) = wave.twin.filter(|_| is_last || !is_dead) {
            let outcome = comparison(&outcome, is_dead);
            self.record(Transition::Compared { student, twin, outcome }, effects);
            self.stage = Stage::Between;
            return;
        }
        if is_dead {
            if is_last {
                let loss = outcome.loss.to_string();
                return self.fail(JobFailure::Dead { student, loss }, effects);
            }
            *wave = Wave::new(student, wave.twin, wave.attempt + 1, now);
            return;
        }
        let Some(weights) = wave.weights.take() else {
            return self.fail(JobFailure::Work("rank 0 sent no weights".into()), effects);
        };
        effects.durable.push(Durable::Weights { student, weights });
        self.record(Transition::Trained { student, outcome }, effects);
        self.stage = Stage::Between;
    }
}

/// How a twin did at its end. One that never learnt tells nothing.
fn comparison(outcome: &TrainOutcome, is_dead: bool) -> CompareOutcome {
    let last = outcome
        .measurements
        .last()
        .copied()
        .filter(|_| !is_dead)
        .unwrap_or_default();
    CompareOutcome {
        images: last.asked,
        right: last.agreed,
        millis: outcome.millis,
    }
}
