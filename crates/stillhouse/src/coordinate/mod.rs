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
//! | [`results`] | what a finished job leaves in its directory |

pub mod asking;
pub mod links;
pub mod meter;
pub mod record;
pub mod results;
pub mod shell;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stillhouse_core::job::{OnAmbiguous, Restart, Scan};
use stillhouse_ledger::{Genesis, Ledger, LedgerError};
use stillhouse_protocol::history::StoppingRule;
use stillhouse_protocol::{Coordinator, History, Settings, Transition};
use stillhouse_queue::{MemoryQueue, Queue};
use stillhouse_runtime::Secret;
use stillhouse_runtime::supervise::{Child, Event as ChildEvent, RestartPolicy, Supervisor};
use stillhouse_teacher::client::ConnectError;
use stillhouse_teacher::{OpenInference, TeacherInfo};
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
use shell::{Parts, Shell, unix_ms};

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

/// How long a teacher may be unreachable at the start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
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
    let (teacher, info) = connect(&inputs, &shutdown).await?;
    let classes = class_count(&inputs, &info)?;
    let ledger = open_ledger(&inputs, &dir, &info, classes)?;
    dir.write("job.yaml", inputs.text.as_bytes())?;
    results::write_seeds(&dir, &inputs.seeds)?;
    let (history, started_ms) = read_journal(&ledger).await?;
    if history.transitions().is_empty() {
        tracing::info!(
            job = inputs.job.name,
            teacher = inputs.job.spec.teacher.model,
            classes,
            "job started"
        );
    }

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
        Arc::new(teacher),
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
    let (supervisor, children) = spawn_workers(&options, &dir, address, &secret);

    let epoch = u32::try_from(ledger.epoch()).unwrap_or(u32::MAX);
    let coordinator = Coordinator::new(settings(&inputs, classes, options.workers), history, epoch);
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
        shell.start().await?;
        loop {
            tokio::select! {
                done = shell.step() => if done? { return Ok(()) },
                result = &mut asking, if !gateway_over => {
                    gateway_over = true;
                    let result = result.map_err(|error| Failure::new(Kind::Internal, error).context("the gateway stopped"))?;
                    return Err(result.err().map_or_else(|| Failure::message(Kind::Internal, "the gateway ended early"), gateway_failure));
                }
                Some(event) = gateway_events.recv() => narrate(shell, &event),
                Some(event) = children.recv() => supervised(shell, event)?,
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

async fn connect(inputs: &Inputs, shutdown: &CancellationToken) -> Result<(OpenInference, TeacherInfo), Failure> {
    let begun = std::time::Instant::now();
    loop {
        match OpenInference::connect(&inputs.job.spec.teacher, inputs.shape()).await {
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
    Failure::new(Kind::Teacher, failure)
        .context("the teacher cannot be used (nothing was spent)")
        .hint("check spec.teacher.url and spec.teacher.model, and that the server is up")
}

fn class_count(inputs: &Inputs, info: &TeacherInfo) -> Result<u32, Failure> {
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

fn open_ledger(inputs: &Inputs, dir: &JobDir, info: &TeacherInfo, classes: u32) -> Result<Ledger, Failure> {
    let genesis = Genesis {
        job_digest: inputs.digest(),
        fingerprint: info.fingerprint,
        budget: inputs.plan.budget,
        classes,
        on_ambiguous: match inputs.job.spec.budget.on_ambiguous {
            OnAmbiguous::Hold => stillhouse_ledger::OnAmbiguous::Hold,
            OnAmbiguous::Resend(attempts) => stillhouse_ledger::OnAmbiguous::Resend { attempts },
        },
    };
    Ledger::create_or_open(dir.path(), &genesis).map_err(|error| {
        let (kind, hint) = match &error {
            LedgerError::OtherJob { .. } => (Kind::Directory, Some("name another --dir for this job")),
            LedgerError::Locked { .. } => (Kind::Directory, Some("wait for the other process")),
            LedgerError::BudgetShrunk { .. } => (
                Kind::Budget,
                Some("a budget may only grow: set spec.budget.queries to the old value or more"),
            ),
            LedgerError::StorageFull { .. } => {
                (Kind::Storage, Some("free some space, then run the same command again"))
            }
            _ => (Kind::Storage, None),
        };
        Failure::new(kind, error).maybe_hint(hint.map(str::to_owned))
    })
}

/// The history, and when the job first started (a record of its own at the head of the journal).
async fn read_journal(ledger: &Ledger) -> Result<(History, u64), Failure> {
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

fn settings(inputs: &Inputs, classes: u32, workers: u32) -> Settings {
    let Inputs { job, plan, .. } = inputs;
    Settings {
        plan: plan.clone(),
        arms: job.arms().to_vec(),
        pool: inputs.pool(),
        grid: job.grid.clone(),
        acquisition: job.spec.acquisition.score,
        exact_scan: job.spec.acquisition.scan == Scan::Exact,
        warm: job.spec.training.restart == Restart::Warm,
        seed: job.spec.training.seed,
        classes: classes as usize,
        min_workers: job.spec.workers.min.min(workers) as usize,
        max_workers: workers as usize,
        evaluation: inputs.evaluation_asked.clone(),
        stopping: job.spec.stopping.map(|rule| StoppingRule {
            gain: rule.agreement_gain,
            rounds: rule.rounds,
        }),
    }
}

fn spawn_workers(
    options: &Options,
    dir: &JobDir,
    address: std::net::SocketAddr,
    secret: &Secret,
) -> (Supervisor, mpsc::Receiver<ChildEvent>) {
    let child = |index: u32| {
        let (program, threads, token) = (options.worker_program.clone(), options.threads, secret.to_hex());
        let make = move |_life: u32| {
            let mut command = std::process::Command::new(&program);
            command.args([
                "worker",
                "--coordinator",
                &address.to_string(),
                "--threads",
                &threads.to_string(),
            ]);
            command
                .env(stillhouse_runtime::secret::TOKEN, &token)
                .stdout(std::process::Stdio::null());
            command
        };
        let name = format!("worker-{index}");
        let stderr_log = Some(dir.path().join(format!("{name}.log")));
        Child {
            name,
            command: Box::new(make),
            stderr_log,
        }
    };
    Supervisor::start((0..options.workers).map(child).collect(), RestartPolicy::default())
}

fn supervised(shell: &mut Shell, event: ChildEvent) -> Result<(), Failure> {
    match event {
        ChildEvent::Started { .. } | ChildEvent::Finished { .. } => Ok(()),
        ChildEvent::Died { child, death, .. } => {
            shell.note("worker-died", json!({ "worker": child, "death": death.to_string() }));
            Ok(())
        }
        ChildEvent::GaveUp {
            child,
            death,
            reason,
            stderr_tail,
        } => {
            let last = stderr_tail.lines().last().unwrap_or("it said nothing").to_owned();
            let message = format!("worker-{child} cannot be kept alive ({reason}; {death}): {last}");
            Err(Failure::message(Kind::Workers, message).hint("see worker-*.log in the job directory"))
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
