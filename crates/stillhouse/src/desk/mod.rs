//! The coordinator's side of asking: says who may send what and when, and settles what came of it.
//!
//! | module | what it is |
//! |---|---|
//! | [`pace`] | when the next images may be sent (pure) |
//! | [`breaker`] | when to stop asking (pure) |
//! | [`settle`] | what a request came to, and what that means for ledger, pace and breaker |
//! | [`message`] | what gateways and desk say to each other |
//! | [`serve`] | the desk for gateways in other processes |
//!
//! There is one desk for a teacher, however many gateways ask it: they share its rate, its pauses
//! and its circuit breaker. A gateway sends a request only after [`Desk::begin`] said so, which is
//! after the ledger has the permits as `sent` on disk (invariant I2), and then owes the desk a
//! [`Desk::settle`]. One that is lost before that leaves its queries in doubt, never free.
//!
//! The first request of a job's process, and the first after one of unknown fate, is one image sent
//! alone: a broken teacher costs one query, not a batch for every connection.

pub mod breaker;
pub mod message;
pub mod pace;
pub mod serve;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillhouse_core::job::{OnAmbiguous, TeacherSpec};
use stillhouse_ledger::{Ledger, LedgerError, Permit, RequestId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore, mpsc};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use breaker::Breaker;
use message::{Begun, GatewayId, Outcome, Settled};
use pace::Pace;

/// What happens at the desk, for displays and logs. Events are dropped when nobody reads them.
#[derive(Clone, Debug)]
pub enum DeskEvent {
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
    /// A gateway came.
    Joined {
        /// Who.
        gateway: GatewayId,
        /// On which host, as it says.
        host: String,
    },
    /// A gateway left or was lost.
    Left {
        /// Who.
        gateway: GatewayId,
        /// Why.
        cause: String,
    },
}

