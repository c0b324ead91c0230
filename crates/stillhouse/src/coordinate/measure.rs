//! What the coordinator's metrics say of the job. Families are documented where they are declared,
//! in `stillhouse_metrics::families`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use stillhouse_core::guard::Verdict;
use stillhouse_ledger::{Counts, Ledger};
use stillhouse_metrics::{coordinator, ledger as budget, queue as queued};
use stillhouse_protocol::{Measurement, Occupation, Student, Transition};
use stillhouse_queue::Queue;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::report::summary::State;
use crate::report::terminal::Stage;
use crate::watch::serve::Glance;
use crate::watch::standing;

/// What does not change while the job runs.
pub(super) fn begin(inputs: &Inputs, epoch: u64, started_ms: u64) {
    let metrics = coordinator();
    let names = [inputs.job.name.as_str(), inputs.job.spec.teacher.model.as_str()];
    metrics.job_info.with_label_values(&names).set(1.0);
    metrics.started.set(started_ms as f64 / 1e3);
    metrics.restarts.set(epoch.saturating_sub(1) as f64);
    metrics.rounds_planned.set(inputs.plan.rounds().len() as f64);
    metrics.pool_pairs.set(inputs.plan.pairs as f64);
    metrics.running.set(1.0);
    if inputs.job.guard().is_some() {
        guard(Verdict::Undecided);
    }
    budget().failed.set(0.0);
    let desk = stillhouse_metrics::desk();
    desk.stopped.set(0.0);
    // An increase is seen only from something that was there before.
    for outcome in ["labelled", "declined", "useless", "refused", "in-doubt"] {
        desk.answers.with_label_values(&[outcome]).reset();
    }
    for outcome in ["kept", "failed"] {
        metrics.checkpoints.with_label_values(&[outcome]).reset();
    }
}

/// Serves this process's metrics, and how far the job is at `/standing`; ledger and queue are looked at when
/// somebody asks.
///
/// # Errors
/// The address cannot be listened at.
pub(super) async fn serve(
    address: SocketAddr,
    inputs: &Inputs,
    dir: &Path,
    ledger: &Ledger,
    queue: Arc<dyn Queue>,
    glance: Glance,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let price = inputs.job.spec.teacher.price_per_query;
    let planned = inputs.plan.rounds().len() as u32;
    let told = ledger.clone();
    let standing = Router::new().route(
        "/standing",
        get(move || {
            let (glance, ledger) = (glance.clone(), told.clone());
            async move { Json(standing::of(glance.summary().as_deref(), &glance.now(), &ledger, planned).await) }
        }),
    );
    let (ledger, dir) = (ledger.clone(), dir.to_owned());
    let refresh = move || {
        let (ledger, queue) = (ledger.clone(), queue.clone());
        room(&dir);
        async move {
            // One that is gone is told of by everything else.
            if let Ok(found) = ledger.counts().await {
                counts(&found, price);
            }
            if let Ok(depth) = queue.depth().await {
                queued().depth.set(depth as f64);
            }
        }
    };
    let served = stillhouse_metrics::serve::serve_beside(address, "coordinator", refresh, standing, shutdown).await;
    served.map(drop).map_err(|error| Failure::new(Kind::Usage, error))
}

/// Room on the disk of `dir`. Where the system does not say, nothing changes.
fn room(dir: &Path) {
    if let Ok(disk) = fs4::statvfs(dir) {
        coordinator().disk_free.set(disk.available_space() as f64);
        coordinator().disk.set(disk.total_space() as f64);
    }
}

/// What the guard has found so far.
pub(super) fn guard(verdict: Verdict) {
    for (known, name) in [
        (Verdict::Undecided, "undecided"),
        (Verdict::Pays, "pays"),
        (Verdict::Harms, "harms"),
    ] {
        let gauge = coordinator().guard.with_label_values(&[name]);
        gauge.set(f64::from(u8::from(known == verdict)));
    }
}

/// What was spent.
pub(super) fn counts(counts: &Counts, price: Option<f64>) {
    let metrics = budget();
    metrics.budget.set(counts.budget as f64);
    metrics.left.set(counts.left() as f64);
    metrics.billed.set(counts.billed() as f64);
    metrics.cost.set(price.unwrap_or(0.0) * counts.billed() as f64);
    for (state, count) in [
        ("reserved", counts.reserved),
        ("sent", counts.sent),
        ("ambiguous", counts.ambiguous),
        ("spent", counts.spent),
        ("committed", counts.committed),
    ] {
        metrics.permits.with_label_values(&[state]).set(count as f64);
    }
    for (source, count) in [("bought", counts.committed), ("imported", counts.imported)] {
        metrics.labels.with_label_values(&[source]).set(count as f64);
    }
    let categories = &counts.by_category;
    for (category, count) in [
        ("seed", categories.seed),
        ("active", categories.synthetic_active),
        ("control", categories.synthetic_control),
        ("evaluation", categories.evaluation),
    ] {
        metrics.purchases.with_label_values(&[category]).set(count as f64);
    }
}

