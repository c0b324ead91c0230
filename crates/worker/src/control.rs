//! How a newer command makes an older one stop: the link notes the newest fence, the computing
//! thread looks at it between batches and steps, and a rank that waits for its peers is woken.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use stillhouse_collective::AbortHandle;
use stillhouse_protocol::Fence;

/// Shared between the link and the computing thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    newest: AtomicU64,
    ring: Mutex<Option<(Fence, AbortHandle)>>,
}

impl Control {
    /// Notes that a command arrived; stops what an older one is doing.
    pub(crate) fn arrived(&self, fence: Fence) {
        self.0.newest.fetch_max(fence.0, Ordering::SeqCst);
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, abort)) = ring.as_ref().filter(|(of, _)| *of < fence) {
            abort.abort();
        }
    }

    /// Whether the command with `fence` may go on.
    pub(crate) fn goes_on(&self, fence: Fence) -> ControlFlow<()> {
        if self.0.newest.load(Ordering::SeqCst) > fence.0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Puts the ring of a training under this control; one that is void already is aborted.
    pub(crate) fn watch(&self, fence: Fence, abort: &AbortHandle) {
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        *ring = Some((fence, abort.clone()));
        if self.goes_on(fence).is_break() {
            abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_command_stops_an_older_one_and_its_ring() {
        let control = Control::default();
        let abort = AbortHandle::new();
        control.arrived(Fence(3));
        control.watch(Fence(3), &abort);
        assert!(control.goes_on(Fence(3)).is_continue() && !abort.is_aborted());
        control.arrived(Fence(4));
        assert!(control.goes_on(Fence(3)).is_break() && abort.is_aborted());
        let late = AbortHandle::new();
        control.watch(Fence(3), &late);
        assert!(late.is_aborted());
    }
}
