//! What is settled before the first step: who the teacher is, whose ledger this is, what was done.

use std::sync::Arc;
use std::time::Duration;

use stillhouse_core::job::{OnAmbiguous, Restart, Scan, WorkersSpec};
use stillhouse_core::key::hex;
use stillhouse_ledger::{Genesis, Ledger, LedgerError};
use stillhouse_protocol::history::StoppingRule;
use stillhouse_protocol::selecting::Cutting;
use stillhouse_protocol::{History, Settings, Transition};
use stillhouse_teacher::{ConnectError, Teacher, TeacherInfo};
use tokio_util::sync::CancellationToken;

use super::shell::unix_ms;
use super::{Options, results};
use crate::books::ledger_failure;
use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::JobDir;

/// How long a teacher may be unreachable at the start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
pub(super) async fn connect(
    inputs: &Inputs,
    shutdown: &CancellationToken,
) -> Result<(Arc<dyn Teacher>, TeacherInfo), Failure> {
    let begun = std::time::Instant::now();
    loop {
        let spec = &inputs.job.spec;
        match stillhouse_teacher::connect(&spec.teacher, inputs.shape(), spec.student.classes).await {
            Ok(connected) => return Ok(connected),
            Err(failure) if failure.is_fatal() || begun.elapsed() > CONNECT_PATIENCE => {
                return Err(teacher_failure(failure));
            }
            Err(_) => tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                () = shutdown.cancelled() => return Err(Failure::message(Kind::Interrupted, "interrupted before anything was asked")),
            },
        }
    }
}

fn teacher_failure(failure: ConnectError) -> Failure {
    let hint = match &failure {
        ConnectError::Mismatch { expected, .. } if expected.contains("spec.student.classes") => {
            "leave spec.student.classes out to take the teacher's"
        }
        ConnectError::Mismatch { .. } => "change the job, or ask another model",
        ConnectError::Unreachable { .. } | ConnectError::NotReady { .. } | ConnectError::Refused { .. } => {
            "check spec.teacher.url and spec.teacher.model, and that the server is up"
        }
    };
    Failure::new(Kind::Teacher, failure)
        .context("the teacher cannot be used (nothing was spent)")
        .hint(hint)
}

pub(super) fn class_count(inputs: &Inputs, info: &TeacherInfo) -> Result<u32, Failure> {
    let wanted = inputs.job.spec.student.classes;
    let taught = info.classes.and_then(|classes| u32::try_from(classes).ok());
    match (wanted, taught) {
        (Some(wanted), Some(taught)) if wanted != taught => {
            let message = format!(
                "spec.student.classes: expected the teacher's {taught} classes, found {wanted} (nothing was spent)"
            );
            Err(Failure::message(Kind::Teacher, message).hint("leave spec.student.classes out to take the teacher's"))
        }
        (Some(classes), _) | (None, Some(classes)) => Ok(classes),
        (None, None) => Err(Failure::message(
            Kind::Teacher,
            "the teacher does not say how many classes it knows (nothing was spent)",
        )
        .hint("set spec.student.classes")),
    }
}

/// The job's policy in the ledger's words.
pub(crate) fn ledger_policy(policy: OnAmbiguous) -> stillhouse_ledger::OnAmbiguous {
    match policy {
        OnAmbiguous::Hold => stillhouse_ledger::OnAmbiguous::Hold,
        OnAmbiguous::Resend(attempts) => stillhouse_ledger::OnAmbiguous::Resend { attempts },
        OnAmbiguous::IdempotencyKey(attempts) => stillhouse_ledger::OnAmbiguous::IdempotencyKey { attempts },
    }
}

pub(super) fn open_ledger(inputs: &Inputs, dir: &JobDir, info: &TeacherInfo, classes: u32) -> Result<Ledger, Failure> {
    let genesis = Genesis {
        job_digest: inputs.digest(),
        fingerprint: info.fingerprint,
        // The plan's may be larger, by `budget add`, which the ledger remembers by itself.
        budget: inputs.job.spec.budget.queries,
        classes,
        on_ambiguous: ledger_policy(inputs.job.spec.budget.on_ambiguous),
    };
    Ledger::create_or_open(dir.path(), &genesis).map_err(|error| ledger_failure(error, dir.path()))
}

/// The history, and when the job first started (a record of its own at the head of the journal).
pub(super) async fn read_journal(ledger: &Ledger) -> Result<(History, u64), Failure> {
    let damaged = |error: serde_json::Error| {
        Failure::new(Kind::Storage, error)
            .context("the job's history cannot be read: the ledger was written by another version")
    };
    let storage = |error: LedgerError| Failure::new(Kind::Storage, error).context("cannot read the job's history");
    let journal = ledger.journal().await.map_err(storage)?;
    let Some((first, rest)) = journal.split_first() else {
        let now = unix_ms();
        ledger
            .append(serde_json::to_vec(&now).expect("a number"))
            .await
            .map_err(storage)?;
        return Ok((History::default(), now));
    };
    let started = serde_json::from_slice(first).map_err(damaged)?;
    let transitions: Result<Vec<Transition>, _> = rest.iter().map(|line| serde_json::from_slice(line)).collect();
    let mut transitions = transitions.map_err(damaged)?;
    // A larger budget, given since, makes a stopped job go on; with the same one it stops again.
    transitions.retain(|transition| !matches!(transition, Transition::Stopped { .. }));
    Ok((History::new(transitions), started))
}

/// Takes up the images that were generated for the pool in an earlier life of the job.
///
/// # Errors
/// When they are gone or are others: labels that were paid for belong to them.
pub(super) fn take_up_images(inputs: &Inputs, dir: &JobDir, history: &History) -> Result<(), Failure> {
    let Some(outcome) = history.generated() else {
        return Ok(());
    };
    let images = results::read_generated(dir.path())?;
    let images = images.filter(|images| hex(&images.digest()) == outcome.digest);
    let images = images.ok_or_else(|| {
        let message = "generated.safetensors is not what this job generated and asked about";
        Failure::message(Kind::Directory, message).hint("bring back the file, or begin a new job in another directory")
    })?;
    // Nobody else has begun yet.
    let _first = inputs.generated.set(images);
    Ok(())
}

pub(super) fn settings(inputs: &Inputs, classes: u32, options: &Options) -> Settings {
    let Inputs { job, plan, .. } = inputs;
    let WorkersSpec { min, max, .. } = job.spec.workers;
    // Of those that this machine has, or of whoever joins.
    let most = match options.listen {
        Some(_) => max.max(options.workers),
        None => options.workers,
    };
    Settings {
        plan: plan.clone(),
        arms: job.arms().to_vec(),
        pool: job.pool(plan.seeds),
        one_shot: job.one_shot,
        grid: job.grid.clone(),
        acquisition: job.spec.acquisition.score,
        stochastic: job.spec.acquisition.stochastic,
        diversity: job.spec.acquisition.diversity,
        sample: job.spec.acquisition.sample,
        exact_scan: job.spec.acquisition.scan == Scan::Exact,
        cutting: Cutting::default(),
        warm: job.spec.training.restart == Restart::Warm,
        seed: job.spec.training.seed,
        classes: classes as usize,
        min_workers: min.min(most) as usize,
        max_workers: most as usize,
        shards: job.spec.shards() as usize,
        guard: job.guard(),
        evaluation: inputs.evaluation_asked.clone(),
        stopping: job.spec.stopping.map(|rule| StoppingRule {
            gain: rule.agreement_gain,
            rounds: rule.rounds,
        }),
    }
}
