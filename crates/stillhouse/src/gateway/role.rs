//! `stillhouse gateway`: a gateway as a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillhouse_core::Job;
use stillhouse_queue::{QueueError, RedisQueue};
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::{LinkError, Target};
use stillhouse_teacher::Teacher;
use tokio_util::sync::CancellationToken;

use super::counter::Counter;
use super::remote::{DeskError, LinkKeeper, RemoteDesk};
use super::{Gateway, GatewaySources};
use crate::cli::GatewayArgs;
use crate::desk::message::{GatewayId, Welcome};
use crate::failure::{Failure, Kind};
use crate::queue_access::redis_config;

/// Pause between attempts to reach a coordinator, teacher or queue that is not there yet.
const NOT_YET: Duration = Duration::from_secs(1);

/// Asks the teacher for a coordinator's job until that is over.
///
/// # Errors
/// When coordinator, queue or teacher refuse. One that is not there yet is waited for.
pub async fn run(args: &GatewayArgs, shutdown: CancellationToken) -> Result<String, Failure> {
    let secret = Secret::from_env().map_err(|error| {
        Failure::new(Kind::Usage, error)
            .hint("stillhouse run --listen writes it to the file `token` in the job directory")
    })?;
    let coordinator = args.tls.target(&args.coordinator, secret);
    let coordinator = coordinator.map_err(|error| Failure::new(Kind::Usage, error))?;
    let gateway = GatewayId::draw().map_err(|error| Failure::new(Kind::Internal, error))?;
    if let Some(address) = args.metrics_listen {
        let served = stillhouse_metrics::serve::serve(address, "gateway", || async {}, shutdown.clone()).await;
        served.map_err(|error| Failure::new(Kind::Usage, error))?;
    }
    let Some((desk, keeper, welcome)) = reach(&coordinator, gateway, &shutdown).await? else {
        return Ok("stopped before the coordinator was there".to_owned());
    };
    let job: Job = serde_json::from_str(&welcome.job).map_err(|error| {
        Failure::new(Kind::Usage, error).context("the coordinator's job cannot be read: it is of another version")
    })?;
    tracing::info!(job = job.name, gateway = %gateway, "joined");
    // The desk closes when the job is over, the link when every handle is gone.
    let stop = shutdown.child_token();
    let link = tokio::spawn(keep(keeper, stop.clone()));
    let asked = ask(args, job, welcome, desk, stop).await;
    let kept = link.await.map_err(|error| Failure::new(Kind::Internal, error))?;
    asked?;
    kept?;
    Ok("the job asks no more".to_owned())
}

async fn keep(keeper: LinkKeeper, stop: CancellationToken) -> Result<(), Failure> {
    let kept = keeper.run(stop.clone()).await;
    stop.cancel();
    kept.map_err(desk_failure)
}

async fn ask(
    args: &GatewayArgs,
    job: Job,
    welcome: Welcome,
    desk: RemoteDesk,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let Some(queue) = open_queue(args, &job, &welcome.queue_prefix, &stop).await? else {
        return Ok(());
    };
    let Some(teacher) = connect_teacher(&job, &welcome, &stop).await? else {
        return Ok(());
    };
    let sources = GatewaySources {
        pool: job.pool(welcome.seeds.len() as u32),
        seeds: Arc::new(welcome.seeds),
        evaluation: welcome.evaluation.map(Arc::new),
        generated: Arc::default(),
        trace: welcome.trace,
    };
    let (teacher_spec, policy) = (&job.spec.teacher, job.spec.budget.on_ambiguous);
    let gateway = Gateway::new(
        teacher,
        queue.clone(),
        Counter::There(desk),
        sources,
        teacher_spec,
        policy,
    );
    let asked = gateway.run(stop).await;
    stillhouse_queue::Queue::close(&*queue);
    asked.map_err(|error| Failure::new(Kind::Internal, error).context("a connection of the gateway panicked"))
}

