//! A world of processes joined by TCP: each rank sends to the next and receives from the previous.
//!
//! An all-reduce of `n` ranks cuts the data in `n` segments. In `n - 1` steps each segment travels
//! round and is added to (reduce-scatter), in `n - 1` more the sums travel round (all-gather), so
//! that a rank sends `2 (n - 1) / n` of its data whatever the world size.
//! Large data goes piece by piece, each of which stays in cache from its first step to its last.
//! Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
//! workstations", J. Parallel Distrib. Comput. 69 (2009).
//!
//! One thread sends and receives at once on non-blocking sockets, and adds each piece
//! while it is in cache. There is no queue, so memory is the caller's data and one piece. Between processes of one host
//! the floats lie in memory of both (`lane`), and the sockets carry only headers. The
//! private modules hold the bytes: `handshake`, `frame`, `segment`; and what carries them: `connect`, `wire`, `lane`,
//! `memory`, `link`, `duplex`. With a [`Seal`] the connections run under TLS, and nothing goes beside them.

mod connect;
mod duplex;
mod frame;
mod handshake;
mod lane;
mod link;
mod memory;
mod seal;
mod segment;
mod wire;

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

pub use connect::RingListener;
pub use seal::{Seal, SealError};

use self::{
    duplex::{Duplex, Failure, Side, Step},
    frame::{Phase, Tag},
    segment::Incoming,
};
use crate::{
    abort::AbortHandle,
    collective::{Collective, gathered_len},
    error::{CollectiveError, Operation},
};

/// Floats of a segment at most: 1 MiB. What a rank adds to in one step it sends in the next, and should find in its
/// cache then; but a step over a network must last longer than the way there.
const SEGMENT_FLOATS: usize = 256 << 10;

/// Which world a connection is for: the fence of the membership that it serves.
///
/// A rank that is still on an older fence is turned away in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub u64);

/// One rank's view of the ring it joins.
#[derive(Clone, Copy)]
pub struct Membership<'a> {
    /// This rank, in `0..peers.len()`.
    pub rank: usize,
    /// The listening address of each rank, this one included, in rank order.
    pub peers: &'a [SocketAddr],
    /// Which world this is.
    pub group: GroupId,
    /// The job's secret, which every member proves to know.
    pub secret: &'a [u8; 32],
    /// Connections run under TLS when it is there, which all members must agree on.
    pub seal: Option<&'a Seal>,
    /// How long joining may take, and then each operation.
    pub deadline: Duration,
}

impl Membership<'_> {
    fn next(&self) -> usize {
        (self.rank + 1) % self.peers.len()
    }

    fn previous(&self) -> usize {
        (self.rank + self.peers.len() - 1) % self.peers.len()
    }
}

/// A member of a TCP ring. Dropping it closes its connections, which the neighbours see at once.
#[derive(Debug)]
pub struct Ring {
    rank: usize,
    world_size: usize,
    deadline: Duration,
    sequence: u32,
    duplex: Duplex,
    abort: AbortHandle,
    /// The peer at which an earlier operation failed, after which nothing more is sent.
    ended_at: Option<usize>,
}

impl Ring {
    /// Joins the ring of `peers`, in clear: connects to the next rank and accepts the previous one.
    ///
    /// Returns when both neighbours have proved that they know `secret` and belong to the same
    /// `group`, world size and place. Ranks may arrive in any order. Other connections to
    /// `listener` are dropped with one log line each. `deadline` bounds the joining and then each
    /// operation.
    ///
    /// # Errors
    /// [`CollectiveError::Deadline`], [`CollectiveError::PeerLost`] (nobody listened there) or
    /// [`CollectiveError::Handshake`] once the deadline has passed;
    /// [`CollectiveError::Counts`] when `rank` is not in `peers`.
    pub fn connect(
        listener: &RingListener,
        rank: usize,
        peers: &[SocketAddr],
        group: GroupId,
        secret: &[u8; 32],
        deadline: Duration,
    ) -> Result<Ring, CollectiveError> {
        let membership = Membership {
            rank,
            peers,
            group,
            secret,
            seal: None,
            deadline,
        };
        Ring::join(listener, &membership, &AbortHandle::new())
    }