/// Whether the job goes on.
pub(super) fn state(state: &State) {
    let metrics = coordinator();
    let is_over = matches!(state, State::Finished | State::Stopped { .. });
    metrics.running.set(f64::from(u8::from(!is_over)));
    metrics
        .paused
        .set(f64::from(u8::from(matches!(state, State::Paused { .. }))));
}

/// What workers do.
pub(super) fn crew(occupations: impl Iterator<Item = Occupation>) {
    let mut counts = ["idle", "scoring", "training", "exporting", "generating"].map(|name| (name, 0));
    for occupation in occupations {
        let at = match occupation {
            Occupation::Idle => 0,
            Occupation::Scoring => 1,
            Occupation::Training { .. } => 2,
            Occupation::Exporting => 3,
            Occupation::Generating => 4,
        };
        counts[at].1 += 1;
    }
    for (name, count) in counts {
        let gauge = coordinator().workers.with_label_values(&[name]);
        gauge.set(f64::from(count));
    }
}

/// The stage under way, and how far it is.
#[derive(Debug)]
pub(super) struct Stages {
    /// Candidates that a scored pair counts for.
    lambdas: u64,
    /// When the stage before it ended.
    begun: Instant,
    now: Option<(Option<Student>, Stage, u64)>,
}

impl Stages {
    pub(super) fn new(lambdas: u64) -> Self {
        Self {
            lambdas,
            begun: Instant::now(),
            now: None,
        }
    }

    /// A stage is so far.
    pub(super) fn progress(&mut self, student: Option<Student>, stage: Stage, done: u64, total: u64) {
        let metrics = coordinator();
        let before = match self.now {
            Some((of, was, before)) if (of, was) == (student, stage) && before <= done => before,
            _ => 0,
        };
        self.now = Some((student, stage, done));
        if done > before {
            metrics.last_progress.set(now());
        }
        match stage {
            Stage::Scoring => metrics.scored.inc_by((done - before) * self.lambdas),
            Stage::Training => {
                metrics.training_step.set(done as f64);
                metrics.training_steps.set(total as f64);
            }
            Stage::Querying | Stage::Generating => {}
        }
        if let Some(student) = student {
            let arm = student.arm.to_string();
            metrics.round.with_label_values(&[&arm]).set(f64::from(student.round));
        }
        metrics.stage_progress.set(done as f64 / total.max(1) as f64);
        show(Some(stage));
    }

    /// A stage ended.
    pub(super) fn ended(&mut self, transition: &Transition) {
        let metrics = coordinator();
        let stage = match transition {
            Transition::Selected { student, selection } => {
                let arm = student.arm.to_string();
                let chosen = metrics.selected.with_label_values(&[&arm]);
                chosen.inc_by(selection.batch.len() as u64);
                if let Some(scan) = &selection.scan {
                    metrics.cut.with_label_values(&[&arm]).set(f64::from(scan.cut));
                    metrics.rescored.set(scan.rescored as f64);
                    metrics.deviation.set(f64::from(scan.deviation));
                    metrics.rescans.inc_by(u64::from(scan.scans.saturating_sub(1)));
                    metrics.scan_seconds.observe(scan.scan_ms as f64 / 1e3);
                    metrics.rescore_seconds.observe(scan.rescore_ms as f64 / 1e3);
                }
                Stage::Scoring
            }
            Transition::Asked { .. } => Stage::Querying,
            Transition::Generated { .. } => Stage::Generating,
            Transition::Trained { student, outcome } => {
                let arm = student.arm.to_string();
                metrics.trained.with_label_values(&[&arm]).inc();
                metrics.loss.with_label_values(&[&arm]).set(f64::from(outcome.loss));
                let last = outcome.measurements.last();
                if let Some(accuracy) = last.and_then(Measurement::accuracy) {
                    metrics.accuracy.with_label_values(&[&arm]).set(accuracy);
                }
                if let Some(agreement) = last.and_then(Measurement::agreement) {
                    metrics.agreement.with_label_values(&[&arm]).set(agreement);
                }
                Stage::Training
            }
            Transition::Compared { .. } => Stage::Training,
            Transition::Stopped { .. } => return show(None),
        };
        metrics.last_progress.set(now());
        let took = metrics.stage_seconds.with_label_values(&[stage.words().0]);
        took.observe(self.begun.elapsed().as_secs_f64());
        self.begun = Instant::now();
        self.now = None;
        show(None);
    }
}

/// Which stage is under way.
fn show(stage: Option<Stage>) {
    for known in [Stage::Scoring, Stage::Querying, Stage::Generating, Stage::Training] {
        let gauge = coordinator().stage.with_label_values(&[known.words().0]);
        gauge.set(f64::from(u8::from(stage == Some(known))));
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
