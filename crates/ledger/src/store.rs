//! The file `ledger/ledger.log` in the job directory: an append-only log of changes, see `frame.rs`
//! for its bytes. Records are in memory ([`crate::book`]); labels and journal stay in the file, and
//! what is kept of them is where they are.
//!
//! Only one process may write, none while others read: `ledger/lock` is locked. A writer also checks
//! before each write that the file is as it left it, in case a lock does not hold what it promises.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stillhouse_core::{Key, SoftLabel};

use crate::codec;
use crate::error::LedgerError;
use crate::frame::{FORMAT, Frame, Kind, PREAMBLE, preamble};
use crate::handle::Genesis;
use crate::lock::Sharing;
use crate::permit::Record;
use crate::replay::Replay;

/// Memory for a group that is kept for the next one: most groups need less.
const FRAME_BYTES: usize = 4 << 20;

/// Who may use the file, and in which life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// What the ledger is for.
    pub genesis: Genesis,
    /// How often it was opened for writing.
    pub epoch: u64,
    /// Queries in all that were granted beside the job's budget; 0 if never.
    pub raised: u64,
}

impl Head {
    /// Queries that may be billed: the job's budget, or more when it was raised.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.genesis.budget.max(self.raised)
    }
}

/// What one commit writes beside changed records.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// A new life, or a new budget.
    pub(crate) head: Option<Head>,
    /// New labels, by position of the record.
    pub(crate) labels: Vec<(usize, SoftLabel)>,
    /// New journal entries.
    pub(crate) journal: Vec<Vec<u8>>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none() && self.labels.is_empty() && self.journal.is_empty()
    }
}

/// Where some bytes are in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) bytes: usize,
}

/// The ledger's file in a job directory.
#[must_use]
pub fn file(dir: &Path) -> PathBuf {
    dir.join("ledger").join("ledger.log")
}

/// Where it is before all of it is on disk.
pub(crate) fn draft_file(dir: &Path) -> PathBuf {
    dir.join("ledger").join("ledger.new")
}

/// The file in which formats up to 3 were kept.
pub(crate) fn old_file(dir: &Path) -> PathBuf {
    dir.join("ledger").join("ledger.redb")
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    file: File,
    /// Bytes of whole frames.
    len: u64,
    /// Frames so far.
    frames: u64,
    /// Records that the file knows; the book's next one is new.
    records: usize,
    classes: usize,
    /// Where labels begin, by position of the record; 0 for none.
    labels: Vec<u64>,
    journal: Vec<Place>,
    frame: Frame,
}

impl Store {
    /// Reads the file of job directory `dir`, whose lock the caller holds; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or another version wrote it.
    pub(crate) fn load(dir: &Path, sharing: Sharing) -> Result<Option<(Self, Replay)>, LedgerError> {
        let is_writer = sharing == Sharing::Nobody;
        let file = match File::options().read(true).write(is_writer).open(file(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (expected, found) = (FORMAT, 0);
                let is_old = old_file(dir).exists();
                return if is_old {
                    Err(LedgerError::OtherFormat { expected, found })
                } else {
                    Ok(None)
                };
            }
            other => other.map_err(LedgerError::of)?,
        };
        let mut replay = Replay::of(&file)?;
        let store = Self {
            dir: dir.to_path_buf(),
            file,
            len: replay.len,
            frames: replay.frames,
            records: replay.records.len(),
            classes: replay.head.genesis.classes as usize,
            labels: std::mem::take(&mut replay.labels),
            journal: std::mem::take(&mut replay.journal),
            frame: Frame::default(),
        };
        Ok(Some((store, replay)))
    }