    /// Joins like [`connect`](Self::connect), and can be called off meanwhile through `abort`,
    /// which then belongs to the ring. A connection attempt that is under way delays the abort by
    /// at most one second.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`CollectiveError::Aborted`].
    pub fn join(
        listener: &RingListener,
        membership: &Membership<'_>,
        abort: &AbortHandle,
    ) -> Result<Ring, CollectiveError> {
        let (next, previous) = connect::neighbours(listener, membership, abort)?;
        let duplex = Duplex::new(next, previous).map_err(|source| CollectiveError::System {
            rank: membership.rank,
            operation: Operation::Connect,
            source,
        })?;
        Ok(Ring {
            rank: membership.rank,
            world_size: membership.peers.len(),
            deadline: membership.deadline,
            sequence: 0,
            duplex,
            abort: abort.clone(),
            ended_at: None,
        })
    }

    /// Returns the handle that ends this ring from another thread.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Sets how long each later operation may take, waiting for slower ranks included.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Fails when a neighbour has left, and ends the ring then; costs two system calls.
    pub(crate) fn check(&mut self, operation: Operation) -> Result<(), CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted {
                rank: self.rank,
                operation,
            });
        }
        match self.duplex.left() {
            None => Ok(()),
            Some((side, source)) => Err(self.end(operation, Failure::Lost { side, source })),
        }
    }

    /// Closes the connections, so that the neighbours learn of a failure elsewhere.
    pub(crate) fn close(&self) {
        self.abort.close();
    }

    /// Runs `steps` of one operation, and ends the ring when a step fails.
    fn operate(
        &mut self,
        operation: Operation,
        steps: impl FnOnce(&mut Duplex, Round) -> Result<(), Failure>,
    ) -> Result<(), CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted {
                rank: self.rank,
                operation,
            });
        }
        if let Some(peer) = self.ended_at {
            let source = std::io::Error::new(
                std::io::ErrorKind::NotConnected,
                "the ring ended in an earlier operation",
            );
            return Err(CollectiveError::PeerLost {
                rank: self.rank,
                operation,
                peer,
                source,
            });
        }
        let round = Round {
            rank: self.rank,
            world_size: self.world_size,
            operation,
            sequence: self.sequence,
            until: after(self.deadline),
            begun: 0,
            is_last: true,
        };
        self.sequence = self.sequence.wrapping_add(1);
        steps(&mut self.duplex, round).map_err(|failure| self.end(operation, failure))
    }

    /// Closes the connections, so that the neighbours learn of it, and says what happened.
    fn end(&mut self, operation: Operation, failure: Failure) -> CollectiveError {
        let rank = self.rank;
        self.abort.close();
        if self.abort.is_aborted() {
            return CollectiveError::Aborted { rank, operation };
        }
        let peer = match failure.side() {
            Side::Next => (rank + 1) % self.world_size,
            Side::Previous => (rank + self.world_size - 1) % self.world_size,
        };
        self.ended_at = Some(peer);
        match failure {
            Failure::Lost { source, .. } => CollectiveError::PeerLost {
                rank,
                operation,
                peer,
                source,
            },
            Failure::Late { .. } => CollectiveError::Deadline {
                rank,
                operation,
                peer,
                deadline: self.deadline,
            },
            Failure::Mismatch { expected, found, .. } => CollectiveError::Mismatch {
                rank,
                operation,
                peer,
                expected,
                found,
            },
        }
    }
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize]) -> Result<Vec<f32>, CollectiveError> {
        let len = gathered_len(self.rank, self.world_size, mine, counts)?;
        let segments = segments_of(counts);
        let mut all = vec![0.0; len];
        all[segments[self.rank].clone()].copy_from_slice(mine);
        self.operate(Operation::AllGather, |duplex, round| {
            gather(duplex, &round, round.rank, &segments, &mut all)
        })?;
        Ok(all)
    }

    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CollectiveError> {
        let n = self.world_size;
        let pieces = data.len().div_ceil(n * SEGMENT_FLOATS).max(1);
        self.operate(Operation::AllReduce, |duplex, mut round| {
            let mut rest = data;
            for left in (1..=pieces).rev() {
                let (piece, after) = rest.split_at_mut(rest.len() / left);
                round.is_last = left == 1;
                let segments = segments_of(&shares(piece.len(), n));
                let owned = reduce_scatter(duplex, &round, &segments, piece)?;
                gather(duplex, &round, owned, &segments, piece)?;
                round.begun += n - 1;
                rest = after;
            }
            Ok(())
        })
    }

    fn take_waited(&mut self) -> Duration {
        self.duplex.take_waited()
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let nothing = segments_of(&vec![0; self.world_size]);
        self.operate(Operation::Barrier, |duplex, round| {
            gather(duplex, &round, round.rank, &nothing, &mut [])
        })
    }
}

