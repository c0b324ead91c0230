//! What makes `Idempotency-Key` true: a key is billed once, and asked again is answered again.
//!
//! The last [`ANSWERS`] answers are kept in memory. A key whose answer is no longer there, or that
//! an earlier life of the server billed, is computed anew and not billed: keys are kept on disk
//! where a bill is. They are written before the bill, so that a crash between the two costs the
//! teacher one unbilled request and never the client a second bill.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Answers kept: some MB of probabilities.
const ANSWERS: usize = 4_096;

/// Bytes of one entry of the file: BLAKE3 of a key and of the images that it was for.
const ENTRY_BYTES: usize = 64;

/// What a key was for, and what was answered.
#[derive(Debug)]
pub(super) struct Answered {
    /// BLAKE3 of the images.
    pub(super) images: [u8; 32],
    /// The answer, while it is kept.
    pub(super) values: Option<Vec<f32>>,
}

/// The place of one key: nothing until it is billed. Its lock is held while it is computed, so
/// that a second request of the same key waits for the first.
pub(super) type Place = Arc<Mutex<Option<Answered>>>;

/// Every key that was billed.
#[derive(Debug, Default)]
pub(super) struct Replays {
    places: Mutex<HashMap<[u8; 32], Place>>,
    kept: Mutex<VecDeque<Place>>,
    file: Option<Mutex<File>>,
}

/// Where the keys of the bill at `bill` are.
fn path_of(bill: &Path) -> PathBuf {
    let mut name = bill.as_os_str().to_owned();
    name.push(".keys");
    name.into()
}

impl Replays {
    /// The keys beside `bill`, or without one in memory alone.
    pub(super) fn open(bill: Option<&Path>) -> io::Result<Self> {
        let Some(bill) = bill else {
            return Ok(Self::default());
        };
        let path = path_of(bill);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        let (entries, torn) = bytes.as_chunks::<ENTRY_BYTES>();
        file.set_len((bytes.len() - torn.len()) as u64)?;
        file.seek(SeekFrom::End(0))?;
        let place = |entry: &[u8; ENTRY_BYTES]| {
            let (mut key, mut images) = ([0; 32], [0; 32]);
            key.copy_from_slice(&entry[..32]);
            images.copy_from_slice(&entry[32..]);
            let answered = Answered { images, values: None };
            (key, Arc::new(Mutex::new(Some(answered))))
        };
        Ok(Self {
            places: Mutex::new(entries.iter().map(place).collect()),
            kept: Mutex::default(),
            file: Some(Mutex::new(file)),
        })
    }

    /// The place of `key`.
    pub(super) fn place(&self, key: &str) -> Place {
        let key = *blake3::hash(key.as_bytes()).as_bytes();
        locked(&self.places).entry(key).or_default().clone()
    }

    /// Writes that `key` was billed for `images`, and waits until the disk has it.
    pub(super) fn record(&self, key: &str, images: [u8; 32]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let entry = [*blake3::hash(key.as_bytes()).as_bytes(), images].concat();
        let mut file = locked(file);
        file.write_all(&entry)?;
        file.sync_data()
    }

    /// Keeps the answer in `place`, and forgets the oldest one that is too many.
    pub(super) fn keep(&self, place: &Place) {
        let mut kept = locked(&self.kept);
        kept.push_back(place.clone());
        let oldest = if kept.len() > ANSWERS { kept.pop_front() } else { None };
        drop(kept);
        if let Some(answered) = oldest.as_deref().map(locked).as_deref_mut().and_then(Option::as_mut) {
            answered.values = None;
        }
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves nothing half done behind these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
