//! Moves references between coordinator and gateways: about 64 bytes a query, never pixels.
//!
//! A queue is transport, not truth: it may be emptied at any moment, and is filled again from the
//! ledger. Delivery is at least once; the ledger refuses what must not be sent twice.
//!
//! | module | what it is |
//! |---|---|
//! | [`memory`] | the queue of one process |
//! | [`stream`] | the queue of a cluster, in Redis |
//! | [`conformance`] | what every queue must do |

pub mod conformance;
pub mod memory;
pub mod stream;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

pub use memory::MemoryQueue;
pub use stream::{RedisConfig, RedisQueue};

/// One query to be asked: which image, under which permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// Name of the query.
    pub key: Key,
    /// What to render.
    pub sample: Sample,
    /// Epoch of the permit.
    pub epoch: u64,
    /// Charge of the permit.
    pub charge: u32,
    /// For whom.
    pub arm: Arm,
    /// In which round: names the trace that the query belongs to, and nothing else.
    pub round: u32,
}

/// Names a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A reference that a consumer holds until it acknowledges or gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// This delivery.
    pub id: LeaseId,
    /// What was delivered.
    pub reference: Reference,
}

/// Why a queue cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// It takes and gives nothing any more.
    #[error("the queue is closed")]
    Closed,
    /// References that were in it may be gone: begin anew with [`Queue::restart`] and push all that
    /// is outstanding.
    #[error("the queue lost its content: fill it again")]
    Lost,
    /// It belongs to another, newer dispatcher: stop.
    #[error("the queue belongs to another dispatcher")]
    Superseded,
    /// It cannot be reached now: try again later. What was asked may have been done; doing it again
    /// does no harm.
    #[error("the queue cannot be reached: {cause}")]
    Unavailable {
        /// What happened; no secrets.
        cause: String,
    },
    /// It cannot be used as it is configured: mend that.
    #[error("the queue cannot be used: {reason}")]
    Refused {
        /// What is wrong, and the mend; no secrets.
        reason: String,
    },
}

/// Moves references to consumers, each to one of them at a time.
///
/// Any call may fail with [`QueueError::Unavailable`] when the queue is elsewhere, and may then be
/// repeated: at worst a reference is delivered twice. Leasing waits instead.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Adds references in order; waits while there is no room.
    ///
    /// # Errors
    /// When the queue is closed, lost its content or has another dispatcher; some of them may have
    /// been added.
    async fn push(&self, references: Vec<Reference>) -> Result<(), QueueError>;

    /// Takes up to `max` references (at least 1), oldest first, waiting for the first, however
    /// long the queue is away or empty. Dropping the future takes nothing.
    ///
    /// # Errors
    /// When the queue is closed.
    async fn lease(&self, max: usize) -> Result<Vec<Lease>, QueueError>;

    /// Ends deliveries: their references are never delivered again, unless the queue fails.
    /// Unknown ones are ignored.
    ///
    /// # Errors
    /// When the queue cannot be told. It will be told with the next call of this kind, with
    /// whatever leases.
    async fn ack(&self, leases: &[LeaseId]) -> Result<(), QueueError>;

    /// Gives deliveries back: their references are delivered again, in the order given; before all
    /// others where the queue has a front. Unknown ones are ignored.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    async fn nack(&self, leases: &[LeaseId]) -> Result<(), QueueError>;

    /// References waiting or delivered and not acknowledged. Never fewer than there are: what other
    /// consumers have just settled may count still.
    ///
    /// # Errors
    /// When the queue lost its content, has another dispatcher or cannot be reached.
    async fn depth(&self) -> Result<usize, QueueError>;

    /// Gives back the deliveries that are older than `age`, oldest first: their consumers are taken
    /// for dead. Returns how many. One that is alive after all may go on; the ledger refuses the
    /// second to announce a permit.
    ///
    /// # Errors
    /// When the queue cannot be reached.
    async fn reclaim(&self, age: Duration) -> Result<usize, QueueError>;

    /// Forgets everything, deliveries too, and begins anew: to be followed by pushing all that is
    /// outstanding.
    ///
    /// # Errors
    /// When the queue is closed, has another dispatcher or cannot be reached.
    async fn restart(&self) -> Result<(), QueueError>;

    /// Ends the queue for good, when nothing is outstanding any more: nothing of it stays on a server.
    ///
    /// # Errors
    /// When it has another dispatcher or cannot be reached.
    async fn discard(&self) -> Result<(), QueueError>;

    /// Ends the queue: whoever waits is told, and what waits is not delivered any more.
    fn close(&self);
}
