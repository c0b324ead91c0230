//! Moves references between coordinator and gateways: about 64 bytes a query, never pixels.
//!
//! A queue is transport, not truth: it may be emptied at any moment, and is filled again from the
//! ledger. Delivery is at least once; the ledger refuses what must not be sent twice.
//!
//! | module | what it is |
//! |---|---|
//! | [`memory`] | the queue of one process |
//! | [`conformance`] | what every queue must do |

pub mod conformance;
pub mod memory;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

pub use memory::MemoryQueue;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// It takes and gives nothing any more.
    #[error("the queue is closed")]
    Closed,
}

/// Moves references to consumers, each to one of them at a time.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Adds references in order; waits while there is no room.
    ///
    /// # Errors
    /// When the queue is closed; some of them may have been added.
    async fn push(&self, references: Vec<Reference>) -> Result<(), QueueError>;

    /// Takes up to `max` references (at least 1), oldest first, waiting for the first. Dropping the
    /// future takes nothing.
    ///
    /// # Errors
    /// When the queue is closed.
    async fn lease(&self, max: usize) -> Result<Vec<Lease>, QueueError>;

    /// Ends deliveries: their references are never delivered again. Unknown ones are ignored.
    async fn ack(&self, leases: &[LeaseId]);

    /// Gives deliveries back: their references are the next to be delivered, in the order given.
    /// Unknown ones are ignored.
    async fn nack(&self, leases: &[LeaseId]);

    /// References waiting or delivered and not acknowledged.
    async fn depth(&self) -> usize;

    /// Gives back the deliveries that are older than `age`, oldest first: their consumers are taken
    /// for dead. Returns how many. One that is alive after all may go on; the ledger refuses the
    /// second to announce a permit. (`XAUTOCLAIM` in a Redis stream.)
    async fn reclaim(&self, age: Duration) -> usize;

    /// Ends the queue: whoever waits is told, and what waits is not delivered any more.
    fn close(&self);
}