    /// Begins a file that nobody sees before [`Store::publish`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn draft(dir: &Path, head: &Head) -> Result<Self, LedgerError> {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(draft_file(dir));
        let file = file.map_err(LedgerError::of)?;
        file.write_all_at(&preamble(), 0).map_err(LedgerError::of)?;
        let mut store = Self {
            dir: dir.to_path_buf(),
            file,
            len: PREAMBLE as u64,
            frames: 0,
            records: 0,
            classes: head.genesis.classes as usize,
            labels: Vec::new(),
            journal: Vec::new(),
            frame: Frame::default(),
        };
        let changes = Changes {
            head: Some(head.clone()),
            ..Changes::default()
        };
        store.append(std::iter::empty(), &changes)?;
        Ok(store)
    }

    /// Makes a draft the ledger, all of it or nothing.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub(crate) fn publish(&mut self) -> Result<(), LedgerError> {
        self.file.sync_all().map_err(LedgerError::of)?;
        std::fs::rename(draft_file(&self.dir), file(&self.dir)).map_err(LedgerError::of)?;
        // The names of the file and its folder must be as durable as its bytes.
        for folder in [&*self.dir.join("ledger"), &self.dir] {
            let folder = File::open(folder).map_err(LedgerError::of)?;
            folder.sync_all().map_err(LedgerError::of)?;
        }
        Ok(())
    }

    /// Cuts off what a crash tore, and writes the last frame again: a process that stopped because
    /// its fsync failed may have left it readable and not on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn mend(&mut self, last: Place) -> Result<(), LedgerError> {
        let frame = self.read(last)?;
        self.file.set_len(self.len).map_err(LedgerError::of)?;
        self.file.write_all_at(&frame, last.at).map_err(LedgerError::of)?;
        self.file.sync_all().map_err(LedgerError::of)
    }

    /// Whether the file is as this process left it.
    ///
    /// # Errors
    /// When another process opened it since.
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        let found = self.file.metadata().map_err(LedgerError::of)?;
        if found.len() != self.len || found.nlink() == 0 {
            return Err(LedgerError::Superseded);
        }
        Ok(())
    }

    /// Writes all changes or none, and returns once they are on disk. `records` come with their
    /// positions in the book, new ones in order.
    ///
    /// # Errors
    /// When another process opened the file since, or they cannot be written; what the file then
    /// holds is only known after opening it again.
    pub(crate) fn write<'a>(
        &mut self,
        records: impl Iterator<Item = (usize, &'a Key, &'a Record)>,
        changes: &Changes,
    ) -> Result<(), LedgerError> {
        self.check()?;
        self.append(records, changes)?;
        self.file.sync_data().map_err(LedgerError::of)
    }

    /// Says that this process ended well: from then on damage anywhere is noticed.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) fn close(&mut self) -> Result<(), LedgerError> {
        self.write(std::iter::empty(), &Changes::default())
    }

    /// Adds a frame; on disk only after a sync.
    pub(crate) fn append<'a>(
        &mut self,
        records: impl Iterator<Item = (usize, &'a Key, &'a Record)>,
        changes: &Changes,
    ) -> Result<(), LedgerError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        if let Some(head) = &changes.head {
            let head = serde_json::to_vec(head).expect("a head has only text keys");
            frame.add(Kind::Head, |bytes| bytes.extend(head));
        }
        for (at, key, record) in records {
            self.add_record(&mut frame, at, key, record);
        }
        for (at, label) in &changes.labels {
            self.add_label(&mut frame, *at, label);
        }
        for entry in &changes.journal {
            let start = frame.add(Kind::Journal, |bytes| bytes.extend_from_slice(entry));
            self.journal.push(Place {
                at: self.len + start as u64,
                bytes: entry.len(),
            });
        }
        let bytes = frame.seal(self.frames);
        self.file.write_all_at(bytes, self.len).map_err(LedgerError::of)?;
        self.len += bytes.len() as u64;
        self.frames += 1;
        if bytes.len() <= FRAME_BYTES {
            self.frame = frame;
        }
        Ok(())
    }

    fn add_record(&mut self, frame: &mut Frame, at: usize, key: &Key, record: &Record) {
        if at < self.records {
            frame.add(Kind::Record, |bytes| {
                bytes.extend(position(at));
                codec::encode(record, bytes);
            });
            return;
        }
        assert_eq!(at, self.records, "new records come in order");
        self.records += 1;
        frame.add(Kind::NewRecord, |bytes| {
            bytes.extend(key.0);
            codec::encode(record, bytes);
        });
    }

    fn add_label(&mut self, frame: &mut Frame, at: usize, label: &SoftLabel) {
        let start = frame.add(Kind::Label, |bytes| {
            bytes.extend(position(at));
            codec::encode_label(label, bytes);
        });
        if self.labels.len() <= at {
            self.labels.resize(at + 1, 0);
        }
        self.labels[at] = self.len + start as u64 + 4;
    }

    fn read(&self, place: Place) -> Result<Vec<u8>, LedgerError> {
        let mut bytes = vec![0; place.bytes];
        self.file.read_exact_at(&mut bytes, place.at).map_err(LedgerError::of)?;
        Ok(bytes)
    }

    /// The label of the record at a position, `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no probabilities where it should.
    pub(crate) fn label(&self, at: usize) -> Result<Option<SoftLabel>, LedgerError> {
        let place = match self.labels.get(at) {
            None | Some(0) => return Ok(None),
            Some(start) => Place {
                at: *start,
                bytes: 4 * self.classes,
            },
        };
        codec::decode_label(&self.read(place)?).map(Some)
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that so many `records`, the labels and the journal need at least.
    pub(crate) fn needed_bytes(&self, records: usize) -> u64 {
        let labels = self.labels.iter().filter(|at| **at > 0).count() * 4 * self.classes;
        let journal: usize = self.journal.iter().map(|place| place.bytes).sum();
        (records * codec::RECORD_BYTES + labels + journal) as u64
    }

    /// A journal entry, by its sequence.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn entry(&self, sequence: u64) -> Result<Vec<u8>, LedgerError> {
        self.read(self.journal[sequence as usize])
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.journal.iter().map(|place| self.read(*place)).collect()
    }

    /// Sequence of the next journal entry.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.journal.len() as u64
    }
}

fn position(at: usize) -> [u8; 4] {
    let at = u32::try_from(at).expect("memory ends before four billion records");
    at.to_le_bytes()
}
