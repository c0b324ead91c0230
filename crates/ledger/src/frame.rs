//! The bytes of `ledger.log`: what it begins with, frames, and the items in them. Integers are
//! little-endian; checksums are CRC-32 (IEEE).
//!
//! The file:
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | `stillhouse log\r\n` |
//! | 16..24 | u64: format, 4 |
//! | 24..28 | checksum of 0..24 |
//! | 28.. | frames |
//!
//! A frame is one group of changes: all of them happened, or none. The next one begins only when it
//! is on disk, so a crash tears the last one at most.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | `frm\x1a` |
//! | 4..8 | checksum of 28.. |
//! | 8..16 | u64: bytes from 28 on |
//! | 16..24 | u64: number of the frame, from 0 |
//! | 24..28 | checksum of 0..24 |
//! | 28.. | items; none says that the process ended well |
//!
//! An item:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | kind |
//! | 1..5 | u32: bytes from 5 on |
//! | 5.. | see below |
//!
//! | kind | what |
//! |---|---|
//! | 1 head | JSON of [`crate::store::Head`] |
//! | 2 new record | 32 bytes of the query's key; the record, see `codec.rs`. Records are numbered from 0 |
//! | 3 record | u32: number of the record; all of it as it is now |
//! | 4 label | u32: number of the record; probabilities, f32, one a class |
//! | 5 journal | bytes of the coordinator; entries are numbered from 0 |

use crate::error::LedgerError;

pub(crate) const FORMAT: u64 = 4;
/// Bytes before the first frame.
pub(crate) const PREAMBLE: usize = 28;
/// Bytes of a frame before its items.
pub(crate) const HEADER: usize = 28;

const MAGIC: &[u8; 16] = b"stillhouse log\r\n";
const MARKER: &[u8; 4] = b"frm\x1a";

/// Kinds of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Head = 1,
    NewRecord = 2,
    Record = 3,
    Label = 4,
    Journal = 5,
}

/// What the file begins with.
pub(crate) fn preamble() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Checks what a file begins with.
pub(crate) fn check_preamble(bytes: &[u8]) -> Result<(), LedgerError> {
    let wrong = || LedgerError::damaged("it does not begin as a ledger does");
    let (start, checksum) = bytes.split_at_checked(24).ok_or_else(wrong)?;
    let magic = start.starts_with(MAGIC);
    if !magic || checksum != crc32fast::hash(start).to_le_bytes() {
        return Err(wrong());
    }
    let found = u64_at(start, 16);
    if found != FORMAT {
        let expected = FORMAT;
        return Err(LedgerError::OtherFormat { expected, found });
    }
    Ok(())
}

/// What a frame's header says of its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    checksum: u32,
}

impl Header {
    /// Reads the header that `bytes` begin with; `None` when they begin with none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let is_whole = header.starts_with(MARKER) && header[24..] == crc32fast::hash(&header[..24]).to_le_bytes();
        is_whole.then(|| Self {
            number: u64_at(header, 16),
            bytes: u64_at(header, 8),
            checksum: u32_at(header, 4),
        })
    }

    /// Whether `items` are what was written.
    pub(crate) fn covers(&self, items: &[u8]) -> bool {
        items.len() as u64 == self.bytes && crc32fast::hash(items) == self.checksum
    }

    /// Whether a header is somewhere in `bytes`.
    pub(crate) fn is_in(bytes: &[u8]) -> bool {
        let starts = bytes.windows(MARKER.len()).enumerate();
        let mut starts = starts.filter(|(_, window)| window == MARKER);
        starts.any(|(at, _)| Self::read(&bytes[at..]).is_some())
    }
}

