//! Authenticated TCP links that carry bounded frames, under TLS where that is wanted.
//!
//! A link begins with a handshake in which both ends prove that they know the job's [`Secret`]
//! (see the table below); nothing else is read before. Then each direction is a sequence of
//! frames, whose content is the callers' affair:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | length of the payload, `u32` little endian, at most the link's `max_frame_bytes` |
//! | 4 | length | payload |
//!
//! The handshake's messages are frames too, of these lengths and no other (so at most 128):
//!
//! | message | from | payload bytes | content |
//! |---|---|---|---|
//! | hello | connector | 41 | `SHLINK02`, [`Purpose`] as a letter, nonce `[32]` |
//! | challenge | acceptor | 64 | nonce `[32]`, proof `[32]` as `A` |
//! | response | connector | 32 | proof `[32]` as `C` |
//! | welcome | acceptor | 1 | `1` |
//!
//! A proof is BLAKE3, keyed with a key derived from the secret for this use alone, over the role's
//! letter, the purpose's, the connector's nonce and the acceptor's nonce. The role's letter defeats
//! reflection, the fresh nonces replay. Frames are neither encrypted nor signed, unless the link runs under TLS.
//!
//! A [`Listener`] that has an [`Identity`] speaks TLS 1.3 and nothing else, and so does a connector with
//! [`Trust`]: all of the above runs inside the session. Each proof then goes over 32 bytes more, the session's
//! `tls-exporter` (RFC 9266), so that one that was made in another session is refused. Two ends of which
//! one speaks TLS tell each other so: the listener answers in the language that it was spoken to, with an alert
//! to who speaks plainly and with a frame to who speaks TLS.

pub mod args;
mod frame;
mod handshake;
mod listener;
mod open;
mod strain;
mod tls;

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::net::TcpStream;

use self::{frame::Reader, open::Stream, strain::Strain};
pub use self::{
    frame::{FrameReceiver, FrameSender},
    listener::Listener,
    strain::Reins,
    tls::{Identity, TlsError, Trust},
};
use crate::secret::Secret;

/// How long the handshake may take, that of TLS included.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a peer may leave sent data unacknowledged, or an idle link unanswered, before the
/// system ends the link.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What a link is for: one listener serves all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The connector computes.
    Worker,
    /// The connector asks the teacher.
    Gateway,
    /// The connector looks on.
    Watcher,
    /// The connector disturbs the job on purpose, where the listener's job is there to be disturbed.
    Tormentor,
}

impl Purpose {
    fn letter(self) -> u8 {
        match self {
            Self::Worker => b'W',
            Self::Gateway => b'G',
            Self::Watcher => b'V',
            Self::Tormentor => b'X',
        }
    }

    fn of_letter(letter: u8) -> Option<Self> {
        [Self::Worker, Self::Gateway, Self::Watcher, Self::Tormentor]
            .into_iter()
            .find(|purpose| purpose.letter() == letter)
    }
}

/// Why a link could not be made or has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there, or the system refuses.
    #[error("failed to open a link")]
    Open {
        /// What the system said.
        source: io::Error,
    },
    /// The other end does not know the job's secret, or does not speak this protocol.
    #[error("{peer} was refused: {reason}")]
    Refused {
        /// The other end.
        peer: SocketAddr,
        /// What it did wrong.
        reason: &'static str,
    },
    /// One end speaks TLS and the other does not.
    #[error("{peer} {reason}")]
    Protection {
        /// The other end.
        peer: SocketAddr,
        /// What it does, and what can be done about it.
        reason: &'static str,
    },
    /// The listener's certificate has another authority or name than expected, or its time is over.
    #[error("expected a certificate of {peer} that --tls-ca vouches for")]
    Untrusted {
        /// The other end.
        peer: SocketAddr,
        /// What TLS said.
        source: io::Error,
    },
    /// TLS ended the session: the other end does not believe the certificate, or does not follow the protocol.
    #[error("failed to speak TLS with {peer}")]
    Tls {
        /// The other end.
        peer: SocketAddr,
        /// What TLS said.
        source: io::Error,
    },
    /// The file with the authority was replaced by one that is of no use.
    #[error("cannot tell whom to trust")]
    Trust {
        /// What is wrong with it.
        source: TlsError,
    },
    /// The handshake took longer than [`HANDSHAKE_DEADLINE`].
    #[error("expected {peer} to finish the handshake within {deadline:?}, found it unfinished")]
    HandshakeDeadline {
        /// The other end.
        peer: SocketAddr,
        /// What it had.
        deadline: Duration,
    },
    /// A frame is longer than agreed, one to send or one announced by the other end.
    #[error("expected a frame of at most {max_frame_bytes} bytes to or from {peer}, found a longer one")]
    FrameTooLong {
        /// The other end.
        peer: SocketAddr,
        /// The bound of this link.
        max_frame_bytes: usize,
    },
    /// The link broke, possibly in the middle of a frame.
    #[error("lost the link to {peer}")]
    Lost {
        /// The other end.
        peer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The link has ended, and nothing more can be sent.
    #[error("the link to {peer} is closed")]
    Closed {
        /// The other end.
        peer: SocketAddr,
    },
}

