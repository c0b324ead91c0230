//! What a link is made to bear on purpose, when a job is tried: it is cut, or slow for a while.
//!
//! Both directions ask before they move anything. A link without [`Reins`] asks nobody.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What is done to a link at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Burden {
    #[default]
    None,
    /// Every read and every write waits for `pause` first.
    Slow { pause: Duration, until: Instant },
    /// Nothing moves any more, and this end closes.
    Cut,
}

/// What makes a link bear something. Clones are of the same link.
#[derive(Clone, Debug)]
pub struct Reins(watch::Sender<Burden>);

impl Reins {
    /// Cuts the link, wherever in a frame it is; this end closes its connection.
    pub fn cut(&self) {
        self.0.send_replace(Burden::Cut);
    }

    /// Makes every read and every write of this end wait for `pause`, for `time` from now on.
    pub fn slow(&self, pause: Duration, time: Duration) {
        let slow = Burden::Slow {
            pause,
            until: Instant::now() + time,
        };
        self.0.send_if_modified(|burden| {
            let is_whole = *burden != Burden::Cut;
            if is_whole {
                *burden = slow;
            }
            is_whole
        });
    }

    /// Whether the link has ended, or was cut.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_closed() || *self.0.borrow() == Burden::Cut
    }
}

/// What one direction of a link bears.
#[derive(Clone, Debug, Default)]
pub(super) struct Strain(Option<watch::Receiver<Burden>>);

impl Strain {
    /// Reins, and what their link bears.
    pub(super) fn reined() -> (Reins, Strain) {
        let (sender, receiver) = watch::channel(Burden::None);
        (Reins(sender), Strain(Some(receiver)))
    }

    /// Waits as long as whatever is to move has to. Cancel safe.
    ///
    /// # Errors
    /// When the link is cut.
    pub(super) async fn pass(&mut self) -> io::Result<()> {
        let Some(burden) = &self.0 else { return Ok(()) };
        let now = *burden.borrow();
        match now {
            Burden::None => Ok(()),
            Burden::Slow { pause, until } if Instant::now() < until => tokio::select! {
                () = sleep(pause) => Ok(()),
                cut = self.is_cut() => Err(cut),
            },
            Burden::Slow { .. } => Ok(()),
            Burden::Cut => Err(cut()),
        }
    }

    /// Waits until the link is cut. Cancel safe.
    pub(super) async fn is_cut(&mut self) -> io::Error {
        if let Some(burden) = &mut self.0
            && burden.wait_for(|burden| *burden == Burden::Cut).await.is_ok()
        {
            return cut();
        }
        pending().await
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the link was cut on purpose")
}
