//! Finds both neighbours: connects to the next rank while accepting the previous one.

use std::{
    io::{
        self,
        ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock},
    },
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size},
};
use rustls::{Connection, Error};

use super::{
    Membership, after,
    handshake::{self, Refusal, Terms},
    lane::Lane,
    link::Link,
    seal::Seal,
    wire::Wire,
};
use crate::{
    abort::AbortHandle,
    error::{CollectiveError, Operation},
};

/// What is asked for each socket, either way. The system may grant less: Linux caps it at
/// `net.core.wmem_max` and `rmem_max`.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How long one attempt to reach the next rank may take; it cannot be interrupted.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Pause before the next rank is tried again: it may not have come to this group yet.
const RETRY: Duration = Duration::from_millis(10);
/// What that pause grows to: each refused attempt is a log line over there.
const MAX_RETRY: Duration = Duration::from_millis(200);
/// How often waiting for a connection looks at the abort handle.
const LOOK: Duration = Duration::from_millis(10);
/// How long a stranger may take to prove that it is the previous rank.
const STRANGER: Duration = Duration::from_secs(5);
/// Strangers that may be under proof at once; each costs a thread and two sockets.
const MAX_STRANGERS: usize = 32;

/// The socket on which a process awaits its previous rank, made once and used by every ring.
#[derive(Debug)]
pub struct RingListener {
    listener: TcpListener,
}

impl RingListener {
    /// Listens at `address`; port 0 lets the system choose.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<RingListener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(RingListener { listener })
    }

    /// Returns the address with the port that was chosen.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Returns the proved connections to the next rank and from the previous one.
pub(super) fn neighbours(
    listener: &RingListener,
    membership: &Membership<'_>,
    abort: &AbortHandle,
) -> Result<(Link, Link), CollectiveError> {
    let Membership { rank, peers, .. } = *membership;
    if rank >= peers.len() {
        return Err(CollectiveError::Counts {
            rank,
            operation: Operation::Connect,
            what: "peers or more",
            expected: rank + 1,
            found: peers.len(),
        });
    }
    let until = after(membership.deadline);
    let joined = thread::scope(|scope| {
        let previous = scope.spawn(|| accept_previous(&listener.listener, membership, abort, until));
        let next = connect_next(membership, abort, until);
        let previous = previous.join().expect("accepting does not panic");
        Ok((next?, previous?))
    });
    if abort.is_aborted() {
        abort.close();
        return Err(CollectiveError::Aborted {
            rank,
            operation: Operation::Connect,
        });
    }
    joined
}

/// Tries the next rank until it welcomes this one.
fn connect_next(membership: &Membership<'_>, abort: &AbortHandle, until: Instant) -> Result<Link, CollectiveError> {
    let peer = membership.next();
    let terms = terms(membership, membership.rank, peer);
    let mut pause = RETRY;
    let mut wrong = None;
    loop {
        let refusal = match attempt(membership, &terms, abort, until) {
            Ok(link) => return Ok(link),
            Err(refusal) => refusal,
        };
        if let Refusal::Wrong(reason) = refusal {
            wrong = Some(reason);
        }
        let left = until.saturating_duration_since(Instant::now());
        if abort.is_aborted() || left <= RETRY {
            // What a neighbour answered says more than that time ran out in the attempt after it.
            return Err(give_up(membership, peer, wrong.map_or(refusal, Refusal::Wrong)));
        }
        tracing::debug!(rank = membership.rank, peer, error = %refusal, "next rank is not ready yet");
        thread::sleep(pause.min(left));
        pause = (2 * pause).min(MAX_RETRY);
    }
}

fn attempt(membership: &Membership<'_>, terms: &Terms, abort: &AbortHandle, until: Instant) -> Result<Link, Refusal> {
    let address = membership.peers[terms.receiver];
    let left = until.saturating_duration_since(Instant::now());
    let stream = Arc::new(TcpStream::connect_timeout(&address, left.clamp(RETRY, ATTEMPT))?);
    abort.watch(&stream);
    prepare(&stream)?;
    let session = membership.seal.map(Seal::connector);
    let mut wire = open(stream, session, until)?;
    handshake::greet(&mut wire, terms, membership.secret, until)?;
    let lane = match membership.seal {
        None => Lane::offer(&mut wire, until)?,
        Some(_) => None,
    };
    Ok(Link { wire, lane })
}

/// Seals a connection where there is a session for it.
fn open(stream: Arc<TcpStream>, session: Option<Result<Connection, Error>>, until: Instant) -> io::Result<Wire> {
    match session {
        None => Ok(Wire::clear(stream)),
        Some(session) => Wire::seal(stream, session.map_err(io::Error::other)?, until),
    }
}

