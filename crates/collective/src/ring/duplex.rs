//! Sends to the next rank and receives from the previous one at the same time, in one thread.

use std::{
    io::{self, IoSlice, IoSliceMut},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    frame::{HEADER_BYTES, MAX_FLOATS, Tag, describe},
    wire::Wire,
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

/// What becomes of the floats that arrive.
pub(super) enum Incoming<'a> {
    Add(&'a mut [f32]),
    Store(&'a mut [f32]),
}

/// The two connections of a rank, both non-blocking, each used in one direction.
#[derive(Debug)]
pub(super) struct Duplex {
    next: Wire,
    previous: Wire,
    /// The frame that is being received, before it is added.
    piece: Vec<f32>,
    /// Time spent blocked before the first byte of an exchange came.
    waited: Duration,
}

impl Duplex {
    pub(super) fn new(next: Wire, previous: Wire) -> io::Result<Duplex> {
        next.stream().set_nonblocking(true)?;
        previous.stream().set_nonblocking(true)?;
        Ok(Duplex {
            next,
            previous,
            piece: vec![0.0; MAX_FLOATS],
            waited: Duration::ZERO,
        })
    }

    /// Sends all of `send` and fills all of `incoming`.
    pub(super) fn exchange(&mut self, step: &Step, send: &[f32], incoming: Incoming<'_>) -> Result<(), Failure> {
        let mut outgoing = Outgoing::new(step.tag, send);
        let mut incoming = Receipt::new(step.tag, incoming, &mut self.piece);
        loop {
            let sent = outgoing.pump(&mut self.next)?;
            let received = incoming.pump(&mut self.previous)?;
            let is_sent = outgoing.is_done() && !self.next.holds_back();
            if is_sent && incoming.is_done() {
                return Ok(());
            }
            if !sent && !received {
                let (sending, receiving) = (!is_sent, !incoming.is_done());
                let blocked = Instant::now();
                wait(&mut self.next, &self.previous, step, sending, receiving)?;
                if !sending && incoming.is_untouched() {
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
            .find_map(|(side, wire)| match wire.stream().peek(&mut [0]) {
                Ok(0) => Some((side, io::ErrorKind::UnexpectedEof.into())),
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Some((side, error))
                }
                _ => None,
            })
    }
}

/// Blocks until a socket is ready for what is missing, the next rank is gone, or time is up.
fn wait(next: &mut Wire, previous: &Wire, step: &Step, sending: bool, receiving: bool) -> Result<(), Failure> {
    let late = Failure::Late {
        side: if receiving { Side::Previous } else { Side::Next },
    };
    let left = step.until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late);
    }
    // The next rank never sends: a readable connection to it means that it is gone. In the last
    // step it may leave rightly, as soon as it has everything.
    let watch = sending || !step.is_last;
    let wanted = |flags, when| if when { flags } else { PollFlags::empty() };
    let mut ready = [
        PollFd::new(previous.stream(), wanted(PollFlags::IN, receiving)),
        PollFd::new(
            next.stream(),
            wanted(PollFlags::OUT, sending) | wanted(PollFlags::IN, watch),
        ),
    ];
    let ready = &mut ready[..1 + usize::from(watch)];
    let timeout = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(ready, Some(&timeout)) {
        Ok(0) => Err(late),
        Ok(_)
            if watch
                && ready[1]
                    .revents()
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) =>
        {
            still_there(next)
        }
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::Lost {
            side: Side::Previous,
            source: error.into(),
        }),
    }
}

/// Fails when the next rank has closed its end, or sends what nobody asked for.
fn still_there(next: &mut Wire) -> Result<(), Failure> {
    match progress(next.receive(&mut [IoSliceMut::new(&mut [0])]), Side::Next)? {
        0 => Ok(()),
        _ => Err(Failure::Mismatch {
            side: Side::Next,
            expected: "silence".to_owned(),
            found: "data against the direction of the ring".to_owned(),
        }),
    }
}

/// The bytes moved by a call; 0 where it would have blocked, and a loss at the end of the stream.
fn progress(result: io::Result<usize>, side: Side) -> Result<usize, Failure> {
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

/// A segment on its way out.
struct Outgoing<'a> {
    tag: Tag,
    /// The frame under way, and what comes after it.
    frame: &'a [f32],
    rest: &'a [f32],
    header: [u8; HEADER_BYTES],
    /// Bytes of header and frame that are gone.
    sent: usize,
}

