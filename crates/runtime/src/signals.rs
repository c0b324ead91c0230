//! The first signal drains, the second aborts.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the signals ask for. `abort` implies `drain`.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled by the first SIGINT or SIGTERM: finish what is paid for, take on nothing new.
    pub drain: CancellationToken,
    /// Cancelled by the second: leave at once, what is on disk suffices.
    pub abort: CancellationToken,
}

/// Begins to listen for SIGINT and SIGTERM, on a task that lives as long as the runtime.
///
/// From now on neither signal ends the process by itself.
///
/// # Errors
/// When the system refuses the handlers.
///
/// # Panics
/// Outside of a tokio runtime with signals enabled.
pub fn install() -> io::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    tokio::spawn(listen(interrupt, terminate, shutdown.clone()));
    Ok(shutdown)
}

async fn listen(mut interrupt: Signal, mut terminate: Signal, shutdown: Shutdown) {
    loop {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if shutdown.drain.is_cancelled() {
            tracing::warn!(signal = name, "aborting");
            shutdown.abort.cancel();
            return;
        }
        tracing::info!(signal = name, "draining; a second signal aborts");
        shutdown.drain.cancel();
    }
}
