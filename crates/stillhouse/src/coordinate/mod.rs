//! The coordinator's role on one machine: teacher, ledger, gateway, workers and the state machine,
//! started in order and watched until the job is done.
//!
//! | module | what it is |
//! |---|---|
//! | `door` | the address of the job: workers and gateways come in |
//! | [`shell`] | the loop around the state machine: event, handle, persist, perform |
//! | [`links`] | the coordinator's ends of the links to workers |
//! | [`asking`] | a query batch through ledger, queue and gateways |
//! | `gateways` | the queue, the desk, and gateways of this and other processes |
//! | [`record`] | what was done, as a summary |
//! | [`meter`] | progress of scoring and training |
//! | `start` | what is settled before the first step |
//! | `workers` | worker processes, kept alive |
//! | [`results`] | what a finished job leaves in its directory |

pub mod asking;
mod door;
pub(crate) mod gateways;
pub mod links;
mod measure;
pub mod meter;
pub mod record;
pub mod results;
pub mod shell;
pub(crate) mod start;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use stillhouse_core::trace::JobTrace;
use stillhouse_protocol::Coordinator;
use stillhouse_runtime::link::Identity;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chaos::lines::{self, Lines};
use crate::checkpoints::Checkpoints;
use crate::desk::DeskEvent;
use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::{EventLog, JobDir};
use crate::report::ProgressBars;
use crate::report::burn::Burn;
use crate::report::summary::{State, Summary};
use crate::reuse::{Library, Wanted};
use crate::watch::client::WHEREABOUTS;
use crate::watch::serve::Window;
use crate::web::{self, Web};
use door::Door;
use gateways::Asking;
use links::{Links, Welcomer};
use shell::{Parts, Shell};
use workers::Family;

/// How a job is coordinated on this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker processes of this machine that the coordinator keeps; others may join where it listens.
    pub workers: u32,
    /// Threads of each.
    pub threads: u32,
    /// The worker program.
    pub worker_program: PathBuf,
    /// Where workers and gateways of other processes may join.
    pub listen: Option<String>,
    /// The certificate that is shown there, where links are to run under TLS.
    pub identity: Option<Identity>,
    /// Whether this process asks the teacher too.
    pub has_gateway: bool,
    /// Where metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the live page is served, if anywhere.
    pub web: Option<SocketAddr>,
    /// Whether nobody stops the job from there.
    pub web_read_only: bool,
    /// Folder of the job file.
    pub base: PathBuf,
    /// Whether whoever knows the token may cut and slow links.
    pub allows_chaos: bool,
    /// The progress display.
    pub bars: ProgressBars,
}

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
    let Inputs { job, .. } = &*inputs;
    let checkpoints = Checkpoints::open(&job.spec.checkpoints, dir.path(), &job.name, &inputs.digest())?;
    let (teacher, info) = start::connect(&inputs, &shutdown).await?;
    let classes = start::class_count(&inputs, &info)?;
    let wanted = Wanted {
        fingerprint: info.fingerprint,
        classes,
    };
    let library = Library::gather(&inputs.reuse, dir.path(), wanted)?;
    let ledger = start::open_ledger(&inputs, &dir, &info, classes)?;
    dir.write("job.yaml", inputs.text.as_bytes())?;
    results::write_images(&dir, &inputs)?;
    let (history, started_ms) = start::read_journal(&ledger).await?;
    start::take_up_images(&inputs, &dir, &history)?;
    let (steps, teacher_name) = (history.transitions().len(), &inputs.job.spec.teacher.model);
    tracing::info!(
        job = inputs.job.name,
        teacher = teacher_name,
        classes,
        steps,
        "job started"
    );

    let trace = JobTrace::new(&inputs.digest(), started_ms);
    let identity = options.identity.clone();
    let door = Door::open(options.listen.as_deref(), identity, &dir, options.allows_chaos).await?;
    let (near, secret) = (door.nearby, door.secret.clone());
    let lines = Lines::default();
    let torments = lines::serve(door.tormentors, lines.clone(), options.allows_chaos);
    let mut asking = Asking::open(gateways::Parts {
        inputs: inputs.clone(),
        options: &options,
        gateways: options.listen.is_some().then_some(door.gateways),
        lines: lines.clone(),
        ledger: ledger.clone(),
        teacher,
        library,
        classes,
        started_ms,
        trace,
    })
    .await?;
    measure::begin(&inputs, ledger.epoch(), started_ms);
    let window = Window::open(door.watchers);
    if let Some(address) = options.metrics_listen {
        let queue = asking.queue();
        measure::serve(
            address,
            &inputs,
            dir.path(),
            &ledger,
            queue,
            window.glance(),
            shutdown.clone(),
        )
        .await?;
    }
    let page = match options.web {
        Some(address) => {
            let parts = web::Parts {
                inputs: inputs.clone(),
                dir: dir.path().to_path_buf(),
                glance: window.glance(),
                secret: secret.clone(),
                stop: (!options.web_read_only).then(|| shutdown.clone()),
            };
            Some(Web::open(address, parts).await?)
        }
        None => None,
    };
    let is_under_tls = options.identity.is_some();
    let welcomer = Welcomer::new(inputs.clone(), trace, classes, is_under_tls, lines).map_err(|error| {
        Failure::new(Kind::Usage, error)
            .context("cannot send the images to workers")
            .hint("set spec.images.take")
    })?;
    let links = Links::serve(door.workers, welcomer);
    let mut family = Family::start(&options, &dir, near, &secret);

    let epoch = u32::try_from(ledger.epoch()).unwrap_or(u32::MAX);
    let mut coordinator = Coordinator::new(start::settings(&inputs, classes, &options), history, epoch);
    if let Some(kept) = shell::scans::kept(dir.path()) {
        coordinator = coordinator.with_scan(kept);
    }
    let events = EventLog::open(&dir)?;
    let burn = results::read_summary(dir.path()).map(|summary| Burn::resume(summary.budget.history));
    let fingerprint = info.fingerprint;
    let bars = options.bars.clone();
    let mut shell = Shell::new(Parts {
        inputs: inputs.clone(),
        dir,
        events,
        ledger,
        asker: asking.asker(),
        coordinator,
        links,
        bars,
        window,
        checkpoints,
        started_ms,
        trace,
        fingerprint,
        classes,
        burn: burn.unwrap_or_default(),
    });
    let outcome = watch(&mut shell, &mut asking, (&mut family, torments), &shutdown).await;
    asking.end(outcome.is_ok()).await;
    shell.dismiss();
    family.shutdown().await;
    let concluded = conclude(shell, outcome).await;
    if let Some(page) = page {
        page.close().await;
    }
    concluded
}

