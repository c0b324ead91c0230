//! The bytes of one frame: a fixed header that says exactly what follows, then floats.
//!
//! | offset | bytes | content (little endian) |
//! |---|---|---|
//! | 0 | 1 | operation: 1 all-gather, 2 all-reduce, 3 barrier |
//! | 1 | 1 | phase: 0 reduce, 1 gather |
//! | 2 | 2 | zero |
//! | 4 | 4 | sequence number of the operation in this ring, from 0, wrapping |
//! | 8 | 4 | step within the phase |
//! | 12 | 4 | floats that follow, at most [`MAX_FLOATS`] |
//! | 16 | 4 a float | IEEE 754 single precision |
//!
//! A segment travels as full frames and one shorter one; an empty segment is one frame of nothing.
//! Both ends know every header beforehand, so a receiver compares and never obeys.

use crate::error::Operation;

#[cfg(target_endian = "big")]
compile_error!("the ring sends floats as they lie in memory, which must be little endian");

/// Floats in a full frame: 128 KiB, which stays in a core's second-level cache while it is added.
pub(super) const MAX_FLOATS: usize = 32 << 10;

/// Length of a header.
pub(super) const HEADER_BYTES: usize = 16;

/// The two halves of an all-reduce; the other operations only gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Reduce,
    Gather,
}

/// Where in the ring's common history a frame belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) operation: Operation,
    pub(super) phase: Phase,
    pub(super) sequence: u32,
    pub(super) step: u32,
}

impl Tag {
    /// Encodes the header of a frame of `floats`.
    pub(super) fn header(&self, floats: usize) -> [u8; HEADER_BYTES] {
        debug_assert!(floats <= MAX_FLOATS, "a frame of {floats} floats is over the bound");
        let mut header = [0; HEADER_BYTES];
        header[0] = match self.operation {
            Operation::Connect => unreachable!("no frame is sent while connecting"),
            Operation::AllGather => 1,
            Operation::AllReduce => 2,
            Operation::Barrier => 3,
        };
        header[1] = match self.phase {
            Phase::Reduce => 0,
            Phase::Gather => 1,
        };
        header[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        header[8..12].copy_from_slice(&self.step.to_le_bytes());
        header[12..16].copy_from_slice(&(floats as u32).to_le_bytes());
        header
    }
}

/// Describes a header for an error message, whoever wrote it.
pub(super) fn describe(header: &[u8; HEADER_BYTES]) -> String {
    let operation = match header[0] {
        1 => "all-gather",
        2 => "all-reduce",
        3 => "barrier",
        _ => "an unknown operation",
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    format!(
        "{operation} {} phase {} step {} with a frame of {} floats",
        word(4),
        header[1],
        word(8),
        word(12)
    )
}