/// `None` when it was stopped meanwhile.
async fn reach(
    coordinator: &Target,
    gateway: GatewayId,
    shutdown: &CancellationToken,
) -> Result<Option<(RemoteDesk, LinkKeeper, Welcome)>, Failure> {
    let mut is_told = false;
    loop {
        match RemoteDesk::connect(coordinator.clone(), gateway).await {
            Ok(reached) => return Ok(Some(reached)),
            Err(error) if error.is_final() => return Err(desk_failure(error)),
            Err(error) => {
                if !is_told {
                    let cause = format!("{:#}", anyhow::Error::new(error));
                    tracing::info!(coordinator = coordinator.address, cause, "waiting for the coordinator");
                }
                is_told = true;
            }
        }
        if pause(shutdown).await {
            return Ok(None);
        }
    }
}

/// `None` when it was stopped meanwhile.
async fn open_queue(
    args: &GatewayArgs,
    job: &Job,
    prefix: &str,
    stop: &CancellationToken,
) -> Result<Option<Arc<RedisQueue>>, Failure> {
    let config = redis_config(job, prefix, args.queue.as_deref(), Path::new("."));
    let config = config.ok_or_else(|| {
        Failure::message(Kind::Usage, "the job has no queue that another process could read")
            .hint("set spec.queue: redis://HOST:PORT in the job file")
    })?;
    loop {
        match RedisQueue::open(config.clone()).await {
            Ok(queue) => return Ok(Some(Arc::new(queue))),
            Err(error @ QueueError::Unavailable { .. }) => tracing::warn!(%error, "waiting for the queue"),
            Err(error) => return Err(queue_failure(error)),
        }
        if pause(stop).await {
            return Ok(None);
        }
    }
}

/// `None` when it was stopped meanwhile.
async fn connect_teacher(
    job: &Job,
    welcome: &Welcome,
    stop: &CancellationToken,
) -> Result<Option<Arc<dyn Teacher>>, Failure> {
    loop {
        let connected =
            stillhouse_teacher::connect(&job.spec.teacher, welcome.seeds.shape(), Some(welcome.classes)).await;
        match connected {
            Ok((teacher, info)) if info.fingerprint == welcome.fingerprint => return Ok(Some(teacher)),
            Ok((_, info)) => {
                let (expected, found) = (welcome.fingerprint, info.fingerprint);
                let message =
                    format!("expected the teacher {expected} of the coordinator, found {found} (nothing was spent)");
                return Err(Failure::message(Kind::Teacher, message)
                    .hint("coordinator and gateways must reach the same model under spec.teacher.url"));
            }
            Err(error) if error.is_fatal() => {
                return Err(
                    Failure::new(Kind::Teacher, error).context("the teacher cannot be used (nothing was spent)")
                );
            }
            Err(error) => tracing::warn!(%error, "waiting for the teacher"),
        }
        if pause(stop).await {
            return Ok(None);
        }
    }
}

/// Waits a little; `true` when it was stopped.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(NOT_YET) => false,
    }
}

fn desk_failure(error: DeskError) -> Failure {
    let (kind, hint) = match &error {
        DeskError::Link(LinkError::Refused { .. }) => (
            Kind::Usage,
            Some("the token of the job is in the file `token` of its directory"),
        ),
        DeskError::Link(error) if error.is_final() => (Kind::Usage, None),
        DeskError::OtherJob => (Kind::Usage, Some("start a gateway for the job that runs there now")),
        DeskError::Link(_) | DeskError::NoWelcome | DeskError::Protocol { .. } => (Kind::Internal, None),
    };
    Failure::new(kind, error).maybe_hint(hint.map(str::to_owned))
}

/// A queue that cannot be used, for people.
pub fn queue_failure(error: QueueError) -> Failure {
    Failure::new(Kind::Usage, error).context("the queue cannot be used (nothing was spent)")
}
