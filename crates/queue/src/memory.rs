//! The queue of one process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::{Lease, LeaseId, Queue, QueueError, Reference};

/// A bounded queue in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    capacity: usize,
    state: Mutex<State>,
    /// Something arrived, or the queue was closed.
    arrived: Notify,
    /// Something left, or the queue was closed.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Reference>,
    leased: HashMap<LeaseId, Reference>,
    last_lease: u64,
    closed: bool,
}

impl MemoryQueue {
    /// A queue of at most `capacity` waiting references (at least 1): enough to keep every
    /// gateway busy, few enough that whoever pushes feels a teacher that is slow.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::default(),
            arrived: Notify::new(),
            left: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No invariant of the state spans a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what there is room for; `true` when all is in.
    fn admit(&self, references: &mut VecDeque<Reference>) -> Result<bool, QueueError> {
        let mut state = self.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        let room = self.capacity.saturating_sub(state.waiting.len()).min(references.len());
        state.waiting.extend(references.drain(..room));
        Ok(references.is_empty())
    }

    fn take(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        let mut state = self.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        let count = max.max(1).min(state.waiting.len());
        let taken: Vec<Reference> = state.waiting.drain(..count).collect();
        let lease = |reference| {
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            state.leased.insert(id, reference);
            Lease { id, reference }
        };
        Ok(taken.into_iter().map(lease).collect())
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, references: Vec<Reference>) -> Result<(), QueueError> {
        let mut references = VecDeque::from(references);
        loop {
            let left = self.left.notified();
            let done = self.admit(&mut references)?;
            // Each consumer woken takes what there is and wakes the next when some is left.
            self.arrived.notify_one();
            if done {
                return Ok(());
            }
            left.await;
        }
    }

    async fn lease(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            let arrived = self.arrived.notified();
            let leases = self.take(max)?;
            if !leases.is_empty() {
                if !self.state().waiting.is_empty() {
                    self.arrived.notify_one();
                }
                self.left.notify_waiters();
                return Ok(leases);
            }
            arrived.await;
        }
    }

    async fn ack(&self, leases: &[LeaseId]) {
        let mut state = self.state();
        for id in leases {
            state.leased.remove(id);
        }
    }

    async fn nack(&self, leases: &[LeaseId]) {
        {
            let mut state = self.state();
            for id in leases.iter().rev() {
                if let Some(reference) = state.leased.remove(id) {
                    state.waiting.push_front(reference);
                }
            }
        }
        self.arrived.notify_one();
    }

    async fn depth(&self) -> usize {
        let state = self.state();
        state.waiting.len() + state.leased.len()
    }

    fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
        self.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_queue_conforms() {
        crate::conformance::run(|capacity| async move { MemoryQueue::new(capacity) }).await;
    }
}