/// The moment `deadline` from now; a deadline too long to express is a century.
fn after(deadline: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let now = Instant::now();
    now.checked_add(deadline.min(CENTURY)).unwrap_or(now)
}

/// One operation as this rank sees it.
struct Round {
    rank: usize,
    world_size: usize,
    operation: Operation,
    sequence: u32,
    until: Instant,
    /// Steps of each phase that were made for pieces before this one, and whether none comes after it.
    begun: usize,
    is_last: bool,
}

impl Round {
    /// The segment `steps` places before `segment`.
    fn before(&self, segment: usize, steps: usize) -> usize {
        (segment + self.world_size - steps) % self.world_size
    }

    fn step(&self, phase: Phase, index: usize) -> Step {
        Step {
            tag: Tag {
                operation: self.operation,
                phase,
                sequence: self.sequence,
                step: (self.begun + index) as u32,
            },
            until: self.until,
            is_last: self.is_last && phase == Phase::Gather && index + 2 == self.world_size,
        }
    }
}

/// Sums each segment on its way round; returns the segment whose sum this rank then holds.
fn reduce_scatter(
    duplex: &mut Duplex,
    round: &Round,
    segments: &[Range<usize>],
    data: &mut [f32],
) -> Result<usize, Failure> {
    for index in 0..round.world_size - 1 {
        let sent = round.before(round.rank, index);
        let (send, receive) = disjoint(data, &segments[sent], &segments[round.before(sent, 1)]);
        duplex.exchange(&round.step(Phase::Reduce, index), send, Incoming::Add(receive))?;
    }
    Ok((round.rank + 1) % round.world_size)
}

/// Passes every segment round, beginning with the `owned` one, until all ranks hold all of them.
fn gather(
    duplex: &mut Duplex,
    round: &Round,
    owned: usize,
    segments: &[Range<usize>],
    data: &mut [f32],
) -> Result<(), Failure> {
    for index in 0..round.world_size - 1 {
        let sent = round.before(owned, index);
        let (send, receive) = disjoint(data, &segments[sent], &segments[round.before(sent, 1)]);
        duplex.exchange(&round.step(Phase::Gather, index), send, Incoming::Store(receive))?;
    }
    Ok(())
}

/// `len` in `n` parts that differ by one at most.
fn shares(len: usize, n: usize) -> Vec<usize> {
    (0..n).map(|i| len / n + usize::from(i < len % n)).collect()
}

/// The range of each rank's floats when they lie one after another.
fn segments_of(counts: &[usize]) -> Vec<Range<usize>> {
    let mut start = 0;
    counts
        .iter()
        .map(|&count| {
            let segment = start..start + count;
            start = segment.end;
            segment
        })
        .collect()
}

/// Borrows two different segments, one to send from and one to receive into.
fn disjoint<'a>(data: &'a mut [f32], send: &Range<usize>, receive: &Range<usize>) -> (&'a [f32], &'a mut [f32]) {
    let [send, receive] = data
        .get_disjoint_mut([send.clone(), receive.clone()])
        .expect("segments lie inside the data and follow one another");
    (send, receive)
}

#[cfg(test)]
mod seal_tests;
#[cfg(test)]
mod tests;
