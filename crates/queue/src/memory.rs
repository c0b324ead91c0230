//! The queue of one process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// In order of delivery.
    leased: BTreeMap<LeaseId, (Instant, Reference)>,
    last_lease: u64,
    closed: bool,
}

impl State {
    /// Puts references in front, the first of `leases` foremost; returns how many there were.
    fn give_back(&mut self, leases: &[LeaseId]) -> usize {
        let before = self.leased.len();
        for id in leases.iter().rev() {
            if let Some((_, reference)) = self.leased.remove(id) {
                self.waiting.push_front(reference);
            }
        }
        before - self.leased.len()
    }
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
        let now = Instant::now();
        let lease = |reference| {
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            state.leased.insert(id, (now, reference));
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

    async fn ack(&self, leases: &[LeaseId]) -> Result<(), QueueError> {
        let mut state = self.state();
        for id in leases {
            state.leased.remove(id);
        }
        Ok(())
    }

    async fn nack(&self, leases: &[LeaseId]) -> Result<(), QueueError> {
        self.state().give_back(leases);
        self.arrived.notify_one();
        Ok(())
    }

    async fn depth(&self) -> Result<usize, QueueError> {
        let state = self.state();
        Ok(state.waiting.len() + state.leased.len())
    }

    async fn reclaim(&self, age: Duration) -> Result<usize, QueueError> {
        let reclaimed = {
            let mut state = self.state();
            let is_old = |(_, (since, _)): &(&LeaseId, &(Instant, Reference))| since.elapsed() >= age;
            let old: Vec<LeaseId> = state.leased.iter().filter(is_old).map(|(id, _)| *id).collect();
            state.give_back(&old)
        };
        self.arrived.notify_one();
        Ok(reclaimed)
    }

    async fn restart(&self) -> Result<(), QueueError> {
        let mut state = self.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        state.waiting.clear();
        state.leased.clear();
        self.left.notify_waiters();
        Ok(())
    }

    async fn discard(&self) -> Result<(), QueueError> {
        self.restart().await
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
    use crate::conformance::{Returned, references};

    #[tokio::test]
    async fn the_memory_queue_conforms() {
        crate::conformance::run(Returned::First, |capacity| async move { MemoryQueue::new(capacity) }).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_memory_queue_conforms_on_several_threads() {
        crate::conformance::run(Returned::First, |capacity| async move { MemoryQueue::new(capacity) }).await;
    }

    #[tokio::test]
    async fn a_full_queue_makes_whoever_pushes_wait() {
        let queue = MemoryQueue::new(3);
        let push = queue.push(references(0..5));
        tokio::pin!(push);
        tokio::select! {
            biased;
            pushed = &mut push => panic!("two of five found no room: {pushed:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(queue.depth().await, Ok(3));
        let leases = queue.lease(2).await.expect("open");
        assert_eq!(leases.len(), 2);
        push.await.expect("there is room now");
        assert_eq!(queue.depth().await, Ok(5));
    }

    #[tokio::test]
    async fn closing_tells_whoever_waits_to_push() {
        let queue = MemoryQueue::new(1);
        let push = queue.push(references(0..2));
        let close = async { queue.close() };
        let (pushed, ()) = tokio::join!(biased; push, close);
        assert_eq!(pushed, Err(QueueError::Closed));
    }
}
