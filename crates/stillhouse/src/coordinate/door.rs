//! The one address of a job: who comes proves to know its token and says what for. The job directory says
//! where it is while the job runs. Where that address speaks TLS, processes of this machine have a loopback
//! address of their own, without: they need no certificate, and nothing that they say leaves the machine.

use std::fs::Permissions;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use stillhouse_protocol::codec;
use stillhouse_runtime::link::{Connection, Identity, Listener, Purpose};
use stillhouse_runtime::process;
use stillhouse_runtime::secret::{SecretError, TOKEN_FILE};
use stillhouse_runtime::{Secret, atomic_file};
use tokio::sync::mpsc;

use crate::chaos::order::MAX_ORDER_BYTES;
use crate::desk::serve::MAX_QUESTION_BYTES;
use crate::failure::{Failure, Kind};
use crate::job_dir::JobDir;
use crate::watch::MAX_SIGHT_BYTES;
use crate::watch::client::{WHEREABOUTS, Whereabouts};

/// Where the system chooses a port for processes of this machine alone.
const LOOPBACK: &str = "127.0.0.1:0";
/// Links that wait to be welcomed.
const WAITING: usize = 64;

/// Where workers and gateways come in.
pub(super) struct Door {
    /// Where processes of this machine reach it, without TLS.
    pub(super) nearby: SocketAddr,
    /// What they must know.
    pub(super) secret: Secret,
    /// Links of workers.
    pub(super) workers: mpsc::Receiver<Connection>,
    /// Links of gateways.
    pub(super) gateways: mpsc::Receiver<Connection>,
    /// Links of watchers.
    pub(super) watchers: mpsc::Receiver<Connection>,
    /// Links of those who disturb the job on purpose.
    pub(super) tormentors: mpsc::Receiver<Connection>,
}

impl Door {
    /// Listens at `listen`, under TLS when there is a certificate, or else on loopback for this job's own processes. Of a job
    /// that `allows_chaos`, all links can be cut and slowed.
    ///
    /// # Errors
    /// When the token is of no use, or nobody can listen there.
    pub(super) async fn open(
        listen: Option<&str>,
        identity: Option<Identity>,
        dir: &JobDir,
        allows_chaos: bool,
    ) -> Result<Self, Failure> {
        let secret = token(dir, listen.is_some())?;
        let is_under_tls = identity.is_some();
        let (listener, address) = listen_at(listen.unwrap_or(LOOPBACK), &secret).await?;
        let mut listeners = vec![listener.under(identity)];
        if listen.is_some() {
            tracing::info!(%address, tls = is_under_tls, "workers and gateways may join");
        }
        let mut nearby = near(address);
        if is_under_tls {
            let (listener, address) = listen_at(LOOPBACK, &secret).await?;
            listeners.push(listener);
            nearby = address;
        }
        let (worker_sender, workers) = mpsc::channel(WAITING);
        let (gateway_sender, gateways) = mpsc::channel(WAITING);
        let (watcher_sender, watchers) = mpsc::channel(WAITING);
        let (tormentor_sender, tormentors) = mpsc::channel(WAITING);
        let senders = [worker_sender, gateway_sender, watcher_sender, tormentor_sender];
        for listener in listeners {
            let listener = if allows_chaos { listener.reined() } else { listener };
            tokio::spawn(admit(listener, senders.clone()));
        }
        let whereabouts = Whereabouts {
            address: nearby,
            process: process::Identity::own().ok(),
        };
        let text = serde_json::to_vec(&whereabouts).expect("an address and a number");
        dir.write(WHEREABOUTS, &text)?;
        Ok(Self {
            nearby,
            secret,
            workers,
            gateways,
            watchers,
            tormentors,
        })
    }
}

async fn listen_at(at: &str, secret: &Secret) -> Result<(Listener, SocketAddr), Failure> {
    let listener = Listener::bind(at, secret.clone(), bound).await;
    let listener =
        listener.map_err(|error| Failure::new(Kind::Usage, error).context(format!("cannot listen at {at}")))?;
    let address = listener.local_addr();
    let address = address.map_err(|error| Failure::new(Kind::Internal, error))?;
    Ok((listener, address))
}

/// `address` for processes of this host.
fn near(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Longest frame of a link.
fn bound(purpose: Purpose) -> usize {
    match purpose {
        Purpose::Worker => codec::MAX_MESSAGE_BYTES,
        Purpose::Gateway => MAX_QUESTION_BYTES,
        Purpose::Watcher => MAX_SIGHT_BYTES,
        Purpose::Tormentor => MAX_ORDER_BYTES,
    }
}

/// Shows everybody to those who serve them, until workers are served no more.
async fn admit(mut listener: Listener, senders: [mpsc::Sender<Connection>; 4]) {
    let [workers, gateways, watchers, tormentors] = senders;
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = workers.closed() => return,
        };
        let (peer, purpose) = (connection.peer(), connection.purpose());
        let to = match purpose {
            Purpose::Worker => &workers,
            Purpose::Gateway => &gateways,
            Purpose::Watcher => &watchers,
            Purpose::Tormentor => &tormentors,
        };
        if to.send(connection).await.is_err() {
            tracing::warn!(%peer, ?purpose, "sent away: this job has no use for it now");
        }
    }
}

/// The job's token: of the environment when others are to join, or the one in the job directory, which
/// is drawn once so that they find their way back to a coordinator that was started again.
fn token(dir: &JobDir, is_for_others: bool) -> Result<Secret, Failure> {
    let refused = |error: SecretError| Failure::new(Kind::Usage, error);
    match Secret::from_env() {
        Ok(given) if is_for_others => return Ok(given),
        Err(error) if is_for_others && !matches!(error, SecretError::Missing) => return Err(refused(error)),
        _ => {}
    }
    let path = dir.path().join("token");
    if !path.exists() {
        let secret = Secret::generate().map_err(|error| Failure::new(Kind::Internal, error))?;
        let written = atomic_file::write_with(&path, |file| {
            // Before it holds anything: its owner alone may read it.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(secret.to_hex().as_bytes())
        });
        written.map_err(|error| Failure::new(Kind::Storage, error))?;
    }
    if is_for_others {
        tracing::info!("workers and gateways need {TOKEN_FILE}={}", path.display());
    }
    Secret::from_file(path).map_err(refused)
}
