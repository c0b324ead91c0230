//! The gateway's role: leases references, renders their bytes, asks the teacher, settles with the
//! ledger.
//!
//! | module | what it is |
//! |---|---|
//! | [`pace`] | when the next images may be sent (pure) |
//! | [`breaker`] | when to stop asking (pure) |
//! | [`exchange`] | one request, from leases to a settled bill |
//!
//! A query is spent at most once: its permit is marked `sent` on disk before a byte leaves, each
//! request is attempted once, and only proof that nothing was billed releases the permit. A
//! released query comes back through the queue with a new permit, if the coordinator still wants
//! it. The first request of a process, and the first after one of unknown fate, is one image sent
//! alone: a broken teacher costs one query, not a batch for every connection.

mod breaker;
mod exchange;
mod pace;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillhouse_core::job::TeacherSpec;
use stillhouse_core::sample::Sources;
use stillhouse_core::{ImageSet, Pool, Sample};
use stillhouse_ledger::{Ledger, LedgerError, RequestId};
use stillhouse_queue::{Queue, QueueError};
use stillhouse_teacher::Teacher;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use breaker::Breaker;
use pace::Pace;

/// How long a teacher may be away (unreachable, or refusing without naming a time) before the
/// gateway gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The images that references speak of.
#[derive(Clone, Debug)]
pub struct GatewaySources {
    /// The seed images.
    pub seeds: Arc<ImageSet>,
    /// The evaluation images, if the job has any.
    pub evaluation: Option<Arc<ImageSet>>,
    /// The pool over the seed images.
    pub pool: Pool,
}

impl GatewaySources {
    fn sources(&self) -> Sources<'_> {
        Sources {
            seeds: &self.seeds,
            evaluation: self.evaluation.as_deref(),
            pool: self.pool,
        }
    }
}

/// What a gateway does, for displays and logs. Events are dropped when nobody reads them.
#[derive(Clone, Debug)]
pub enum GatewayEvent {
    /// The teacher labelled images.
    Answered {
        /// How many.
        n: usize,
        /// Time from the first byte sent to the last received.
        latency: Duration,
    },
    /// Nothing is sent for a while.
    Waiting {
        /// Why.
        reason: String,
        /// Until when.
        until: Instant,
    },
    /// A request failed in a way that costs queries.
    Failed {
        /// Cause, and what it cost.
        message: String,
    },
}

