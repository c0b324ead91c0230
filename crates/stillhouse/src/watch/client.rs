//! The watcher's side of the link, and where a job of this machine is found.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::args::ConnectArgs;
use stillhouse_runtime::link::{self, FrameReceiver, FrameSender, LinkError, Purpose, Target};
use stillhouse_runtime::process::Identity;

use super::{MAX_SIGHT_BYTES, Now, Sight};
use crate::failure::{Failure, Kind};
use crate::report::summary::Summary;

/// How long a coordinator may take to tell the first time.
const FIRST: Duration = Duration::from_secs(5);

/// `coordinator.json`: how a running job is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whereabouts {
    /// Where the coordinator listens, as this host reaches it: always without TLS.
    pub address: SocketAddr,
    /// Its process.
    #[serde(flatten)]
    pub process: Option<Identity>,
}

impl Whereabouts {
    /// Those of the coordinator that runs the job in `dir` on this machine, or that was killed there; `None` when there are
    /// none.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        let text = std::fs::read(dir.join(WHEREABOUTS)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// Name of that file in the job directory.
pub const WHEREABOUTS: &str = "coordinator.json";

/// The coordinator that runs the job in `dir` on this machine; `None` when none does.
#[must_use]
pub fn coordinator_of(dir: &Path) -> Option<Target> {
    let whereabouts = Whereabouts::of(dir)?;
    let secret = Secret::from_file(dir.join("token"))
        .or_else(|_| Secret::from_env())
        .ok()?;
    Some(Target::plain(whereabouts.address, secret))
}

/// The coordinator at `address`, with the token of the environment.
///
/// # Errors
/// When there is no token, or the authority to trust is of no use.
pub fn coordinator_at(address: &str, tls: &ConnectArgs) -> Result<Target, Failure> {
    let secret = Secret::from_env().map_err(|error| {
        Failure::new(Kind::Usage, error).hint("the token of a job is in the file `token` of its directory")
    })?;
    tls.target(address, secret)
        .map_err(|error| Failure::new(Kind::Usage, error))
}

/// A link to a coordinator, and what was seen over it so far.
pub struct Watcher {
    receiver: FrameReceiver,
    /// Dropping it ends the link.
    _sender: FrameSender,
    /// The newest summary.
    pub summary: Option<Summary>,
    /// What goes on.
    pub now: Now,
    /// Whether that was told yet.
    is_told: bool,
}

impl Watcher {
    /// Makes the link and waits for the first look.
    ///
    /// # Errors
    /// When nobody is there, the token is another, or nothing is told in time.
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        let link = link::connect(target, Purpose::Watcher, MAX_SIGHT_BYTES).await;
        let connection = link.map_err(|error| unreachable_at(&target.address, error))?;
        let (sender, receiver) = connection.split();
        let mut watcher = Self {
            receiver,
            _sender: sender,
            summary: None,
            now: Now::default(),
            is_told: false,
        };
        let first = async {
            while watcher.summary.is_none() || !watcher.is_told {
                if !watcher.look().await? {
                    return Err(Failure::message(Kind::Internal, "the coordinator left"));
                }
            }
            Ok(())
        };
        match tokio::time::timeout(FIRST, first).await {
            Ok(told) => told.map(|()| watcher),
            Err(_) => Err(Failure::message(
                Kind::Internal,
                format!(
                    "the coordinator at {} told nothing in {} s",
                    target.address,
                    FIRST.as_secs()
                ),
            )),
        }
    }

    /// Waits for a change; `false` when the coordinator left. Cancel safe.
    ///
    /// # Errors
    /// When what it says makes no sense.
    pub async fn look(&mut self) -> Result<bool, Failure> {
        let Ok(Some(frame)) = self.receiver.recv().await else {
            return Ok(false);
        };
        let sight = serde_json::from_slice(&frame)
            .map_err(|error| Failure::new(Kind::Internal, error).context("the coordinator is of another version"))?;
        match sight {
            Sight::Summary(summary) => self.summary = Some(*summary),
            Sight::Now(now) => {
                self.now = now;
                self.is_told = true;
            }
        }
        Ok(true)
    }
}

fn unreachable_at(address: &str, error: LinkError) -> Failure {
    let is_refused = matches!(error, LinkError::Refused { .. });
    let failure = Failure::new(Kind::Usage, error).context(format!("cannot watch the coordinator at {address}"));
    failure.maybe_hint(is_refused.then(|| "the token of a job is in the file `token` of its directory".to_owned()))
}