impl LinkError {
    /// Whether trying again is of no use: one end must be started another way.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Protection { .. } | Self::Untrusted { .. } | Self::FrameTooLong { .. } => true,
            Self::Open { .. }
            | Self::Tls { .. }
            | Self::Trust { .. }
            | Self::HandshakeDeadline { .. }
            | Self::Lost { .. }
            | Self::Closed { .. } => false,
        }
    }
}

/// Where a listener is, and what both ends must know.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// The job's secret.
    pub secret: Secret,
    /// Whom to trust, where the listener speaks TLS.
    pub trust: Option<Trust>,
}

impl Target {
    /// A listener that speaks no TLS.
    pub fn plain(address: impl ToString, secret: Secret) -> Target {
        Target {
            address: address.to_string(),
            secret,
            trust: None,
        }
    }
}

/// A link whose two ends know each other.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    purpose: Purpose,
    reins: Option<Reins>,
    sender: FrameSender,
    receiver: FrameReceiver,
}

impl Connection {
    fn new(stream: Stream, peer: SocketAddr, purpose: Purpose, max_frame_bytes: usize, is_reined: bool) -> Connection {
        let (reins, strain) = match is_reined {
            true => {
                let (reins, strain) = Strain::reined();
                (Some(reins), strain)
            }
            false => (None, Strain::default()),
        };
        let (local, reader, sender) = match stream {
            Stream::Plain(stream) => {
                let local = stream.local_addr().ok();
                let (reader, writer) = stream.into_split();
                let sender = FrameSender::new(writer, peer, max_frame_bytes, strain.clone());
                (local, Reader::Plain(reader), sender)
            }
            Stream::Tls(stream) => {
                let local = stream.get_ref().0.local_addr().ok();
                let (reader, writer) = tokio::io::split(*stream);
                let sender = FrameSender::new(writer, peer, max_frame_bytes, strain.clone());
                (local, Reader::Tls(reader), sender)
            }
        };
        Connection {
            peer,
            local,
            purpose,
            reins,
            sender,
            receiver: FrameReceiver::new(reader, peer, max_frame_bytes, strain),
        }
    }

    /// Returns the address of the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns the address of this end, while the system knows one.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns what the link is for, as its connector said.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Returns what makes this link bear a cut or slowness, where its listener was told to hold reins.
    #[must_use]
    pub fn reins(&self) -> Option<Reins> {
        self.reins.clone()
    }

    /// Parts the two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

/// Opens a link for `purpose` to `target`.
///
/// Tries once; whoever wants to try again decides when.
///
/// # Errors
/// Any of [`LinkError`] but `Closed`.
pub async fn connect(target: &Target, purpose: Purpose, max_frame_bytes: usize) -> Result<Connection, LinkError> {
    let opened = async {
        let mut stream = TcpStream::connect(&target.address).await?;
        let peer = stream.peer_addr()?;
        prepare(&mut stream)?;
        Ok((stream, peer))
    };
    let (stream, peer) = match tokio::time::timeout(HANDSHAKE_DEADLINE, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
    .map_err(|source| LinkError::Open { source })?;
    let proved = open::greet(stream, &target.secret, target.trust.as_ref(), purpose);
    let stream = handshake::within(HANDSHAKE_DEADLINE, peer, proved).await?;
    Ok(Connection::new(stream, peer, purpose, max_frame_bytes, false))
}

/// Sends small frames at once, and notices a peer that has vanished.
fn prepare(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let third = SILENCE / 3;
    sockopt::set_socket_keepalive(&*stream, true)?;
    sockopt::set_tcp_keepidle(&*stream, third)?;
    sockopt::set_tcp_keepintvl(&*stream, third)?;
    sockopt::set_tcp_keepcnt(&*stream, 2)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(&*stream, SILENCE.as_millis() as u32)?;
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
