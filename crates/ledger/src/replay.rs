//! Reads `ledger.log` from its beginning: what all its frames come to, and where the last whole one
//! ends.
//!
//! A crash tears the last frame at most, and nobody was answered for it: it is left out. Anything
//! else that is not as it was written is damage, and the file is refused.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use indexmap::map::Entry;
use stillhouse_core::Key;

use crate::book::Records;
use crate::codec;
use crate::error::LedgerError;
use crate::frame::{HEADER, Header, Item, Kind, PREAMBLE, check_preamble, items, numbered};
use crate::store::{Head, Place};

/// Read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) head: Head,
    pub(crate) records: Records,
    /// Where labels begin, by position of the record; 0 for none.
    pub(crate) labels: Vec<u64>,
    pub(crate) journal: Vec<Place>,
    /// Bytes of whole frames, and how many those are.
    pub(crate) len: u64,
    pub(crate) frames: u64,
    /// The last whole frame.
    pub(crate) last: Place,
    /// Whether the last process said that it ended.
    pub(crate) ended_well: bool,
}

impl Replay {
    /// Reads `file` to its end.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or another version wrote it.
    pub(crate) fn of(file: &File) -> Result<Self, LedgerError> {
        let size = file.metadata().map_err(LedgerError::of)?.len();
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        reader.seek(SeekFrom::Start(0)).map_err(LedgerError::of)?;
        let mut preamble = Vec::with_capacity(PREAMBLE);
        let mut start = reader.by_ref().take(PREAMBLE as u64);
        start.read_to_end(&mut preamble).map_err(LedgerError::of)?;
        check_preamble(&preamble)?;
        let mut frames = Frames {
            reader,
            at: PREAMBLE as u64,
            size,
            number: 0,
            items: Vec::new(),
        };
        // Frame 0 became visible with the file's name, so no crash tears it.
        let first = frames
            .next()?
            .ok_or_else(|| LedgerError::damaged("it has no first frame"))?;
        let mut replay = Self::begin(frames.items(), first)?;
        while let Some(frame) = frames.next()? {
            replay.apply_all(frames.items(), frame)?;
        }
        replay.frames = frames.number;
        Ok(replay)
    }

    fn begin(bytes: &[u8], frame: Place) -> Result<Self, LedgerError> {
        let first = items(bytes).next().transpose()?;
        let head = first.filter(|item| item.kind == Kind::Head);
        let head = head.ok_or_else(|| LedgerError::damaged("it does not say what it is for"))?;
        let mut replay = Self {
            head: head_of(head.body)?,
            records: Records::default(),
            labels: Vec::new(),
            journal: Vec::new(),
            len: 0,
            frames: 0,
            last: frame,
            ended_well: false,
        };
        replay.apply_all(bytes, frame)?;
        Ok(replay)
    }

    fn apply_all(&mut self, bytes: &[u8], frame: Place) -> Result<(), LedgerError> {
        for item in items(bytes) {
            self.apply(&item?, frame.at + HEADER as u64)?;
        }
        self.len = frame.at + frame.bytes as u64;
        self.last = frame;
        self.ended_well = bytes.is_empty();
        Ok(())
    }

    /// `start` is where the items of the frame begin.
    fn apply(&mut self, item: &Item<'_>, start: u64) -> Result<(), LedgerError> {
        let at = start + item.at as u64;
        match item.kind {
            Kind::Head => self.head = head_of(item.body)?,
            Kind::NewRecord => self.add_record(item.body)?,
            Kind::Record => {
                let (position, body) = numbered(item.body)?;
                let known = self.records.get_index_mut(position);
                *known.ok_or_else(unknown)?.1 = codec::decode(body)?;
            }
            Kind::Label => self.add_label(item.body, at)?,
            Kind::Journal => self.journal.push(Place {
                at,
                bytes: item.body.len(),
            }),
        }
        Ok(())
    }

    fn add_record(&mut self, body: &[u8]) -> Result<(), LedgerError> {
        let (key, body) = body
            .split_first_chunk::<32>()
            .ok_or_else(|| LedgerError::damaged("a record has no key"))?;
        let record = codec::decode(body)?;
        match self.records.entry(Key(*key)) {
            Entry::Occupied(_) => Err(LedgerError::damaged("a record begins twice")),
            Entry::Vacant(new) => {
                new.insert(record);
                Ok(())
            }
        }
    }

    fn add_label(&mut self, body: &[u8], at: u64) -> Result<(), LedgerError> {
        let (position, label) = numbered(body)?;
        if position >= self.records.len() {
            return Err(unknown());
        }
        if label.len() != 4 * self.head.genesis.classes as usize {
            return Err(LedgerError::damaged("a label has another number of classes"));
        }
        if self.labels.len() <= position {
            self.labels.resize(position + 1, 0);
        }
        self.labels[position] = at + 4;
        Ok(())
    }
}

fn head_of(body: &[u8]) -> Result<Head, LedgerError> {
    serde_json::from_slice(body).map_err(|error| LedgerError::damaged(format!("head: {error}")))
}

fn unknown() -> LedgerError {
    LedgerError::damaged("an item is about a record that did not begin")
}

/// Whole frames of a file, one after another.
struct Frames<'a> {
    reader: BufReader<&'a File>,
    at: u64,
    size: u64,
    /// Of the next frame.
    number: u64,
    items: Vec<u8>,
}

impl Frames<'_> {
    /// The items of the frame that was read last.
    fn items(&self) -> &[u8] {
        &self.items
    }

    /// Reads the next frame; `None` at the end, or when a crash tore it.
    fn next(&mut self) -> Result<Option<Place>, LedgerError> {
        let left = self.size - self.at;
        let mut start = [0; HEADER];
        let start = &mut start[..left.min(HEADER as u64) as usize];
        self.reader.read_exact(start).map_err(LedgerError::of)?;
        let Some(header) = Header::read(start) else {
            return self.torn(start);
        };
        if header.number != self.number {
            return Err(LedgerError::damaged(format!(
                "expected frame {}, found {}",
                self.number, header.number
            )));
        }
        let left = left - HEADER as u64;
        if header.bytes > left {
            return Ok(None);
        }
        self.items.resize(header.bytes as usize, 0);
        self.reader.read_exact(&mut self.items).map_err(LedgerError::of)?;
        if !header.covers(&self.items) {
            let is_last = header.bytes == left;
            let damaged = || LedgerError::damaged(format!("frame {} is not as it was written", header.number));
            return if is_last { Ok(None) } else { Err(damaged()) };
        }
        let frame = Place {
            at: self.at,
            bytes: HEADER + self.items.len(),
        };
        self.at += frame.bytes as u64;
        self.number += 1;
        Ok(Some(frame))
    }

    /// What begins here is no frame: torn, unless frames follow.
    fn torn(&mut self, start: &[u8]) -> Result<Option<Place>, LedgerError> {
        let mut rest = start.to_vec();
        self.reader.read_to_end(&mut rest).map_err(LedgerError::of)?;
        if Header::is_in(&rest) {
            let number = self.number;
            return Err(LedgerError::damaged(format!(
                "frame {number} is missing and others follow"
            )));
        }
        Ok(None)
    }
}
