//! The gateway's role: leases references, renders their bytes, asks the teacher, reports to the desk.
//!
//! | module | what it is |
//! |---|---|
//! | [`exchange`] | one request, from leases to a settled bill |
//! | [`counter`] | the way to the desk: in this process, or over a link |
//! | [`remote`] | that link, made again whenever it is lost |
//! | [`role`] | `stillhouse gateway`: a gateway as a process of its own |
//!
//! A gateway decides nothing: the [`desk`](crate::desk) says what may be sent and when, and what
//! follows from the answer. Each request is attempted once. A query that was not billed comes back
//! through the queue with a new permit, if the coordinator still wants it.

pub mod counter;
mod exchange;
pub mod remote;
pub mod role;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stillhouse_core::job::{OnAmbiguous, TeacherSpec};
use stillhouse_core::sample::Sources;
use stillhouse_core::trace::JobTrace;
use stillhouse_core::{ImageSet, Pool};
use stillhouse_queue::{Queue, QueueError};
use stillhouse_teacher::Teacher;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use counter::Counter;
use exchange::Next;

/// How often a gateway looks for deliveries of gateways that died.
const RECLAIM_EVERY: Duration = Duration::from_secs(5);
/// A delivery is a dead gateway's when it is older than the teacher's deadline and this: time to
/// wait for a turn and the rate. One that is only slow is not harmed: its permits are its own.
const RECLAIM_SLACK: Duration = Duration::from_secs(30);
/// Pause after a queue that cannot be reached.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);

/// The images that references speak of.
#[derive(Clone, Debug)]
pub struct GatewaySources {
    /// The seed images.
    pub seeds: Arc<ImageSet>,
    /// The evaluation images, if the job has any.
    pub evaluation: Option<Arc<ImageSet>>,
    /// The images that were generated for the pool, once they are here.
    pub generated: Arc<OnceLock<ImageSet>>,
    /// The pool over the seed images.
    pub pool: Pool,
    /// What the traces of the job's batches are named after.
    pub trace: JobTrace,
}

impl GatewaySources {
    fn sources(&self) -> Sources<'_> {
        let generated = self.generated.get();
        let count = generated.map_or(0, |images| images.len() as u32);
        Sources {
            seeds: &self.seeds,
            evaluation: self.evaluation.as_deref(),
            generated,
            pool: self.pool.with_generated(count),
        }
    }
}

/// Asks one teacher what the queue says and the desk allows.
pub struct Gateway {
    teacher: Arc<dyn Teacher>,
    queue: Arc<dyn Queue>,
    counter: Counter,
    sources: GatewaySources,
    batch: usize,
    concurrency: u32,
    deadline: Duration,
    sends_idempotency_keys: bool,
    /// Requests named so far.
    requests: AtomicU64,
}

impl Gateway {
    /// A gateway that asks `teacher` as `spec` says: so many images a request (never more than the
    /// teacher takes, or a second allows), so many requests at once.
    #[must_use]
    pub fn new(
        teacher: Arc<dyn Teacher>,
        queue: Arc<dyn Queue>,
        counter: Counter,
        sources: GatewaySources,
        spec: &TeacherSpec,
        policy: OnAmbiguous,
    ) -> Self {
        let takes = teacher.info().max_batch.unwrap_or(u32::MAX);
        // `as` saturates: a rate above 2^32 is no limit to a batch.
        let second = spec.rate_per_second.map_or(u32::MAX, |rate| rate as u32);
        Self {
            batch: spec.batch_size().min(takes).min(second).max(1) as usize,
            concurrency: spec.concurrency,
            deadline: Duration::from_secs_f64(spec.timeout_seconds),
            sends_idempotency_keys: matches!(policy, OnAmbiguous::IdempotencyKey(_)),
            requests: AtomicU64::new(0),
            teacher,
            queue,
            counter,
            sources,
        }
    }

    /// Asks until `shutdown`, the desk closes or the queue is closed. Requests on their way are
    /// answered and settled before this returns.
    ///
    /// # Errors
    /// When a connection panicked: our own mistake.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), JoinError> {
        // A token of our own: one failing connection stops the others and nobody else.
        let stop = shutdown.child_token();
        let gateway = Arc::new(self);
        let mut connections = JoinSet::new();
        for _ in 0..gateway.concurrency {
            connections.spawn(gateway.clone().serve(stop.clone()));
        }
        let reclaiming = tokio::spawn(gateway.clone().reclaim(stop.clone()));
        let mut outcome = Ok(());
        while let Some(ended) = connections.join_next().await {
            // The desk closed or the queue ended, for one as for all.
            stop.cancel();
            outcome = outcome.and(ended);
        }
        outcome.and(reclaiming.await)
    }

    /// One connection: request after request until stopped.
    async fn serve(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let leased = tokio::select! {
                () = stop.cancelled() => break,
                leased = self.queue.lease(self.batch) => leased,
            };
            let pause = match leased {
                Ok(leases) => match self.ask(leases).await {
                    Next::GoOn => continue,
                    Next::Wait(time) => time,
                    Next::Over => break,
                },
                Err(QueueError::Closed) => break,
                Err(error) => {
                    stillhouse_metrics::queue().errors.inc();
                    tracing::debug!(%error, "no references");
                    QUEUE_PAUSE
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Gives back what gateways that died had leased.
    async fn reclaim(self: Arc<Self>, stop: CancellationToken) {
        let age = self.deadline + RECLAIM_SLACK;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RECLAIM_EVERY) => {}
            }
            match self.queue.reclaim(age).await {
                Ok(0) => {}
                Ok(references) => {
                    stillhouse_metrics::queue().reclaimed.inc_by(references as u64);
                    tracing::info!(references, "took back what a lost gateway had leased");
                }
                Err(error) => {
                    stillhouse_metrics::queue().errors.inc();
                    tracing::debug!(%error, "nothing could be taken back");
                }
            }
        }
    }
}
