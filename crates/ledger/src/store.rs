//! How records become bytes in a redb file, `ledger/ledger.redb` of the job directory.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `genesis`, `epoch` | JSON of [`Genesis`](crate::Genesis); u64 |
//! | `records` | 32 bytes of the query's key | a record, 32 bytes, see below |
//! | `labels` | 32 bytes of the query's key | probabilities, f32 little-endian |
//! | `journal` | sequence u64, from 0 | bytes of the coordinator |
//!
//! A record, integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | version, 1 |
//! | 1 | state: 0 released, 1 reserved, 2 sent, 3 ambiguous, 4 spent, 5 committed |
//! | 2 | arm: 0 active, 1 control |
//! | 3 | sample: 0 seed image, 1 mix, 2 evaluation image |
//! | 4..12 | u64: image index, or pair id |
//! | 12 | lambda in hundredths; 0 unless a mix |
//! | 13..16 | zero |
//! | 16..20 | u32: number of the latest charge |
//! | 20..24 | u32: earlier charges that stayed ambiguous |
//! | 24..32 | u64: epoch of the latest charge |

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::{Key, Sample, SoftLabel};

use crate::error::LedgerError;
use crate::handle::Genesis;
use crate::permit::{Record, State};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &[u8; 32], &[u8; 32]> = TableDefinition::new("records");
const LABELS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("labels");
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");

const VERSION: u8 = 1;

/// What one commit writes.
#[derive(Debug, Default)]
pub struct Changes {
    /// Records that changed.
    pub records: Vec<(Key, Record)>,
    /// New labels.
    pub labels: Vec<(Key, SoftLabel)>,
    /// New journal entries.
    pub journal: Vec<Vec<u8>>,
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.labels.is_empty() && self.journal.is_empty()
    }
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    database: Database,
    classes: usize,
}

impl Store {
    /// Opens or makes the file in `dir`, checks that it belongs to `genesis`, and counts its life.
    ///
    /// # Errors
    /// When it is in use, belongs to another job, has a larger budget, or cannot be used.
    pub fn open(dir: &Path, genesis: &Genesis) -> Result<(Self, u64), LedgerError> {
        let io = |error: std::io::Error| LedgerError::of(redb::Error::Io(error));
        let folder = dir.join("ledger");
        std::fs::create_dir_all(&folder).map_err(io)?;
        let path = folder.join("ledger.redb");
        let database = Database::create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => LedgerError::Locked { path: path.clone() },
            other => LedgerError::of(other),
        })?;
        // The folder's own entry of the new file must be durable too.
        std::fs::File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io)?;
        let store = Self {
            database,
            classes: genesis.classes as usize,
        };
        let epoch = store.begin_life(&path, genesis)?;
        Ok((store, epoch))
    }

    fn begin_life(&self, path: &PathBuf, genesis: &Genesis) -> Result<u64, LedgerError> {
        let transaction = self.begin()?;
        let epoch = {
            let mut meta = transaction.open_table(META).map_err(LedgerError::of)?;
            transaction.open_table(RECORDS).map_err(LedgerError::of)?;
            transaction.open_table(LABELS).map_err(LedgerError::of)?;
            transaction.open_table(JOURNAL).map_err(LedgerError::of)?;
            let known = meta
                .get("genesis")
                .map_err(LedgerError::of)?
                .map(|value| value.value().to_vec());
            if let Some(known) = known {
                let known = serde_json::from_slice(&known).map_err(|error| damaged(format!("genesis: {error}")))?;
                check_genesis(path, &known, genesis)?;
            }
            let text = serde_json::to_vec(genesis).expect("a genesis has only text keys");
            meta.insert("genesis", text.as_slice()).map_err(LedgerError::of)?;
            let last = meta
                .get("epoch")
                .map_err(LedgerError::of)?
                .map(|value| value.value().to_vec());
            let last = last.map(|bytes| {
                bytes
                    .try_into()
                    .map(u64::from_le_bytes)
                    .map_err(|_| damaged("epoch".into()))
            });
            let epoch = last.transpose()?.unwrap_or(0) + 1;
            meta.insert("epoch", epoch.to_le_bytes().as_slice())
                .map_err(LedgerError::of)?;
            epoch
        };
        transaction.commit().map_err(LedgerError::of)?;
        Ok(epoch)
    }

    fn begin(&self) -> Result<redb::WriteTransaction, LedgerError> {
        let mut transaction = self.database.begin_write().map_err(LedgerError::of)?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(LedgerError::of)?;
        Ok(transaction)
    }

    /// Writes all changes or none, and returns once they are on disk.
    ///
    /// # Errors
    /// When they cannot be written; what the file then holds is only known after opening it again.
    pub fn write(&self, changes: &Changes) -> Result<(), LedgerError> {
        let transaction = self.begin()?;
        {
            let mut records = transaction.open_table(RECORDS).map_err(LedgerError::of)?;
            for (key, record) in &changes.records {
                records.insert(&key.0, &encode(record)).map_err(LedgerError::of)?;
            }
            let mut labels = transaction.open_table(LABELS).map_err(LedgerError::of)?;
            for (key, label) in &changes.labels {
                let bytes: Vec<u8> = label.probabilities().iter().flat_map(|p| p.to_le_bytes()).collect();
                labels.insert(&key.0, bytes.as_slice()).map_err(LedgerError::of)?;
            }
            let mut journal = transaction.open_table(JOURNAL).map_err(LedgerError::of)?;
            let last = journal
                .last()
                .map_err(LedgerError::of)?
                .map(|(sequence, _)| sequence.value());
            let first = last.map_or(0, |last| last + 1);
            for (sequence, entry) in (first..).zip(&changes.journal) {
                journal.insert(sequence, entry.as_slice()).map_err(LedgerError::of)?;
            }
        }
        transaction.commit().map_err(LedgerError::of)
    }

    /// Every record.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(&self) -> Result<HashMap<Key, Record>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = transaction.open_table(RECORDS).map_err(LedgerError::of)?;
        let mut records = HashMap::new();
        for row in table.iter().map_err(LedgerError::of)? {
            let (key, value) = row.map_err(LedgerError::of)?;
            records.insert(Key(*key.value()), decode(value.value())?);
        }
        Ok(records)
    }

    /// Labels of keys, `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no probabilities where it should.
    pub fn labels(&self, keys: &[Key]) -> Result<Vec<Option<SoftLabel>>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = transaction.open_table(LABELS).map_err(LedgerError::of)?;
        let label = |key: &Key| {
            let value = table.get(&key.0).map_err(LedgerError::of)?;
            value.map(|value| self.decode_label(value.value())).transpose()
        };
        keys.iter().map(label).collect()
    }

    fn decode_label(&self, bytes: &[u8]) -> Result<SoftLabel, LedgerError> {
        let floats = bytes
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect();
        SoftLabel::from_probabilities(floats, self.classes).map_err(|error| damaged(format!("label: {error}")))
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = transaction.open_table(JOURNAL).map_err(LedgerError::of)?;
        let mut entries = Vec::new();
        for row in table.iter().map_err(LedgerError::of)? {
            let (_, value) = row.map_err(LedgerError::of)?;
            entries.push(value.value().to_vec());
        }
        Ok(entries)
    }
}