impl<'a> Outgoing<'a> {
    fn new(tag: Tag, segment: &'a [f32]) -> Outgoing<'a> {
        let (frame, rest) = segment.split_at(segment.len().min(MAX_FLOATS));
        Outgoing {
            tag,
            frame,
            rest,
            header: tag.header(frame.len()),
            sent: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.rest.is_empty() && self.sent == HEADER_BYTES + size_of_val(self.frame)
    }

    /// Sends what one call takes; says whether anything moved.
    fn pump(&mut self, next: &mut Wire) -> Result<bool, Failure> {
        if self.is_done() {
            // What a session holds back goes when the socket takes it.
            let is_due = next.holds_back();
            progress(next.flush().map(|()| 1), Side::Next)?;
            return Ok(is_due && !next.holds_back());
        }
        let payload: &[u8] = bytemuck::cast_slice(self.frame);
        let result = match self.sent.checked_sub(HEADER_BYTES) {
            Some(at) => next.send(&[IoSlice::new(&payload[at..])]),
            None => next.send(&[IoSlice::new(&self.header[self.sent..]), IoSlice::new(payload)]),
        };
        let moved = progress(result, Side::Next)?;
        self.sent += moved;
        if self.sent == HEADER_BYTES + payload.len() && !self.rest.is_empty() {
            *self = Outgoing::new(self.tag, self.rest);
        }
        Ok(moved > 0)
    }
}

/// A segment on its way in.
struct Receipt<'a> {
    tag: Tag,
    target: Incoming<'a>,
    piece: &'a mut [f32],
    /// Floats of the target that are complete, and of the frame under way.
    complete: usize,
    frame: usize,
    header: [u8; HEADER_BYTES],
    /// Bytes of header and frame that have come.
    received: usize,
    done: bool,
}

impl<'a> Receipt<'a> {
    fn new(tag: Tag, target: Incoming<'a>, piece: &'a mut [f32]) -> Receipt<'a> {
        let frame = target.len().min(MAX_FLOATS);
        Receipt {
            tag,
            target,
            piece,
            complete: 0,
            frame,
            header: [0; HEADER_BYTES],
            received: 0,
            done: false,
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing has come yet.
    fn is_untouched(&self) -> bool {
        self.complete == 0 && self.received == 0
    }

    /// Receives what one call brings; says whether anything moved.
    fn pump(&mut self, previous: &mut Wire) -> Result<bool, Failure> {
        if self.done {
            return Ok(false);
        }
        let frame = self.complete..self.complete + self.frame;
        let payload: &mut [u8] = bytemuck::cast_slice_mut(match &mut self.target {
            Incoming::Add(_) => &mut self.piece[..self.frame],
            Incoming::Store(floats) => &mut floats[frame],
        });
        let whole = HEADER_BYTES + payload.len();
        let in_header = self.received < HEADER_BYTES;
        let result = match self.received.checked_sub(HEADER_BYTES) {
            Some(at) => previous.receive(&mut [IoSliceMut::new(&mut payload[at..])]),
            None => previous.receive(&mut [
                IoSliceMut::new(&mut self.header[self.received..]),
                IoSliceMut::new(payload),
            ]),
        };
        let moved = progress(result, Side::Previous)?;
        self.received += moved;
        if in_header && self.received >= HEADER_BYTES {
            self.check_header()?;
        }
        if self.received == whole {
            self.finish_frame();
        }
        Ok(moved > 0)
    }

    /// Compares the header that came with the only one that can be right.
    fn check_header(&self) -> Result<(), Failure> {
        let expected = self.tag.header(self.frame);
        if self.header == expected {
            return Ok(());
        }
        Err(Failure::Mismatch {
            side: Side::Previous,
            expected: describe(&expected),
            found: describe(&self.header),
        })
    }

    fn finish_frame(&mut self) {
        if let Incoming::Add(sums) = &mut self.target {
            let sums = &mut sums[self.complete..self.complete + self.frame];
            for (sum, term) in sums.iter_mut().zip(&self.piece[..self.frame]) {
                *sum += term;
            }
        }
        self.complete += self.frame;
        self.frame = (self.target.len() - self.complete).min(MAX_FLOATS);
        self.received = 0;
        self.done = self.frame == 0;
    }
}

impl Incoming<'_> {
    fn len(&self) -> usize {
        match self {
            Incoming::Add(floats) | Incoming::Store(floats) => floats.len(),
        }
    }
}