/// Drives the job until it is done or something ends it.
async fn watch(
    shell: &mut Shell,
    asking: &mut Asking,
    (family, mut torments): (&mut Family, mpsc::Receiver<Value>),
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    shell.begin().await?;
    loop {
        tokio::select! {
            // Only waiting may be cancelled by another branch; handling is not part of the race.
            happening = shell.next() => {
                if shell.take(happening).await? {
                    return Ok(());
                }
                family.forgive(shell.take_useful());
            }
            event = asking.next() => narrate(shell, event?).await?,
            event = family.next() => family.take(shell, event)?,
            Some(struck) = torments.recv() => shell.note("disturbed", struck),
            () = shutdown.cancelled() => {
                return Err(Failure::message(Kind::Interrupted, "interrupted; nothing is lost")
                    .hint("run the same command again to go on"));
            }
        }
    }
}

/// Writes the results of a job that is done, or why it is not.
async fn conclude(mut shell: Shell, outcome: Result<(), Failure>) -> Result<Summary, Failure> {
    shell.leave(WHEREABOUTS);
    match outcome {
        Ok(()) => {
            shell.note("finished", json!({}));
            let summary = shell.publish(State::Finished).await?;
            shell.close_window().await;
            let classes = summary.student.classes as usize;
            let (dir, ledger, inputs, _) = shell.into_parts();
            results::write_labels(&inputs, &dir, &ledger, classes).await?;
            results::write_report(dir.path())?;
            Ok(summary)
        }
        Err(failure) => {
            let reason = failure.reason();
            shell.note("stopped", json!({ "reason": reason }));
            // The failure itself is what the user must hear of.
            if let Err(second) = shell.publish(State::Stopped { reason }).await {
                tracing::debug!(%second, "cannot write the summary of a stopped job");
            }
            shell.close_window().await;
            Err(failure)
        }
    }
}

async fn narrate(shell: &mut Shell, event: DeskEvent) -> Result<(), Failure> {
    match event {
        DeskEvent::Answered { .. } => shell.pause(None).await?,
        DeskEvent::Waiting { reason, until } => {
            let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64();
            tracing::info!(reason, seconds, "waiting for the teacher");
            shell.note("teacher-waits", json!({ "reason": reason, "seconds": seconds }));
            shell.pause(Some(reason)).await?;
        }
        DeskEvent::Failed { message } => {
            tracing::warn!(message, "the teacher failed");
            shell.note("teacher-failed", json!({ "message": message }));
        }
        DeskEvent::Joined { gateway, host } => {
            tracing::info!(%gateway, host, "a gateway joined");
            shell.note(
                "gateway-joined",
                json!({ "gateway": gateway.to_string(), "host": host }),
            );
        }
        DeskEvent::Left { gateway, cause } => {
            tracing::info!(%gateway, cause, "a gateway left");
            shell.note(
                "gateway-left",
                json!({ "gateway": gateway.to_string(), "cause": cause }),
            );
        }
    }
    Ok(())
}