/// Why a gateway stopped. Every query is settled: what was paid for is on disk, what was not is
/// released, what is unknown is held as the job says.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The teacher was away for too long.
    #[error("the teacher has been away for {} s (nothing was spent meanwhile): {cause}", waited.as_secs())]
    TeacherDown {
        /// For how long.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// The teacher rejects what we send.
    #[error("the teacher rejects our requests (nothing was spent on this one): {cause}")]
    Rejected {
        /// Its answer.
        cause: String,
    },
    /// The teacher fails while it works.
    #[error(
        "{queries} queries may or may not have been billed: the teacher keeps failing after they were sent: {cause}"
    )]
    InDoubt {
        /// Queries of unknown fate since the gateway started.
        queries: u64,
        /// The last failure.
        cause: String,
    },
    /// The teacher's answers are of no use, and were paid for.
    #[error("{queries} queries were billed without a usable answer: {cause}")]
    Useless {
        /// Queries of this request that were billed in vain.
        queries: usize,
        /// What is wrong with the answer.
        cause: String,
    },
    /// A reference does not name the bytes that this gateway would send.
    #[error("{sample:?} is not the image that was chosen: expected key {expected}, found {found}")]
    Foreign {
        /// Sample of the reference.
        sample: Sample,
        /// Key of the reference.
        expected: String,
        /// Key of the bytes here, or why there are none.
        found: String,
    },
    /// The ledger failed: nothing more may be sent.
    #[error("the ledger failed while the teacher was asked")]
    Ledger(#[from] LedgerError),
    /// Our own mistake.
    #[error("a connection of the gateway ended without a result")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Asks one teacher what the queue says.
pub struct Gateway {
    teacher: Arc<dyn Teacher>,
    queue: Arc<dyn Queue>,
    ledger: Ledger,
    sources: GatewaySources,
    batch: usize,
    concurrency: u32,
    rate: Option<f64>,
    patience: Duration,
}

impl Gateway {
    /// A gateway that asks `teacher` as `spec` says: so many images a request (never more than the
    /// teacher takes, or a second allows), so many requests at once, so many images a second.
    #[must_use]
    pub fn new(
        teacher: Arc<dyn Teacher>,
        queue: Arc<dyn Queue>,
        ledger: Ledger,
        sources: GatewaySources,
        spec: &TeacherSpec,
    ) -> Self {
        let takes = teacher.info().max_batch.unwrap_or(u32::MAX);
        // `as` saturates: a rate above 2^32 is no limit to a batch.
        let second = spec.rate_per_second.map_or(u32::MAX, |rate| rate as u32);
        Self {
            batch: spec.batch.min(takes).min(second).max(1) as usize,
            concurrency: spec.concurrency,
            rate: spec.rate_per_second,
            patience: PATIENCE,
            teacher,
            queue,
            ledger,
            sources,
        }
    }

    /// Gives up on a teacher that has been away for `patience` instead of 60 s.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks until `shutdown` or the queue is closed. Requests on their way are answered and settled
    /// before this returns.
    ///
    /// # Errors
    /// The first thing that makes asking on unwise.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        events: mpsc::Sender<GatewayEvent>,
    ) -> Result<(), GatewayError> {
        let concurrency = self.concurrency;
        // A token of our own: one failing connection stops the others and nobody else.
        let stop = shutdown.child_token();
        let shared = Arc::new(Shared {
            control: Mutex::new(Control {
                pace: Pace::new(self.rate, Instant::now()),
                breaker: Breaker::new(self.patience),
            }),
            alone: tokio::sync::RwLock::new(()),
            name: RandomState::new().hash_one(std::process::id()),
            requests: AtomicU64::new(0),
            gateway: self,
            stop: stop.clone(),
            events,
        });
        let mut connections = JoinSet::new();
        for _ in 0..concurrency {
            connections.spawn(shared.clone().serve());
        }
        let mut outcome = Ok(());
        while let Some(ended) = connections.join_next().await {
            if let Err(error) = ended.map_err(GatewayError::from).and_then(|served| served) {
                stop.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }
}

/// What the connections of one gateway share.
struct Shared {
    gateway: Gateway,
    control: Mutex<Control>,
    /// Held for writing by a request that must be the only one under way.
    alone: tokio::sync::RwLock<()>,
    /// Random: no two gateways have the same.
    name: u64,
    /// So many requests were made.
    requests: AtomicU64,
    stop: CancellationToken,
    events: mpsc::Sender<GatewayEvent>,
}

struct Control {
    pace: Pace,
    breaker: Breaker,
}

impl Shared {
    /// One connection: request after request until stopped.
    async fn serve(self: Arc<Self>) -> Result<(), GatewayError> {
        while self.wait_while_paused().await {
            let lease = self.gateway.queue.lease(self.gateway.batch);
            let leased = tokio::select! {
                () = self.stop.cancelled() => break,
                leased = lease => leased,
            };
            match leased {
                Ok(leases) => self.ask(leases).await?,
                Err(QueueError::Closed) => break,
            }
        }
        Ok(())
    }

    fn next_request(&self) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestId(u128::from(self.name) << 64 | u128::from(number))
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // A panic elsewhere leaves numbers behind that are still sound.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false` when the gateway stops. No lease is held meanwhile: somebody else may serve it.
    async fn wait_while_paused(&self) -> bool {
        loop {
            let until = self.control().pace.paused();
            if until <= Instant::now() {
                return !self.stop.is_cancelled();
            }
            if !self.sleep_until(until).await {
                return false;
            }
        }
    }

    /// `false` when the gateway stops.
    async fn sleep_until(&self, until: Instant) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(until) => true,
        }
    }

    /// Displays may lag; the teacher may not.
    fn tell(&self, event: GatewayEvent) {
        let _ = self.events.try_send(event);
    }
}
