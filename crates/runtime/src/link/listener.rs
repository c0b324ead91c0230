//! Accepts links, many handshakes at a time.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use super::{Connection, HANDSHAKE_DEADLINE, Identity, LinkError, Purpose, handshake, open, prepare};
use crate::secret::Secret;

/// Handshakes under way at once: strangers that stay silent cost this much memory and no more (under TLS up to
/// 64 KiB each, the longest message of its handshake), and hold the others up for at most one handshake deadline.
const MAX_UNPROVED: usize = 256;
/// Pause when the system has no socket to spare.
const OUT_OF_SOCKETS: Duration = Duration::from_millis(100);

/// Awaits links from those who know the job's secret.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    secret: Secret,
    identity: Option<Identity>,
    max_frame_bytes: fn(Purpose) -> usize,
    unproved: JoinSet<Result<Connection, LinkError>>,
    is_reined: bool,
}

impl Listener {
    /// Listens at `address`; port 0 lets the system choose. Frames are bounded by purpose.
    ///
    /// # Errors
    /// [`LinkError::Open`].
    pub async fn bind(
        address: impl ToSocketAddrs,
        secret: Secret,
        max_frame_bytes: fn(Purpose) -> usize,
    ) -> Result<Listener, LinkError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| LinkError::Open { source })?;
        Ok(Listener {
            listener,
            secret,
            identity: None,
            max_frame_bytes,
            unproved: JoinSet::new(),
            is_reined: false,
        })
    }

    /// From now on links run under TLS with this certificate, if there is one, and plain peers are turned away.
    #[must_use]
    pub fn under(mut self, identity: Option<Identity>) -> Listener {
        self.identity = identity;
        self
    }

    /// Holds [`Reins`](super::Reins) of every link from now on, so that a job can be tried.
    #[must_use]
    pub fn reined(mut self) -> Listener {
        self.is_reined = true;
        self
    }

    /// Returns the address with the port that was chosen.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns the next link whose other end has proved itself; others cost one log line each.
    ///
    /// Cancel safe: a call that is dropped loses nothing.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let room = self.unproved.len() < MAX_UNPROVED;
            tokio::select! {
                Some(proved) = self.unproved.join_next() => match proved {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => log_refused(&error),
                    Err(error) => tracing::error!(%error, "a handshake ended unexpectedly"),
                },
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, peer)) => self.examine(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a link");
                        sleep(OUT_OF_SOCKETS).await;
                    }
                },
            }
        }
    }

    /// Hands the links on as they come, at most `waiting` before they are taken, until nobody takes
    /// them any more.
    #[must_use]
    pub fn into_links(mut self, waiting: usize) -> mpsc::Receiver<Connection> {
        let (sender, links) = mpsc::channel(waiting);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    connection = self.accept() => drop(sender.send(connection).await),
                    () = sender.closed() => return,
                }
            }
        });
        links
    }

    fn examine(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let (secret, identity, is_reined) = (self.secret.clone(), self.identity.clone(), self.is_reined);
        let max_frame_bytes = self.max_frame_bytes;
        self.unproved.spawn(async move {
            prepare(&mut stream).map_err(|source| LinkError::Lost { peer, source })?;
            let proved = open::admit(stream, &secret, identity.as_ref());
            let (stream, purpose) = handshake::within(HANDSHAKE_DEADLINE, peer, proved).await?;
            let max_frame_bytes = max_frame_bytes(purpose);
            Ok(Connection::new(stream, peer, purpose, max_frame_bytes, is_reined))
        });
    }
}

fn log_refused(error: &LinkError) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(reason = %error, source, "dropped a link");
}
