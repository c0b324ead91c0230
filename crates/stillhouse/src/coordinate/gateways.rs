//! What gateways need of the coordinator: a queue, a desk, and a place to join.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillhouse_queue::{MemoryQueue, Queue, QueueError, RedisConfig, RedisQueue};
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::Listener;
use stillhouse_runtime::secret::{SecretError, TOKEN_FILE};
use tokio::task::JoinHandle;

use super::Options;
use crate::desk::message::Welcome;
use crate::desk::{Desk, serve};
use crate::failure::{Failure, Kind};
use crate::gateway::role::queue_failure;
use crate::inputs::Inputs;
use crate::job_dir::JobDir;
use crate::queue_access::redis_config;

/// References in a queue in memory: a few requests' worth for every connection, so that the gateway
/// never starves, and no more, so that a restart has little to sort out.
const QUEUE: usize = 4_096;
/// How long gateways may take to settle after the job is over, beside the teacher's deadline: to
/// notice that one is lost, and to wait whether it comes back.
const FAREWELL: Duration = Duration::from_secs(25);

/// How long a queue may be unreachable at the start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The queue that the job names; a new life of it begins with this `epoch` of the ledger.
pub(super) async fn open_queue(
    inputs: &Inputs,
    prefix: &str,
    options: &Options,
    epoch: u64,
) -> Result<Arc<dyn Queue>, Failure> {
    match redis_config(&inputs.job, prefix, None, &options.base) {
        None if options.listen.is_some() => Err(Failure::message(
            Kind::Usage,
            "gateways of other processes need a queue that they can read",
        )
        .hint("set spec.queue: redis://HOST:PORT in the job file")),
        None => Ok(Arc::new(MemoryQueue::new(QUEUE))),
        Some(config) => open_redis(config, epoch).await,
    }
}

/// Waits a little for a server that is just being started.
async fn open_redis(config: RedisConfig, epoch: u64) -> Result<Arc<dyn Queue>, Failure> {
    let begun = Instant::now();
    loop {
        match RedisQueue::open_as_dispatcher(config.clone(), epoch).await {
            Ok(queue) => return Ok(Arc::new(queue)),
            Err(QueueError::Unavailable { .. }) if begun.elapsed() < CONNECT_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(queue_failure(error)),
        }
    }
}

/// Lets gateways join at the address that the options name, if they do.
pub(super) async fn admit_gateways(
    options: &Options,
    dir: &JobDir,
    desk: &Desk,
    welcome: impl FnOnce() -> Welcome,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(address) = &options.listen else {
        return Ok(None);
    };
    let secret = token(dir)?;
    let listener = Listener::bind(address.as_str(), secret, serve::MAX_QUESTION_BYTES).await;
    let listener = listener.map_err(|error| {
        Failure::new(Kind::Usage, error).context(format!("cannot listen for gateways at {address}"))
    })?;
    let at = listener
        .local_addr()
        .map_err(|error| Failure::new(Kind::Internal, error))?;
    tracing::info!(address = %at, "gateways may join");
    let serving = serve::serve(listener, desk.clone(), welcome());
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "gateways cannot be welcomed");
        }
    })))
}

/// Waits until gateways of other processes have settled what they had under way.
pub(super) async fn farewell(serving: Option<JoinHandle<()>>, inputs: &Inputs) {
    let Some(serving) = serving else {
        return;
    };
    let deadline = Duration::from_secs_f64(inputs.job.spec.teacher.timeout_seconds) + FAREWELL;
    if tokio::time::timeout(deadline, serving).await.is_err() {
        tracing::warn!("gateways did not settle in time; what they had under way is in doubt");
    }
}

/// A finished job leaves nothing behind in Redis.
pub(super) async fn discard(queue: &dyn Queue) {
    if let Err(error) = queue.discard().await {
        tracing::debug!(%error, "the queue of a finished job stays");
    }
}

/// The job's token: of the environment, or the one in the job directory, which is drawn once so that
/// gateways find their way back to a coordinator that was started again.
fn token(dir: &JobDir) -> Result<Secret, Failure> {
    let refused = |error: SecretError| Failure::new(Kind::Usage, error);
    match Secret::from_env() {
        Err(SecretError::Missing) => {}
        given => return given.map_err(refused),
    }
    let path = dir.path().join("token");
    if !path.exists() {
        let secret = Secret::generate().map_err(|error| Failure::new(Kind::Internal, error))?;
        write_secret(&path, &secret)
            .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot write {}", path.display())))?;
    }
    tracing::info!("gateways need {TOKEN_FILE}={}", path.display());
    Secret::from_file(path).map_err(refused)
}

/// Readable by its owner alone, whole or not at all.
fn write_secret(path: &Path, secret: &Secret) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(secret.to_hex().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}