fn give_up(membership: &Membership<'_>, peer: usize, refusal: Refusal) -> CollectiveError {
    let Membership { rank, deadline, .. } = *membership;
    let operation = Operation::Connect;
    match refusal {
        Refusal::Wrong(reason) => CollectiveError::Handshake { rank, peer, reason },
        Refusal::Io(error) if error.kind() == io::ErrorKind::TimedOut => CollectiveError::Deadline {
            rank,
            operation,
            peer,
            deadline,
        },
        Refusal::Io(source) => CollectiveError::PeerLost {
            rank,
            operation,
            peer,
            source,
        },
    }
}

/// Accepts connections until one proves to be the previous rank.
///
/// Each is examined on a thread of its own, so that a silent stranger holds nobody up.
fn accept_previous(
    listener: &TcpListener,
    membership: &Membership<'_>,
    abort: &AbortHandle,
    until: Instant,
) -> Result<Link, CollectiveError> {
    let Membership { rank, deadline, .. } = *membership;
    let operation = Operation::Connect;
    let (welcome, welcomed) = mpsc::channel();
    thread::scope(|scope| {
        let mut unproved: Vec<(Arc<TcpStream>, ScopedJoinHandle<'_, ()>)> = Vec::new();
        let found = loop {
            if let Ok(link) = welcomed.try_recv() {
                break Ok(link);
            }
            if abort.is_aborted() || until <= Instant::now() {
                break Err(CollectiveError::Deadline {
                    rank,
                    operation,
                    peer: membership.previous(),
                    deadline,
                });
            }
            unproved.retain(|(_, thread)| !thread.is_finished());
            let (stream, address) = match accept(listener, until) {
                Ok(Some(accepted)) => accepted,
                Ok(None) => continue,
                Err(source) => {
                    break Err(CollectiveError::System {
                        rank,
                        operation,
                        source,
                    });
                }
            };
            if unproved.len() == MAX_STRANGERS {
                tracing::warn!(rank, %address, "dropped a ring connection: too many are unproved");
                continue;
            }
            let (stream, welcome) = (Arc::new(stream), welcome.clone());
            let examined = Arc::clone(&stream);
            let thread = scope.spawn(move || examine(examined, address, membership, until, &welcome));
            unproved.push((stream, thread));
        };
        for (stream, _) in &unproved {
            if !found
                .as_ref()
                .is_ok_and(|found: &Link| Arc::ptr_eq(found.wire.stream(), stream))
            {
                // Ends its thread; one that is closed already needs nothing more.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        found.inspect(|link| abort.watch(link.wire.stream()))
    })
}

/// Waits a moment for a connection.
fn accept(listener: &TcpListener, until: Instant) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let left = until.saturating_duration_since(Instant::now()).min(LOOK);
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    match listener.accept() {
        Ok(accepted) => Ok(Some(accepted)),
        // It was gone before it was accepted; that is nobody's failure here.
        Err(error)
            if matches!(
                error.kind(),
                WouldBlock | Interrupted | ConnectionAborted | ConnectionReset
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Hands the connection on when it proves to be the previous rank, and drops it otherwise.
fn examine(
    stream: Arc<TcpStream>,
    address: SocketAddr,
    membership: &Membership<'_>,
    until: Instant,
    welcome: &mpsc::Sender<Link>,
) {
    let terms = terms(membership, membership.previous(), membership.rank);
    let until = until.min(after(STRANGER));
    let prove = || {
        prepare(&stream)?;
        let session = membership.seal.map(Seal::acceptor);
        let mut wire = open(stream, session, until)?;
        handshake::receive(&mut wire, &terms, membership.secret, until)?;
        let lane = match membership.seal {
            None => Lane::accept(&mut wire, until)?,
            Some(_) => None,
        };
        Ok::<Link, Refusal>(Link { wire, lane })
    };
    match prove() {
        // The receiver is gone only when this ring has its previous rank already.
        Ok(link) => drop(welcome.send(link)),
        Err(refusal) => {
            let source = std::error::Error::source(&refusal).map(ToString::to_string);
            tracing::warn!(rank = membership.rank, %address, reason = %refusal, source, "dropped a ring connection");
        }
    }
}

fn terms(membership: &Membership<'_>, sender: usize, receiver: usize) -> Terms {
    Terms {
        group: membership.group,
        sender,
        receiver,
        world_size: membership.peers.len(),
    }
}

/// Sets what both ends of a ring connection need; blocking until the handshake is over.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    set_socket_send_buffer_size(stream, SOCKET_BUFFER_BYTES)?;
    set_socket_recv_buffer_size(stream, SOCKET_BUFFER_BYTES)?;
    Ok(())
}