/// A frame in the making.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// Begins anew, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER, 0);
    }

    /// Adds an item; returns where its body begins, in bytes from the start of the frame.
    pub(crate) fn add(&mut self, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.bytes.push(kind as u8);
        let at = self.bytes.len() + 4;
        self.bytes.extend([0; 4]);
        body(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - at).expect("a journal entry is the largest item");
        self.bytes[at - 4..at].copy_from_slice(&length.to_le_bytes());
        at
    }

    /// Completes it as frame `number`.
    pub(crate) fn seal(&mut self, number: u64) -> &[u8] {
        let (header, items) = self.bytes.split_at_mut(HEADER);
        header[..4].copy_from_slice(MARKER);
        header[4..8].copy_from_slice(&crc32fast::hash(items).to_le_bytes());
        header[8..16].copy_from_slice(&(items.len() as u64).to_le_bytes());
        header[16..24].copy_from_slice(&number.to_le_bytes());
        let checksum = crc32fast::hash(&header[..24]);
        header[24..].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }
}

/// One item of a frame.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(crate) kind: Kind,
    /// Where its body begins, in bytes from the start of the items.
    pub(crate) at: usize,
    pub(crate) body: &'a [u8],
}

/// The items of a frame, in order; ends after an error.
pub(crate) fn items(bytes: &[u8]) -> impl Iterator<Item = Result<Item<'_>, LedgerError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let item = item(rest, at);
        at = item.as_ref().map_or(bytes.len(), |item| item.at + item.body.len());
        Some(item)
    })
}

fn item(rest: &[u8], at: usize) -> Result<Item<'_>, LedgerError> {
    let cut = || LedgerError::damaged("an item is cut off");
    let (head, rest) = rest.split_at_checked(5).ok_or_else(cut)?;
    let kind = match head[0] {
        1 => Kind::Head,
        2 => Kind::NewRecord,
        3 => Kind::Record,
        4 => Kind::Label,
        5 => Kind::Journal,
        other => return Err(LedgerError::damaged(format!("an item is of unknown kind {other}"))),
    };
    let body = rest.get(..u32_at(head, 1) as usize).ok_or_else(cut)?;
    Ok(Item { kind, at: at + 5, body })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Takes the record's number off the body of an item.
pub(crate) fn numbered(body: &[u8]) -> Result<(usize, &[u8]), LedgerError> {
    let (number, rest) = body
        .split_first_chunk::<4>()
        .ok_or_else(|| LedgerError::damaged("an item names no record"))?;
    Ok((u32::from_le_bytes(*number) as usize, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(bodies: &[Vec<u8>], number: u64) -> Vec<u8> {
        let mut frame = Frame::default();
        frame.clear();
        for body in bodies {
            frame.add(Kind::Journal, |bytes| bytes.extend(body));
        }
        frame.seal(number).to_vec()
    }

    proptest! {
        #[test]
        fn a_frame_keeps_its_items(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6), number: u64) {
            let bytes = frame(&bodies, number);
            let header = Header::read(&bytes).expect("a frame");
            prop_assert!(header.covers(&bytes[HEADER..]) && header.number == number);
            let found: Result<Vec<Vec<u8>>, _> = items(&bytes[HEADER..]).map(|item| Ok::<_, LedgerError>(item?.body.to_vec())).collect();
            prop_assert_eq!(found.expect("own encoding"), bodies);
        }

        #[test]
        fn a_changed_bit_is_noticed(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6), at: prop::sample::Index, bit in 0_u32..8) {
            let mut bytes = frame(&bodies, 7);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let is_whole = Header::read(&bytes).is_some_and(|header| header.covers(&bytes[HEADER..]));
            prop_assert!(!is_whole);
        }

        #[test]
        fn any_bytes_are_items_or_refused(bytes in prop::collection::vec(0_u8..8, 0..60)) {
            let ends = items(&bytes).take_while(Result::is_ok).count();
            prop_assert!(ends <= bytes.len());
        }
    }

    #[test]
    fn a_header_is_found_wherever_it_is() {
        let bytes = [&b"frm\x1afrm"[..], &frame(&[vec![1]], 3)].concat();
        assert!(Header::is_in(&bytes));
        assert!(!Header::is_in(&bytes[..bytes.len() - 10]));
    }
}
