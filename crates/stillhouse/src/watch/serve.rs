//! The coordinator's side: tells every watcher what changed, and nobody waits for a slow one.

use std::sync::Arc;
use std::time::Duration;

use stillhouse_runtime::link::{Connection, FrameSender};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Now, Sight};
use crate::report::summary::Summary;

/// Watchers at once; more are sent away.
const WATCHERS: usize = 64;
/// Least time between two looks at what goes on.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last look may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What watchers see. Cheap to change: only the newest state is kept.
#[derive(Debug)]
pub struct Window {
    summary: watch::Sender<Option<Arc<Summary>>>,
    now: watch::Sender<Now>,
    closing: CancellationToken,
    seats: Arc<Semaphore>,
}

impl Window {
    /// Serves watchers whose links come from `watchers`, as long as this lives.
    #[must_use]
    pub fn open(watchers: mpsc::Receiver<Connection>) -> Self {
        let (summary, summaries) = watch::channel(None);
        let (now, nows) = watch::channel(Now::default());
        let (closing, seats) = (CancellationToken::new(), Arc::new(Semaphore::new(WATCHERS)));
        let service = Service {
            summaries,
            nows,
            closing: closing.clone(),
        };
        tokio::spawn(service.serve(watchers, seats.clone()));
        Self {
            summary,
            now,
            closing,
            seats,
        }
    }

    /// What is seen through it, at any time from now on.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            summary: self.summary.subscribe(),
            now: self.now.subscribe(),
        }
    }

    /// Shows every watcher the last summary, and lets it go.
    pub async fn close(&self) {
        self.closing.cancel();
        // One that does not look is not waited for.
        let _all = tokio::time::timeout(FAREWELL, self.seats.acquire_many(WATCHERS as u32)).await;
    }

    /// The summary has changed.
    pub fn summary(&self, summary: &Summary) {
        self.summary.send_replace(Some(Arc::new(summary.clone())));
    }

    /// What goes on has changed.
    pub fn change(&self, change: impl FnOnce(&mut Now)) {
        self.now.send_modify(change);
    }
}

/// A way to look through a window without a link.
#[derive(Clone, Debug)]
pub struct Glance {
    summary: watch::Receiver<Option<Arc<Summary>>>,
    now: watch::Receiver<Now>,
}

impl Glance {
    /// The newest summary; none before the first.
    #[must_use]
    pub fn summary(&self) -> Option<Arc<Summary>> {
        self.summary.borrow().clone()
    }

    /// What goes on.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now.borrow().clone()
    }

    /// Waits until a step is done; `false` when the job is over. Cancel safe.
    pub async fn stepped(&mut self) -> bool {
        self.summary.changed().await.is_ok()
    }

    /// Waits until summary or moment are others than at the last call; `false` when the job is over. Cancel safe.
    pub async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.summary.changed() => changed,
            changed = self.now.changed() => changed,
        };
        changed.is_ok()
    }
}

/// What each watcher is shown.
#[derive(Clone)]
struct Service {
    summaries: watch::Receiver<Option<Arc<Summary>>>,
    nows: watch::Receiver<Now>,
    closing: CancellationToken,
}

impl Service {
    async fn serve(self, mut watchers: mpsc::Receiver<Connection>, seats: Arc<Semaphore>) {
        while let Some(connection) = watchers.recv().await {
            let Ok(seat) = seats.clone().try_acquire_owned() else {
                tracing::warn!(peer = %connection.peer(), "a watcher was sent away: {WATCHERS} are looking on");
                continue;
            };
            let service = self.clone();
            tokio::spawn(async move {
                service.show(connection).await;
                drop(seat);
            });
        }
    }

    /// Shows everything to one watcher until it leaves or the job does.
    async fn show(mut self, connection: Connection) {
        let (sender, mut receiver) = connection.split();
        self.summaries.mark_changed();
        self.nows.mark_changed();
        loop {
            let sight = tokio::select! {
                Ok(()) = self.summaries.changed() => self.summary(),
                Ok(()) = self.nows.changed() => Some(Sight::Now(self.nows.borrow_and_update().clone())),
                () = self.closing.cancelled() => break,
                // A watcher says nothing; whatever comes is its end.
                _ = receiver.recv() => return,
            };
            if let Some(sight) = sight
                && tell(&sender, &sight).await.is_none()
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(last) = self.summary() {
            // It may be gone, and then nobody misses it.
            let _told = tell(&sender, &last).await;
        }
    }

    fn summary(&mut self) -> Option<Sight> {
        let summary = self.summaries.borrow_and_update();
        summary
            .as_ref()
            .map(|summary| Sight::Summary(Box::new((**summary).clone())))
    }
}

/// `None` when the watcher is gone.
async fn tell(sender: &FrameSender, sight: &Sight) -> Option<()> {
    let frame = serde_json::to_vec(sight).expect("sights have only text keys");
    sender.send(frame).await.ok()?;
    // So that a slow watcher gets the newest state next, and not all those between.
    sender.flush().await.ok()
}
