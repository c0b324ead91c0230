//! The coordinator's role on one machine: teacher, ledger, gateway, workers and the state machine,
//! started in order and watched until the job is done.
//!
//! | module | what it is |
//! |---|---|
//! | [`shell`] | the loop around the state machine: event, handle, persist, perform |
//! | [`links`] | the coordinator's ends of the links to workers |
//! | [`asking`] | a query batch through ledger, queue and gateway |
//! | [`record`] | what was done, as a summary |
//! | [`meter`] | progress of scoring and training |
//! | `start` | what is settled before the first step |
//! | `workers` | worker processes, kept alive |
//! | [`results`] | what a finished job leaves in its directory |

pub mod asking;
pub mod links;
pub mod meter;
pub mod record;
pub mod results;
pub mod shell;
mod start;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use stillhouse_protocol::Coordinator;
use stillhouse_queue::{MemoryQueue, Queue};
use stillhouse_runtime::Secret;
use stillhouse_runtime::supervise::Event as ChildEvent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};
use crate::gateway::{Gateway, GatewayError, GatewayEvent, GatewaySources};
use crate::inputs::Inputs;
use crate::job_dir::{EventLog, JobDir};
use crate::report::ProgressBars;
use crate::report::summary::{State, Summary};
use asking::Asker;
use links::{Links, Welcomer};
use shell::{Parts, Shell};

/// How a job is run on this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker processes.
    pub workers: u32,
    /// Threads of each.
    pub threads: u32,
    /// The worker program.
    pub worker_program: PathBuf,
    /// The progress display.
    pub bars: ProgressBars,
}

/// References in the queue: a few requests' worth for every connection, so that gateways never
/// starve, and no more, so that a restart has little to sort out.
const QUEUE: usize = 4_096;

/// Runs the job in `dir` to its end, or goes on with it.
///
/// # Errors
/// Whatever stops it; what was paid for is in the directory, and running again goes on.
pub async fn run(
    inputs: Inputs,
    dir: &Path,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Summary, Failure> {
    let inputs = Arc::new(inputs);
    let dir = JobDir::open(dir)?;
    let (teacher, info) = start::connect(&inputs, &shutdown).await?;
    let classes = start::class_count(&inputs, &info)?;
    let ledger = start::open_ledger(&inputs, &dir, &info, classes)?;
    dir.write("job.yaml", inputs.text.as_bytes())?;
    results::write_seeds(&dir, &inputs.seeds)?;
    let (history, started_ms) = start::read_journal(&ledger).await?;
    let (steps, teacher_name) = (history.transitions().len(), &inputs.job.spec.teacher.model);
    tracing::info!(
        job = inputs.job.name,
        teacher = teacher_name,
        classes,
        steps,
        "job started"
    );

    let queue = Arc::new(MemoryQueue::new(QUEUE));
    let asker = Arc::new(Asker::new(
        inputs.clone(),
        info.fingerprint,
        ledger.clone(),
        queue.clone(),
    ));
    let sources = GatewaySources {
        seeds: inputs.seeds.clone(),
        evaluation: inputs.evaluation.clone(),
        pool: inputs.pool(),
    };
    let gateway = Gateway::new(
        teacher,
        queue.clone(),
        ledger.clone(),
        sources,
        &inputs.job.spec.teacher,
    );
    let secret = Secret::generate().map_err(|e| Failure::new(Kind::Internal, e))?;
    let listener = links::loopback(secret.clone())
        .await
        .map_err(|e| Failure::new(Kind::Internal, e).context("cannot listen on loopback"))?;
    let address = listener.local_addr().map_err(|e| Failure::new(Kind::Internal, e))?;
    let links = Links::listen(listener, Welcomer::new(inputs.clone(), classes));
    let (supervisor, children) = workers::spawn_workers(&options, &dir, address, &secret);

    let epoch = u32::try_from(ledger.epoch()).unwrap_or(u32::MAX);
    let coordinator = Coordinator::new(start::settings(&inputs, classes, options.workers), history, epoch);
    let events = EventLog::open(&dir)?;
    let fingerprint = info.fingerprint;
    let bars = options.bars.clone();
    let mut shell = Shell::new(Parts {
        inputs,
        dir,
        events,
        ledger,
        asker,
        coordinator,
        links,
        bars,
        started_ms,
        fingerprint,
        classes,
    });
    let outcome = watch(&mut shell, gateway, children, &shutdown).await;
    queue.close();
    shell.dismiss();
    supervisor.shutdown().await;
    conclude(shell, outcome).await
}

/// Drives the job until it is done or something ends it.
async fn watch(
    shell: &mut Shell,
    gateway: Gateway,
    mut children: mpsc::Receiver<ChildEvent>,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let stop_gateway = CancellationToken::new();
    let (event_sender, mut gateway_events) = mpsc::channel::<GatewayEvent>(256);
    let mut asking = tokio::spawn(gateway.run(stop_gateway.clone(), event_sender));
    let mut gateway_over = false;
    let mut drive = async || -> Result<(), Failure> {
        loop {
            tokio::select! {
                // Only waiting may be cancelled by another branch; handling is not part of the race.
                happening = shell.next() => if shell.take(happening).await? { return Ok(()) },
                result = &mut asking, if !gateway_over => {
                    gateway_over = true;
                    let result = result.map_err(|error| Failure::new(Kind::Internal, error).context("the gateway stopped"))?;
                    return Err(result.err().map_or_else(|| Failure::message(Kind::Internal, "the gateway ended early"), gateway_failure));
                }
                Some(event) = gateway_events.recv() => narrate(shell, &event),
                Some(event) = children.recv() => workers::supervised(shell, event)?,
                () = shutdown.cancelled() => {
                    return Err(Failure::message(Kind::Interrupted, "interrupted; nothing is lost")
                        .hint("run the same command again to go on"));
                }
            }
        }
    };
    let outcome = drive().await;
    // Requests on their way are answered and recorded before the gateway ends.
    stop_gateway.cancel();
    if !gateway_over {
        gateway_events.close();
        match asking.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the gateway ended with an error"),
            Err(error) => tracing::error!(%error, "the gateway stopped"),
        }
    }
    outcome
}