fn damaged(cause: String) -> LedgerError {
    LedgerError::Damaged { cause }
}

fn check_genesis(path: &Path, known: &Genesis, given: &Genesis) -> Result<(), LedgerError> {
    let other = |what| {
        Err(LedgerError::OtherJob {
            path: path.to_path_buf(),
            what,
        })
    };
    if known.job_digest != given.job_digest {
        return other("job (other images, student, training or acquisition)");
    }
    if known.fingerprint != given.fingerprint || known.classes != given.classes {
        return other("teacher (another model, version or response)");
    }
    if given.budget < known.budget {
        let (was, found) = (known.budget, given.budget);
        return Err(LedgerError::BudgetShrunk { was, found });
    }
    Ok(())
}

fn encode(record: &Record) -> [u8; 32] {
    let (kind, at, lambda) = match record.sample {
        Sample::Seed(index) => (0, u64::from(index), 0),
        Sample::Mix(candidate) => (1, candidate.pair.0, candidate.lambda.hundredths()),
        Sample::Evaluation(index) => (2, u64::from(index), 0),
    };
    let mut bytes = [0; 32];
    bytes[0] = VERSION;
    bytes[1] = match record.state {
        State::Released => 0,
        State::Reserved => 1,
        State::Sent => 2,
        State::Ambiguous => 3,
        State::Spent => 4,
        State::Committed => 5,
    };
    bytes[2] = match record.arm {
        Arm::Active => 0,
        Arm::Control => 1,
    };
    bytes[3] = kind;
    bytes[4..12].copy_from_slice(&at.to_le_bytes());
    bytes[12] = lambda;
    bytes[16..20].copy_from_slice(&record.charge.to_le_bytes());
    bytes[20..24].copy_from_slice(&record.lost.to_le_bytes());
    bytes[24..32].copy_from_slice(&record.epoch.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; 32]) -> Result<Record, LedgerError> {
    let wrong = |what: &str| damaged(format!("record: unknown {what}"));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if bytes[0] != VERSION {
        return Err(wrong("version"));
    }
    let index = || u32::try_from(long(4)).map_err(|_| wrong("image"));
    let sample = match bytes[3] {
        0 => Sample::Seed(index()?),
        1 => Sample::Mix(Candidate {
            pair: PairId(long(4)),
            lambda: Lambda::from_hundredths(bytes[12]).ok_or_else(|| wrong("lambda"))?,
        }),
        2 => Sample::Evaluation(index()?),
        _ => return Err(wrong("sample")),
    };
    let state = match bytes[1] {
        0 => State::Released,
        1 => State::Reserved,
        2 => State::Sent,
        3 => State::Ambiguous,
        4 => State::Spent,
        5 => State::Committed,
        _ => return Err(wrong("state")),
    };
    let arm = match bytes[2] {
        0 => Arm::Active,
        1 => Arm::Control,
        _ => return Err(wrong("arm")),
    };
    Ok(Record {
        sample,
        arm,
        state,
        charge: word(16),
        lost: word(20),
        epoch: long(24),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in prop::array::uniform32(any::<u8>())) {
            if let Ok(record) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&record)).expect("its own encoding"), record);
            }
        }
    }

    #[test]
    fn records_keep_every_field() {
        let lambda = Lambda::from_hundredths(34).expect("valid");
        let sample = Sample::Mix(Candidate {
            pair: PairId(1 << 40),
            lambda,
        });
        for state in [
            State::Released,
            State::Reserved,
            State::Sent,
            State::Ambiguous,
            State::Spent,
            State::Committed,
        ] {
            let record = Record {
                sample,
                arm: Arm::Control,
                state,
                charge: 7,
                epoch: 1 << 33,
                lost: 2,
            };
            assert_eq!(decode(&encode(&record)).expect("own encoding"), record);
        }
    }
}
