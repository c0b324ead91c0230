//! A segment on its way out, and one on its way in: frame by frame, as far as a call gets.

use std::io::{IoSlice, IoSliceMut};

use super::{
    duplex::{Failure, Side, progress},
    frame::{HEADER_BYTES, MAX_FLOATS, Tag, describe},
    lane::Lane,
    link::Link,
};

/// What becomes of the floats that arrive.
pub(super) enum Incoming<'a> {
    Add(&'a mut [f32]),
    Store(&'a mut [f32]),
}

/// A segment on its way out.
pub(super) struct Outgoing<'a> {
    tag: Tag,
    /// The frame under way, and what comes after it.
    frame: &'a [f32],
    rest: &'a [f32],
    header: [u8; HEADER_BYTES],
    /// Whether frames lie in the lane, and only headers go through the socket.
    by_lane: bool,
    /// Whether the frame under way lies there by now.
    is_put: bool,
    /// Bytes of the header, and of what follows it in the socket, that are gone.
    sent: usize,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(tag: Tag, segment: &'a [f32], next: &Link) -> Outgoing<'a> {
        Outgoing::of(tag, segment, next.lane.is_some())
    }

    fn of(tag: Tag, segment: &'a [f32], by_lane: bool) -> Outgoing<'a> {
        let (frame, rest) = segment.split_at(segment.len().min(MAX_FLOATS));
        Outgoing {
            tag,
            frame,
            rest,
            header: tag.header(frame.len()),
            by_lane,
            is_put: frame.is_empty(),
            sent: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty() && self.is_gone()
    }

    fn is_gone(&self) -> bool {
        self.sent == HEADER_BYTES + self.payload().len()
    }

    /// What follows the header in the socket.
    fn payload(&self) -> &'a [u8] {
        if self.by_lane {
            &[]
        } else {
            bytemuck::cast_slice(self.frame)
        }
    }

    /// The lane that has no room for the frame under way, before which nothing can be sent.
    pub(super) fn full_lane<'l>(&self, next: &'l Link) -> Option<&'l Lane> {
        next.lane.as_ref().filter(|lane| !self.is_put && !lane.has_room())
    }

    /// Sends what one call takes; says whether anything moved.
    pub(super) fn pump(&mut self, next: &mut Link) -> Result<bool, Failure> {
        if self.is_done() {
            // What a session holds back goes when the socket takes it.
            let is_due = next.wire.holds_back();
            progress(next.wire.flush().map(|()| 1), Side::Next)?;
            return Ok(is_due && !next.wire.holds_back());
        }
        if let (false, Some(lane)) = (self.is_put, &mut next.lane) {
            if !lane.has_room() {
                let side = Side::Next;
                lane.regain().map_err(|source| Failure::Lost { side, source })?;
            }
            if !lane.has_room() {
                return Ok(false);
            }
            lane.put(self.frame);
            self.is_put = true;
        }
        let payload = self.payload();
        let result = match self.sent.checked_sub(HEADER_BYTES) {
            Some(at) => next.wire.send(&[IoSlice::new(&payload[at..])]),
            None => next
                .wire
                .send(&[IoSlice::new(&self.header[self.sent..]), IoSlice::new(payload)]),
        };
        let moved = progress(result, Side::Next)?;
        self.sent += moved;
        if self.is_gone() && !self.rest.is_empty() {
            *self = Outgoing::of(self.tag, self.rest, self.by_lane);
        }
        Ok(moved > 0)
    }
}

/// A segment on its way in.
pub(super) struct Receipt<'a> {
    tag: Tag,
    target: Incoming<'a>,
    piece: &'a mut [f32],
    /// Floats of the target that are complete, and of the frame under way.
    complete: usize,
    frame: usize,
    header: [u8; HEADER_BYTES],
    /// Bytes of header and frame that have come.
    received: usize,
    /// Whether frames lie in the lane, and only headers come through the socket.
    by_lane: bool,
    done: bool,
}

impl<'a> Receipt<'a> {
    pub(super) fn new(tag: Tag, target: Incoming<'a>, piece: &'a mut [f32], previous: &Link) -> Receipt<'a> {
        let frame = target.len().min(MAX_FLOATS);
        Receipt {
            tag,
            target,
            piece,
            complete: 0,
            frame,
            header: [0; HEADER_BYTES],
            received: 0,
            by_lane: previous.lane.is_some(),
            done: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing has come yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.complete == 0 && self.received == 0
    }

    /// Receives what one call brings; says whether anything moved.
    pub(super) fn pump(&mut self, previous: &mut Link) -> Result<bool, Failure> {
        if self.done {
            return Ok(false);
        }
        let frame = self.complete..self.complete + self.frame;
        let payload: &mut [u8] = bytemuck::cast_slice_mut(match &mut self.target {
            _ if self.by_lane => &mut [],
            Incoming::Add(_) => &mut self.piece[..self.frame],
            Incoming::Store(floats) => &mut floats[frame],
        });
        let whole = HEADER_BYTES + payload.len();
        let in_header = self.received < HEADER_BYTES;
        let result = match self.received.checked_sub(HEADER_BYTES) {
            Some(at) => previous.wire.receive(&mut [IoSliceMut::new(&mut payload[at..])]),
            None => previous.wire.receive(&mut [
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
            self.finish_frame(previous);
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

    /// Puts a frame where it belongs, which without a lane it may be already, and goes on to the next.
    fn finish_frame(&mut self, previous: &mut Link) {
        let frame = self.complete..self.complete + self.frame;
        match (&mut self.target, &mut previous.lane) {
            (_, Some(_)) if self.frame == 0 => {}
            (Incoming::Add(sums), Some(lane)) => lane.take(self.frame, |terms| add(&mut sums[frame], terms)),
            (Incoming::Store(floats), Some(lane)) => {
                lane.take(self.frame, |came| floats[frame].copy_from_slice(came));
            }
            (Incoming::Add(sums), None) => add(&mut sums[frame], &self.piece[..self.frame]),
            (Incoming::Store(_), None) => {}
        }
        self.complete += self.frame;
        self.frame = (self.target.len() - self.complete).min(MAX_FLOATS);
        self.received = 0;
        self.done = self.frame == 0;
    }
}

/// Adds each term to its sum.
fn add(sums: &mut [f32], terms: &[f32]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum += term;
    }
}

impl Incoming<'_> {
    fn len(&self) -> usize {
        match self {
            Incoming::Add(floats) | Incoming::Store(floats) => floats.len(),
        }
    }
}