/// Writes the results of a job that is done, or why it is not.
async fn conclude(mut shell: Shell, outcome: Result<(), Failure>) -> Result<Summary, Failure> {
    match outcome {
        Ok(()) => {
            shell.note("finished", json!({}));
            let summary = shell.publish(State::Finished).await?;
            let classes = summary.student.classes as usize;
            let (dir, ledger, inputs, _) = shell.into_parts();
            results::write_labels(&inputs, &dir, &ledger, classes).await?;
            results::write_report(dir.path())?;
            Ok(summary)
        }
        Err(failure) => {
            let reason = format!("{failure}");
            shell.note("stopped", json!({ "reason": reason }));
            // The failure itself is what the user must hear of.
            if let Err(second) = shell.publish(State::Stopped { reason }).await {
                tracing::debug!(%second, "cannot write the summary of a stopped job");
            }
            Err(failure)
        }
    }
}

fn narrate(shell: &mut Shell, event: &GatewayEvent) {
    match event {
        GatewayEvent::Answered { .. } => {}
        GatewayEvent::Waiting { reason, .. } => shell.note("teacher-waits", json!({ "reason": reason })),
        GatewayEvent::Failed { message } => {
            tracing::warn!(message, "the teacher failed");
            shell.note("teacher-failed", json!({ "message": message }));
        }
    }
}

fn gateway_failure(error: GatewayError) -> Failure {
    let kind = match &error {
        GatewayError::Ledger(_) => Kind::Storage,
        GatewayError::Panicked(_) | GatewayError::Foreign { .. } => Kind::Internal,
        GatewayError::TeacherDown { .. }
        | GatewayError::Rejected { .. }
        | GatewayError::InDoubt { .. }
        | GatewayError::Useless { .. } => Kind::Teacher,
    };
    Failure::new(kind, error)
        .hint("mend the cause, then run the same command again: no label that was paid for is lost")
}
