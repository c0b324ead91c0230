//! Where two neighbours are processes of one host: floats through memory of both, only words about them through the
//! socket.
//!
//! A socket copies twice and takes the system's network on the way. In a lane the sender copies a frame into the next
//! slot and sends its header alone; the receiver adds it from where it lies and gives slots back, a few at a time,
//! by a byte that says how many. Those bytes go through a pipe: against the direction of the socket they would turn its end
//! into a reset when nobody reads them. The socket stays what tells of a loss, an abort or a deadline.
//!
//! | message | from | bytes | content (little endian) |
//! |---|---|---|---|
//! | offer | connector | 44 | process `u32`, descriptors of memory and pipe `u32`, mark `[32]`; zeros where there is no memory |
//! | answer | acceptor | 1 | `1` when it has opened both and found the mark, else `0` |
//!
//! The offer follows the handshake of a connection in clear (a sealed one keeps everything sealed). Memory is made
//! only if both ends of the connection have the same address. Whatever is in the way, other containers or users or a
//! system without `/proc`, the floats go through the socket.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    time::Instant,
};

use rustix::io::ioctl_fionbio;

use super::{
    frame::MAX_FLOATS,
    memory::{Memory, open_of},
    wire::Wire,
};

/// Frames that may lie in a lane. Together they stay in the cache that cores share.
const SLOTS: usize = 16;
/// Slots that are given back at once.
const RETURNED: usize = SLOTS / 2;
const MARK_BYTES: usize = 32;
const OFFER_BYTES: usize = 12 + MARK_BYTES;
const TAKEN: [u8; 1] = [1];
const REFUSED: [u8; 1] = [0];

/// One end of the memory beside a connection. Frames take its slots in turn.
#[derive(Debug)]
pub(super) struct Lane {
    memory: Memory,
    /// Through which slots come back: its end to read is the sender's, to write the receiver's.
    pipe: File,
    /// The slot of the next frame.
    slot: usize,
    /// The sender's: slots that are in the receiver's hands. The receiver's: slots that are yet to be given back.
    away: usize,
}

/// What the acceptor opens, which closes when it has, so that no third process can.
struct Offer {
    memory: OwnedFd,
    pipe: OwnedFd,
    mark: [u8; MARK_BYTES],
}

impl Lane {
    /// The connector's part: offers memory where the acceptor may be able to open it.
    pub(super) fn offer(wire: &mut Wire, until: Instant) -> io::Result<Option<Lane>> {
        let made = is_at_home(wire)?.then(Lane::make).and_then(|made| {
            made.inspect_err(|error| tracing::debug!(%error, "no memory to share with the next rank"))
                .ok()
        });
        wire.say(&made.as_ref().map_or([0; OFFER_BYTES], |(_, offer)| offer.encode()))?;
        let answer: [u8; 1] = wire.hear(until)?;
        Ok(made.filter(|_| answer == TAKEN).map(|(lane, _)| lane))
    }

    /// The acceptor's part: opens what is offered.
    pub(super) fn accept(wire: &mut Wire, until: Instant) -> io::Result<Option<Lane>> {
        let offer: [u8; OFFER_BYTES] = wire.hear(until)?;
        let opened = (offer != [0; OFFER_BYTES])
            .then(|| Lane::open(&offer))
            .and_then(|opened| {
                opened
                    .inspect_err(|error| tracing::debug!(%error, "the previous rank's memory is out of reach"))
                    .ok()
            });
        wire.say(if opened.is_some() { &TAKEN } else { &REFUSED })?;
        Ok(opened)
    }

    /// Memory with a mark in it, and a pipe.
    fn make() -> io::Result<(Lane, Offer)> {
        let (mut memory, descriptor) = Memory::create(SLOTS, MAX_FLOATS)?;
        let (read, write) = io::pipe()?;
        ioctl_fionbio(&read, true)?;
        let mut mark = [0; MARK_BYTES];
        getrandom::fill(&mut mark).map_err(io::Error::from)?;
        memory.write(0, &marked(&mark));
        let offer = Offer {
            memory: descriptor,
            pipe: write.into(),
            mark,
        };
        Ok((Lane::over(memory, OwnedFd::from(read).into()), offer))
    }

    fn open(offer: &[u8; OFFER_BYTES]) -> io::Result<Lane> {
        let word = |at: usize| u32::from_le_bytes([offer[at], offer[at + 1], offer[at + 2], offer[at + 3]]);
        let [process, memory, pipe] = [0, 4, 8].map(word);
        let memory = Memory::open(process, memory, SLOTS, MAX_FLOATS)?;
        // Another process may have that number here: of another container, say.
        let found: &[u8] = bytemuck::cast_slice(memory.read(0, MARK_BYTES / size_of::<f32>()));
        if found != &offer[12..] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another mark"));
        }
        let pipe = open_of(process, pipe, false)?;
        if !pipe.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no pipe beside it"));
        }
        Ok(Lane::over(memory, pipe))
    }

    fn over(memory: Memory, pipe: File) -> Lane {
        Lane {
            memory,
            pipe,
            slot: 0,
            away: 0,
        }
    }

    /// Whether a frame may be put.
    pub(super) fn has_room(&self) -> bool {
        self.away < SLOTS
    }

    /// What is readable when slots come back.
    pub(super) fn returns(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The sender puts a frame; there must be room.
    pub(super) fn put(&mut self, frame: &[f32]) {
        debug_assert!(self.has_room(), "no slot of the lane is free");
        self.memory.write(self.slot, frame);
        self.slot = (self.slot + 1) % SLOTS;
        self.away += 1;
    }

    /// The sender takes the slots back that were returned. An error when more came than were away.
    pub(super) fn regain(&mut self) -> io::Result<()> {
        let mut counts = [0; SLOTS];
        let read = match self.pipe.read(&mut counts) {
            // The receiver is gone, which the socket says too.
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        let slots: usize = counts[..read].iter().map(|&count| usize::from(count)).sum();
        let left = self.away.checked_sub(slots);
        self.away =
            left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it gave back slots that it never had"))?;
        Ok(())
    }

    /// The receiver looks at the frame whose header has come, and gives slots back when enough have come together.
    pub(super) fn take(&mut self, floats: usize, look: impl FnOnce(&[f32])) {
        look(self.memory.read(self.slot, floats));
        self.slot = (self.slot + 1) % SLOTS;
        self.away += 1;
        // Whether the sender is gone shows when something is expected of it: after its last frame it may be.
        if self.away >= RETURNED && self.pipe.write(&[self.away as u8]).is_ok() {
            self.away = 0;
        }
    }
}

impl Offer {
    fn encode(&self) -> [u8; OFFER_BYTES] {
        let number = |descriptor: &OwnedFd| descriptor.as_raw_fd().unsigned_abs();
        let words = [std::process::id(), number(&self.memory), number(&self.pipe)];
        let mut bytes = [0; OFFER_BYTES];
        bytes[..12].copy_from_slice(&words.map(u32::to_le_bytes).concat());
        bytes[12..].copy_from_slice(&self.mark);
        bytes
    }
}

/// Whether both ends of a connection have one address, as two processes of a host do.
fn is_at_home(wire: &Wire) -> io::Result<bool> {
    let stream = wire.stream();
    Ok(stream.local_addr()?.ip() == stream.peer_addr()?.ip())
}

/// The bytes of a mark as floats of the same bits.
fn marked(mark: &[u8; MARK_BYTES]) -> [f32; MARK_BYTES / size_of::<f32>()] {
    bytemuck::pod_read_unaligned(mark)
}

#[cfg(test)]
mod tests;
