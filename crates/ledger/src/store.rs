//! The tables of the redb file `ledger/ledger.redb` in the job directory.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format` | u64 little-endian: 3 |
//! | | `genesis` | JSON of [`Genesis`] |
//! | | `epoch` | u64 little-endian: how often it was opened for writing |
//! | | `raised` | u64 little-endian: the budget that was granted beside the job's; 0 if none was |
//! | `records` | 32 bytes of the query's key | a record, see `codec.rs` |
//! | `labels` | 32 bytes of the query's key | probabilities, f32 little-endian, one a class |
//! | `journal` | u64: sequence, from 0 | bytes of the coordinator |
//!
//! Counts are not stored: they are the sums of the records, added up when the file is opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition,
    TableError, WriteTransaction,
};
use stillhouse_core::{Key, SoftLabel};

use crate::codec;
use crate::error::LedgerError;
use crate::handle::Genesis;
use crate::permit::Record;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("records");
const LABELS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("labels");
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");

const FORMAT: u64 = 3;

/// Pages kept in memory: the whole ledger of some 100,000 queries of ten classes.
const CACHE_BYTES: usize = 64 << 20;

/// Who may use the file, and in which life.
#[derive(Clone, Debug, PartialEq)]
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
pub struct Changes {
    /// A new life, or a new budget.
    pub head: Option<Head>,
    /// New labels.
    pub labels: Vec<(Key, SoftLabel)>,
    /// New journal entries, with their sequence.
    pub journal: Vec<(u64, Vec<u8>)>,
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_none() && self.labels.is_empty() && self.journal.is_empty()
    }
}

/// The open file: a [`Database`] for the writer, a [`ReadOnlyDatabase`] for readers.
#[derive(Debug)]
pub struct Store<D> {
    database: D,
}

/// The ledger's file in a job directory.
#[must_use]
pub fn file(dir: &Path) -> PathBuf {
    dir.join("ledger").join("ledger.redb")
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn opened<D>(path: &Path, database: Result<D, DatabaseError>) -> Result<D, LedgerError> {
    database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => LedgerError::Locked {
            path: path.to_path_buf(),
        },
        other => LedgerError::of(other),
    })
}

impl Store<Database> {
    /// Opens or makes the file of job directory `dir`, and locks it. Makes the tables when it is new.
    ///
    /// # Errors
    /// When it is in use or cannot be used.
    pub fn create(dir: &Path) -> Result<Self, LedgerError> {
        let io = |error: std::io::Error| LedgerError::of(redb::Error::Io(error));
        let path = file(dir);
        let folder = path.parent().expect("the file is in a folder");
        std::fs::create_dir_all(folder).map_err(io)?;
        let database = opened(&path, builder().create(&path))?;
        // The names of the file and its folder must be as durable as its bytes.
        for folder in [folder, dir] {
            let handle = std::fs::File::open(folder).map_err(io)?;
            handle.sync_all().map_err(io)?;
        }
        Ok(Self { database })
    }

    /// Whether life `epoch` still is the last that began.
    ///
    /// # Errors
    /// When it is not, or the file cannot be read.
    pub fn check(&self, epoch: u64) -> Result<(), LedgerError> {
        let found = self.head()?.map_or(0, |head| head.epoch);
        if found != epoch {
            return Err(LedgerError::Superseded { epoch, found });
        }
        Ok(())
    }

    /// Writes all changes or none, as life `epoch`, and returns once they are on disk.
    ///
    /// # Errors
    /// When another life began, or they cannot be written; what the file then holds is only known
    /// after opening it again.
    pub fn write<'a>(
        &self,
        epoch: u64,
        records: impl Iterator<Item = (&'a Key, &'a Record)>,
        changes: &Changes,
    ) -> Result<(), LedgerError> {
        let mut transaction = self.database.begin_write().map_err(LedgerError::of)?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(LedgerError::of)?;
        changes.insert_head(epoch, &transaction)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(LedgerError::of)?;
            for (key, record) in records {
                let bytes = codec::encode(record);
                table.insert(&key.0, bytes.as_slice()).map_err(LedgerError::of)?;
            }
        }
        changes.insert_rows(&transaction)?;
        transaction.commit().map_err(LedgerError::of)
    }
}

impl Changes {
    /// Compares the stored epoch with the writer's, and sets a new head.
    fn insert_head(&self, epoch: u64, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        let mut meta = transaction.open_table(META).map_err(LedgerError::of)?;
        let found = match meta.get("epoch").map_err(LedgerError::of)? {
            Some(value) => u64_of("epoch", value.value())?,
            None => 0,
        };
        let is_next = self.head.as_ref().is_some_and(|head| head.epoch == epoch) && found + 1 == epoch;
        if found != epoch && !is_next {
            return Err(LedgerError::Superseded { epoch, found });
        }
        if let Some(head) = &self.head {
            let genesis = serde_json::to_vec(&head.genesis).expect("a genesis has only text keys");
            let [format, epoch, raised] = [FORMAT, head.epoch, head.raised].map(u64::to_le_bytes);
            let values = [
                ("format", &format[..]),
                ("genesis", &genesis),
                ("epoch", &epoch),
                ("raised", &raised),
            ];
            for (name, value) in values {
                meta.insert(name, value).map_err(LedgerError::of)?;
            }
        }
        Ok(())
    }

