//! Ends a ring from another thread.

use std::{
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Makes the current and every later operation of one [`Ring`](crate::Ring), and of what is built on it, fail with
/// [`CollectiveError::Aborted`](crate::CollectiveError::Aborted).
///
/// A handle belongs to one ring and stays aborted. It does not keep the ring's sockets open.
#[derive(Clone, Debug, Default)]
pub struct AbortHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    aborted: AtomicBool,
    /// Weak, so that dropping the ring closes its sockets though a handle is still around.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
    /// What else ends when the world is aborted.
    communicator: Mutex<Option<nccl_rs::AbortHandle>>,
}

impl AbortHandle {
    /// Makes a handle for a ring that is yet to be built; see [`Ring::join`](crate::Ring::join).
    #[must_use]
    pub fn new() -> AbortHandle {
        AbortHandle::default()
    }

    /// Ends the ring: wakes a blocked operation, and lets the neighbours see the connection close.
    pub fn abort(&self) {
        self.shared.aborted.store(true, Ordering::SeqCst);
        self.close();
        let communicator = self
            .shared
            .communicator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(communicator) = communicator {
            communicator.abort();
        }
    }

    /// Whether [`abort`](Self::abort) was called.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.shared.aborted.load(Ordering::SeqCst)
    }

    /// Puts a socket under this handle's power; one that comes after the abort is shut at once.
    pub(crate) fn watch(&self, socket: &Arc<TcpStream>) {
        let mut sockets = self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|known| known.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
        if self.is_aborted() {
            shut(socket);
        }
    }

    /// Puts a communicator under this handle's power; one that comes after the abort ends at once.
    pub(crate) fn watch_communicator(&self, communicator: nccl_rs::AbortHandle) {
        let mut known = self.shared.communicator.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_aborted() {
            communicator.abort();
        } else {
            *known = Some(communicator);
        }
    }

    /// Shuts every watched socket, which tells the neighbours, without claiming an abort.
    pub(crate) fn close(&self) {
        let sockets = self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            shut(&socket);
        }
    }
}

/// Shuts both directions. The only failure is that the peer was faster, which serves as well.
fn shut(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both);
}
