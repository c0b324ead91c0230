//! The live page of a running job, served by its coordinator: the page that `report.html` becomes, and what goes on right
//! now. It needs nothing but the coordinator, sends nothing elsewhere, and changes nothing without the job's token.
//!
//! | module | what it is |
//! |---|---|
//! | [`painter`] | draws the parts that changed, once for everybody who looks |
//! | [`serve`] | HTTP: the page, its changes as server-sent events, `POST /stop` |

mod painter;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stillhouse_runtime::Secret;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::watch::serve::Glance;
use painter::Painter;

/// Pages open at once; more are told to come back.
const LOOKERS: usize = 64;
/// How long the last look may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the page is made of.
#[derive(Debug)]
pub struct Parts {
    /// The job.
    pub inputs: Arc<Inputs>,
    /// Its directory.
    pub dir: PathBuf,
    /// What goes on.
    pub glance: Glance,
    /// Who may stop it.
    pub secret: Secret,
    /// Stops it, where the page may.
    pub stop: Option<CancellationToken>,
}

/// The page, as long as the job runs.
#[derive(Debug)]
pub struct Web {
    closing: CancellationToken,
    seats: Arc<Semaphore>,
}

impl Web {
    /// Serves the page at `address`.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn open(address: SocketAddr, parts: Parts) -> Result<Self, Failure> {
        let failed = |error| {
            Failure::new(Kind::Usage, error)
                .context(format!("the page cannot be served at {address}"))
                .hint("name another address with --web HOST:PORT; with port 0 a free one is taken")
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let web = Self {
            closing: CancellationToken::new(),
            seats: Arc::new(Semaphore::new(LOOKERS)),
        };
        let site = serve::Site {
            glance: parts.glance.clone(),
            secret: parts.secret,
            stop: parts.stop,
            closing: web.closing.clone(),
            seats: web.seats.clone(),
            is_local: address.ip().is_loopback(),
            painter: Arc::new(Painter::new(parts.inputs, parts.dir, parts.glance).into()),
        };
        tracing::info!("the job can be watched at http://{address}/");
        tokio::spawn(serve::keep_ready(site.clone()));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, serve::router(site)).await {
                tracing::warn!(%error, "the page is not served any more");
            }
        });
        Ok(web)
    }

    /// Shows everybody how the job ended, and lets them go.
    pub async fn close(self) {
        self.closing.cancel();
        // One that does not look is not waited for.
        let _all = tokio::time::timeout(FAREWELL, self.seats.acquire_many(LOOKERS as u32)).await;
    }
}