    fn insert_rows(&self, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        let mut labels = transaction.open_table(LABELS).map_err(LedgerError::of)?;
        for (key, label) in &self.labels {
            let bytes = codec::encode_label(label);
            labels.insert(&key.0, bytes.as_slice()).map_err(LedgerError::of)?;
        }
        let mut journal = transaction.open_table(JOURNAL).map_err(LedgerError::of)?;
        for (sequence, entry) in &self.journal {
            journal.insert(sequence, entry.as_slice()).map_err(LedgerError::of)?;
        }
        Ok(())
    }
}

fn u64_of(name: &str, bytes: &[u8]) -> Result<u64, LedgerError> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| LedgerError::damaged(format!("{name} is not a number of 8 bytes")))?;
    Ok(u64::from_le_bytes(bytes))
}

impl Store<ReadOnlyDatabase> {
    /// Opens the file of job directory `dir` for reading, while nobody writes it.
    ///
    /// # Errors
    /// When there is none, a writer has it, or it cannot be read.
    pub fn read(dir: &Path) -> Result<Self, LedgerError> {
        let path = file(dir);
        if !path.exists() {
            return Err(LedgerError::Missing { path });
        }
        let database = match builder().open_read_only(&path) {
            // The last writer was killed. Opening for writing mends the file and changes no row.
            Err(DatabaseError::RepairAborted) => {
                drop(opened(&path, builder().open(&path))?);
                builder().open_read_only(&path)
            }
            other => other,
        };
        Ok(Self {
            database: opened(&path, database)?,
        })
    }
}

impl<D: ReadableDatabase> Store<D> {
    /// Who may use the file; `None` when it is new.
    ///
    /// # Errors
    /// When it cannot be read, or another version wrote it.
    pub fn head(&self) -> Result<Option<Head>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = match transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other.map_err(LedgerError::of)?,
        };
        let bytes = |name: &str| {
            let value = table.get(name).map_err(LedgerError::of)?;
            Ok::<_, LedgerError>(value.map(|value| value.value().to_vec()))
        };
        let number = |name: &str| bytes(name)?.map(|bytes| u64_of(name, &bytes)).transpose();
        let found = number("format")?.unwrap_or(0);
        if found != FORMAT {
            let expected = FORMAT;
            return Err(LedgerError::OtherFormat { expected, found });
        }
        let (Some(genesis), Some(epoch), Some(raised)) = (bytes("genesis")?, number("epoch")?, number("raised")?)
        else {
            return Err(LedgerError::damaged("it does not say what it is for"));
        };
        let genesis =
            serde_json::from_slice(&genesis).map_err(|error| LedgerError::damaged(format!("genesis: {error}")))?;
        Ok(Some(Head { genesis, epoch, raised }))
    }

    /// Every record; none when the file is new.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(&self) -> Result<HashMap<Key, Record>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = match transaction.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
            other => other.map_err(LedgerError::of)?,
        };
        let mut records = HashMap::new();
        for row in table.iter().map_err(LedgerError::of)? {
            let (key, value) = row.map_err(LedgerError::of)?;
            records.insert(Key(*key.value()), codec::decode(value.value())?);
        }
        Ok(records)
    }

    /// Visits every record in order of keys, also those that cannot be read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn each_record(&self, mut visit: impl FnMut(Key, Result<Record, LedgerError>)) -> Result<(), LedgerError> {
        self.each(RECORDS, |key, bytes| visit(key, codec::decode(bytes)))
    }

    /// Visits every label in order of keys, also those that cannot be read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn each_label(&self, mut visit: impl FnMut(Key, Result<SoftLabel, LedgerError>)) -> Result<(), LedgerError> {
        self.each(LABELS, |key, bytes| visit(key, codec::decode_label(bytes)))
    }

    fn each(
        &self,
        table: TableDefinition<'_, &'static [u8; 32], &'static [u8]>,
        mut visit: impl FnMut(Key, &[u8]),
    ) -> Result<(), LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = transaction.open_table(table).map_err(LedgerError::of)?;
        for row in table.iter().map_err(LedgerError::of)? {
            let (key, value) = row.map_err(LedgerError::of)?;
            visit(Key(*key.value()), value.value());
        }
        Ok(())
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
            value.map(|value| codec::decode_label(value.value())).transpose()
        };
        keys.iter().map(label).collect()
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

    /// Sequence of the next journal entry.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_sequence(&self) -> Result<u64, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::of)?;
        let table = transaction.open_table(JOURNAL).map_err(LedgerError::of)?;
        let last = table.last().map_err(LedgerError::of)?;
        Ok(last.map_or(0, |(sequence, _)| sequence.value() + 1))
    }
}
