//! Sends to the next rank and receives from the previous one at the same time, in one thread.

use std::{
    io::{self, IoSliceMut},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    frame::{MAX_FLOATS, Tag},
    lane::Lane,
    link::Link,
    segment::{Incoming, Outgoing, Receipt},
};

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Next,
    Previous,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Failure {
    Lost {
        side: Side,
        source: io::Error,
    },
    Late {
        side: Side,
    },
    Mismatch {
        side: Side,
        expected: String,
        found: String,
    },
}

impl Failure {
    pub(super) fn side(&self) -> Side {
        match self {
            Failure::Lost { side, .. } | Failure::Late { side } | Failure::Mismatch { side, .. } => *side,
        }
    }
}

/// What is exchanged, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) tag: Tag,
    pub(super) until: Instant,
    /// Whether a neighbour may leave once it has all that this rank sends.
    pub(super) is_last: bool,
}

/// The two connections of a rank, both non-blocking, each used in one direction.
#[derive(Debug)]
pub(super) struct Duplex {
    next: Link,
    previous: Link,
    /// The frame that is being received, before it is added.
    piece: Vec<f32>,
    /// Time spent blocked before the first byte of an exchange came.
    waited: Duration,
}

impl Duplex {
    pub(super) fn new(next: Link, previous: Link) -> io::Result<Duplex> {
        next.wire.stream().set_nonblocking(true)?;
        previous.wire.stream().set_nonblocking(true)?;
        Ok(Duplex {
            next,
            previous,
            piece: vec![0.0; MAX_FLOATS],
            waited: Duration::ZERO,
        })
    }

    /// Sends all of `send` and fills all of `incoming`.
    pub(super) fn exchange(&mut self, step: &Step, send: &[f32], incoming: Incoming<'_>) -> Result<(), Failure> {
        let mut outgoing = Outgoing::new(step.tag, send, &self.next);
        let mut incoming = Receipt::new(step.tag, incoming, &mut self.piece, &self.previous);
        loop {
            let sent = outgoing.pump(&mut self.next)?;
            let received = incoming.pump(&mut self.previous)?;
            let is_sent = outgoing.is_done() && !self.next.wire.holds_back();
            if is_sent && incoming.is_done() {
                return Ok(());
            }
            if !sent && !received {
                let missing = Missing {
                    is_sent,
                    full: outgoing.full_lane(&self.next),
                    is_received: incoming.is_done(),
                };
                let blocked = Instant::now();
                if wait(&self.next, &self.previous, step, missing)? {
                    still_there(&mut self.next)?;
                }
                if is_sent && incoming.is_untouched() {
                    self.waited += blocked.elapsed();
                }
            }
        }
    }

    /// Time spent blocked since the last call, before the first byte of an exchange came.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Which neighbour has closed its end, if one has. Reads nothing.
    pub(super) fn left(&self) -> Option<(Side, io::Error)> {
        let sides = [(Side::Previous, &self.previous), (Side::Next, &self.next)];
        sides
            .into_iter()
            .find_map(|(side, link)| match link.wire.stream().peek(&mut [0]) {
                Ok(0) => Some((side, io::ErrorKind::UnexpectedEof.into())),
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Some((side, error))
                }
                _ => None,
            })
    }
}

/// What an exchange lacks.
#[derive(Clone, Copy)]
struct Missing<'a> {
    is_sent: bool,
    /// What is to be sent waits for room in it.
    full: Option<&'a Lane>,
    is_received: bool,
}

/// Blocks until what is missing can go on, the next rank is gone, or time is up. Says whether the connection to the next
/// rank is readable: it never sends anything there, so that it is gone.
fn wait(next: &Link, previous: &Link, step: &Step, missing: Missing<'_>) -> Result<bool, Failure> {
    let late = Failure::Late {
        side: if missing.is_received {
            Side::Next
        } else {
            Side::Previous
        },
    };
    let left = step.until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late);
    }
    // In the last step the next rank may leave rightly, as soon as it has everything.
    let watch = !missing.is_sent || !step.is_last;
    let wanted = |flags, when| if when { flags } else { PollFlags::empty() };
    let sends = !missing.is_sent && missing.full.is_none();
    let mut ready = vec![PollFd::new(
        previous.wire.stream(),
        wanted(PollFlags::IN, !missing.is_received),
    )];
    if watch {
        let flags = wanted(PollFlags::OUT, sends) | PollFlags::IN;
        ready.push(PollFd::new(next.wire.stream(), flags));
    }
    let returns = missing.full.map(Lane::returns);
    ready.extend(returns.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
    let timeout = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut ready, Some(&timeout)) {
        Ok(0) => Err(late),
        Ok(_) => Ok(watch
            && ready[1]
                .revents()
                .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Failure::Lost {
            side: Side::Previous,
            source: error.into(),
        }),
    }
}

/// Fails when the next rank has closed its end, or sends what nobody asked for.
fn still_there(next: &mut Link) -> Result<(), Failure> {
    match progress(next.wire.receive(&mut [IoSliceMut::new(&mut [0])]), Side::Next)? {
        0 => Ok(()),
        _ => Err(Failure::Mismatch {
            side: Side::Next,
            expected: "silence".to_owned(),
            found: "data against the direction of the ring".to_owned(),
        }),
    }
}

/// The bytes moved by a call; 0 where it would have blocked, and a loss at the end of the stream.
pub(super) fn progress(result: io::Result<usize>, side: Side) -> Result<usize, Failure> {
    match result {
        Ok(0) => Err(Failure::Lost {
            side,
            source: io::ErrorKind::UnexpectedEof.into(),
        }),
        Ok(bytes) => Ok(bytes),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        Err(source) => Err(Failure::Lost { side, source }),
    }
}