/// Why asking stopped. Every query is settled: what was paid for is on disk, what was not is
/// released, what is unknown is held as the job says.
#[derive(Debug, thiserror::Error)]
pub enum AskingStopped {
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
        /// Queries of unknown fate since the desk opened.
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
    /// References do not name the bytes that a gateway would send.
    #[error("references name other images than a gateway has: {cause}")]
    Foreign {
        /// What was expected and found.
        cause: String,
    },
    /// The ledger failed: nothing more may be sent.
    #[error("the ledger failed while the teacher was asked")]
    Ledger(#[from] LedgerError),
    /// Our own mistake.
    #[error("a connection of the gateway ended without a result")]
    Panicked(#[source] JoinError),
}

/// Where gateways ask before they send. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    classes: usize,
    policy: OnAmbiguous,
    control: Mutex<Control>,
    /// Held for writing by a request that must be the only one under way.
    alone: Arc<RwLock<()>>,
    /// Requests that the teacher gets at once.
    slots: Arc<Semaphore>,
    /// Nothing begins any more.
    closed: CancellationToken,
    stopped: Mutex<Option<AskingStopped>>,
    events: mpsc::Sender<DeskEvent>,
}

struct Control {
    pace: Pace,
    breaker: Breaker,
    under_way: HashMap<RequestId, UnderWay>,
}

/// A request that may have left and is not settled.
struct UnderWay {
    gateway: GatewayId,
    /// Those that were looked at; the ledger knows which of them it marked.
    permits: Vec<Permit>,
    since: Instant,
    /// Ends when the request is settled.
    _turn: Turn,
}

/// The right to have a request under way.
struct Turn {
    kind: TurnKind,
    _slot: OwnedSemaphorePermit,
}

enum TurnKind {
    /// With any others.
    Together { _guard: OwnedRwLockReadGuard<()> },
    /// One image, while nothing else is under way: the teacher has to prove itself.
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Desk {
    /// A desk for the teacher of `spec`: so many requests at once, so many images a second, among
    /// all gateways; for labels of `classes` classes.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        spec: &TeacherSpec,
        policy: OnAmbiguous,
        classes: usize,
        events: mpsc::Sender<DeskEvent>,
    ) -> Self {
        let patience = Duration::from_secs_f64(spec.patience_seconds);
        let control = Control {
            pace: Pace::new(spec.rate_per_second, Instant::now()),
            breaker: Breaker::new(patience),
            under_way: HashMap::new(),
        };
        let shared = Shared {
            ledger,
            classes,
            policy,
            control: Mutex::new(control),
            alone: Arc::default(),
            slots: Arc::new(Semaphore::new(spec.concurrency as usize)),
            closed: CancellationToken::new(),
            stopped: Mutex::new(None),
            events,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Asks whether `request` may be sent now with `permits`. Waits for a free slot and for the rate.
    /// Asking again with the same request, after an answer that was lost, gets the same answer and
    /// spends nothing more. Dropping the future before it is ready is safe.
    pub async fn begin(&self, gateway: GatewayId, request: RequestId, permits: &[Permit]) -> Begun {
        if let Some(before) = self.shared.considered(request) {
            return self.shared.mark(request, before).await;
        }
        if permits.is_empty() {
            return Begun::nothing();
        }
        let Some(turn) = self.shared.turn().await else {
            return Begun::Over;
        };
        let considered = match turn.kind {
            TurnKind::Alone { .. } => &permits[..1],
            TurnKind::Together { .. } => permits,
        };
        if let Err(refusal) = self.shared.wait_to_send(considered.len()).await {
            return refusal;
        }
        let under_way = UnderWay {
            gateway,
            permits: considered.to_vec(),
            since: Instant::now(),
            _turn: turn,
        };
        // Before the ledger hears of it: whatever happens to this call, the request is settled or
        // abandoned by name.
        {
            let mut control = self.shared.control();
            control.under_way.entry(request).or_insert(under_way);
            stillhouse_metrics::desk().in_flight.set(control.under_way.len() as f64);
        }
        self.shared.mark(request, considered.to_vec()).await
    }

    /// Settles what came of `request`: ledger first, then pace and breaker, then its turn ends.
    /// Settling again changes nothing. Must run to its end.
    pub async fn settle(&self, request: RequestId, outcome: Outcome) -> Settled {
        if let Err(stopped) = self.shared.settle(request, outcome).await {
            // Before the turn ends: no other request begins after the one that failed.
            self.stop(stopped);
        }
        self.shared.end(request);
        match self.shared.closed.is_cancelled() {
            true => Settled::Over,
            false => Settled::GoOn,
        }
    }

    /// A gateway is gone for good: what it had under way is in doubt.
    pub async fn abandon(&self, gateway: GatewayId) {
        let lost: Vec<(RequestId, Vec<Permit>)> = {
            let control = self.shared.control();
            let of_it = control
                .under_way
                .iter()
                .filter(|(_, under_way)| under_way.gateway == gateway);
            of_it
                .map(|(request, under_way)| (*request, under_way.permits.clone()))
                .collect()
        };
        for (request, permits) in lost {
            let cause = "its gateway was lost after it was sent";
            if let Err(error) = self.shared.ledger.ambiguous(request, permits, cause).await {
                self.stop(error.into());
            }
            self.shared.end(request);
        }
    }

    /// Ends asking for the reason given; the first reason counts.
    pub fn stop(&self, reason: AskingStopped) {
        self.shared.stopped().get_or_insert(reason);
        stillhouse_metrics::desk().stopped.set(1.0);
        self.shared.closed.cancel();
    }

    /// Lets nothing begin any more.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Waits until nothing begins any more.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Why asking stopped, once; `None` when it was closed in peace.
    #[must_use]
    pub fn take_reason(&self) -> Option<AskingStopped> {
        self.shared.stopped().take()
    }

    /// Whether a gateway has requests that are not settled.
    #[must_use]
    pub fn has_under_way(&self, gateway: GatewayId) -> bool {
        let control = self.shared.control();
        control.under_way.values().any(|under_way| under_way.gateway == gateway)
    }

    pub(crate) fn tell(&self, event: DeskEvent) {
        self.shared.tell(event);
    }
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        // A panic elsewhere leaves numbers behind that are still sound.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> MutexGuard<'_, Option<AskingStopped>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is settled or abandoned.
    fn end(&self, request: RequestId) {
        let mut control = self.control();
        control.under_way.remove(&request);
        stillhouse_metrics::desk().in_flight.set(control.under_way.len() as f64);
    }

    /// The permits of a request that began before.
    fn considered(&self, request: RequestId) -> Option<Vec<Permit>> {
        let control = self.control();
        control.under_way.get(&request).map(|before| before.permits.clone())
    }

    /// Has the ledger mark a request's permits as sent. The ledger gives the same answer again.
    async fn mark(&self, request: RequestId, permits: Vec<Permit>) -> Begun {
        let considered = permits.len() as u32;
        let accepted = match self.ledger.mark_sent(request, permits).await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.stopped().get_or_insert(error.into());
                self.closed.cancel();
                return Begun::Over;
            }
        };
        let mut control = self.control();
        if accepted.is_empty() {
            control.under_way.remove(&request);
        } else if let Some(under_way) = control.under_way.get_mut(&request) {
            under_way.since = Instant::now();
        }
        Begun::Send { considered, accepted }
    }

    /// `None` once the desk is closed.
    async fn turn(&self) -> Option<Turn> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            turn = self.next_turn() => Some(turn),
        }
    }

    async fn next_turn(&self) -> Turn {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        loop {
            let together = self.alone.clone().read_owned().await;
            if self.is_proven() {
                let kind = TurnKind::Together { _guard: together };
                return Turn { kind, _slot: slot };
            }
            drop(together);
            // Waits until every request under way is settled.
            let alone = self.alone.clone().write_owned().await;
            if !self.is_proven() {
                let kind = TurnKind::Alone { _guard: alone };
                return Turn { kind, _slot: slot };
            }
        }
    }

    fn is_proven(&self) -> bool {
        self.control().breaker.is_proven()
    }

    /// Waits for the rate.
    ///
    /// # Errors
    /// What to answer when the desk pauses or is closed.
    async fn wait_to_send(&self, n: usize) -> Result<(), Begun> {
        let _timed = stillhouse_metrics::desk().rate_seconds.start_timer();
        loop {
            let now = Instant::now();
            let (taken, paused) = {
                let pace = &mut self.control().pace;
                stillhouse_metrics::desk().rate.set(pace.rate());
                (pace.take(n, now), pace.paused())
            };
            if self.closed.is_cancelled() {
                return Err(Begun::Over);
            }
            match taken {
                Ok(()) => return Ok(()),
                Err(_) if paused > now => return Err(Begun::wait(paused - now)),
                Err(free) => tokio::select! {
                    () = self.closed.cancelled() => return Err(Begun::Over),
                    () = tokio::time::sleep_until(free) => {}
                },
            }
        }
    }

    /// Displays may lag; the teacher may not.
    fn tell(&self, event: DeskEvent) {
        let _ = self.events.try_send(event);
    }
}
