//! Reads a ledger row by row and says everything that is wrong with it, for `ledger verify`.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Builder, ReadOnlyDatabase, StorageBackend};
use stillhouse_core::{Key, SoftLabel};

use crate::error::LedgerError;
use crate::handle::{Entry, Genesis};
use crate::permit::{Record, State};
use crate::store::{Store, file};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which query; `None` when it is about the whole.
    pub key: Option<Key>,
    /// What.
    pub what: String,
}

/// What a ledger holds, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Audit {
    /// What the ledger is for.
    pub genesis: Genesis,
    /// Queries that may be billed: the job's budget, or more when it was raised.
    pub budget: u64,
    /// Every query whose record can be read, in order of keys.
    pub entries: Vec<Entry>,
    /// The journal, oldest first.
    pub journal: Vec<Vec<u8>>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Audits the ledger in `dir`; changes nothing. Holds the whole file in memory for a moment, to
    /// check the checksums of its pages.
    ///
    /// # Errors
    /// When there is none, a job is running on it, or it is damaged so badly that nothing can be read.
    pub fn of(dir: &Path) -> Result<Self, LedgerError> {
        let unreadable = |_| Err(LedgerError::damaged("reading it failed in an unforeseen way"));
        let store = Store::read(dir)?;
        // Damaged pages can make redb panic.
        catch_unwind(AssertUnwindSafe(|| Self::read(&store, dir))).unwrap_or_else(unreadable)
    }

    fn read(store: &Store<ReadOnlyDatabase>, dir: &Path) -> Result<Self, LedgerError> {
        let head = store.head()?.ok_or_else(|| LedgerError::Missing { path: file(dir) })?;
        let mut findings = Findings::default();
        if !pages_are_whole(dir)? {
            findings.add(None, "the checksums of the file's pages do not hold");
        }
        let mut labels = HashMap::new();
        store.each_label(|key, label| match label {
            Ok(label) => drop(labels.insert(key, label)),
            Err(error) => findings.add(Some(key), error.to_string()),
        })?;
        let mut records = Vec::new();
        store.each_record(|key, record| match record {
            Ok(record) => records.push((key, record)),
            Err(error) => findings.add(Some(key), error.to_string()),
        })?;
        let entries: Vec<Entry> = records
            .into_iter()
            .map(|(key, record)| {
                let label = labels.remove(&key);
                findings.record(key, &record, label.as_ref(), head.epoch, &head.genesis);
                Entry::new(key, record, label)
            })
            .collect();
        findings.orphans(labels.into_keys());
        findings.budget(&entries, head.budget());
        let journal = findings.journal(store)?;
        Ok(Self {
            budget: head.budget(),
            genesis: head.genesis,
            entries,
            journal,
            findings: findings.0,
        })
    }
}

/// Whether every page of the file has its checksum. Checked on a copy, because a check of the file
/// itself would mend it.
fn pages_are_whole(dir: &Path) -> Result<bool, LedgerError> {
    let io = |error: std::io::Error| LedgerError::of(redb::Error::Io(error));
    let bytes = std::fs::read(file(dir)).map_err(io)?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).map_err(io)?;
    copy.write(0, &bytes).map_err(io)?;
    drop(bytes);
    let check = AssertUnwindSafe(|| Builder::new().create_with_backend(copy)?.check_integrity());
    Ok(catch_unwind(check).is_ok_and(|outcome| outcome.unwrap_or(false)))
}

/// What is wrong so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, key: Option<Key>, what: impl Into<String>) {
        self.0.push(Finding { key, what: what.into() });
    }

    fn record(&mut self, key: Key, record: &Record, label: Option<&SoftLabel>, epoch: u64, genesis: &Genesis) {
        let key = Some(key);
        let of = |wanted: fn(&State) -> bool| record.charges.iter().filter(|charge| wanted(&charge.state)).count();
        let committed = of(|state| matches!(state, State::Committed));
        let open = of(|state| matches!(state, State::Reserved | State::Renewed(_) | State::Sent));
        if committed > 1 {
            self.add(
                key,
                format!("{committed} charges brought the label, expected at most one"),
            );
        }
        if open > 1 {
            self.add(key, format!("{open} charges are open at once, expected at most one"));
        }
        let numbers: HashSet<u32> = record.charges.iter().map(|charge| charge.number).collect();
        if numbers.len() < record.charges.len() {
            self.add(key, "two charges have one number");
        }
        if let Some(beyond) = numbers.iter().find(|number| !(1..=record.issued).contains(*number)) {
            self.add(key, format!("charge {beyond} of {} permits", record.issued));
        }
        if let Some(later) = record.charges.iter().find(|charge| charge.epoch > epoch) {
            self.add(
                key,
                format!("a charge of epoch {}, but it is epoch {epoch}", later.epoch),
            );
        }
        self.label(key, record, label, genesis.classes as usize);
    }

    fn label(&mut self, key: Option<Key>, record: &Record, label: Option<&SoftLabel>, classes: usize) {
        match (record.is_labelled(), label) {
            (true, None) => self.add(key, "a query that was answered has no label"),
            (false, Some(_)) => self.add(key, "a label that no charge paid for and nobody imported"),
            (true, Some(label)) if label.probabilities().len() != classes => {
                let found = label.probabilities().len();
                self.add(key, format!("a label of {found} classes, expected {classes}"));
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn orphans(&mut self, keys: impl Iterator<Item = Key>) {
        let mut keys: Vec<Key> = keys.collect();
        keys.sort_unstable();
        // A label whose record cannot be read was told of already.
        let told: HashSet<Key> = self.0.iter().filter_map(|finding| finding.key).collect();
        for key in keys.into_iter().filter(|key| !told.contains(key)) {
            self.add(Some(key), "a label of a query that was never asked");
        }
    }

    fn budget(&mut self, entries: &[Entry], budget: u64) {
        let charges: u64 = entries.iter().map(|entry| entry.charges.len() as u64).sum();
        if charges > budget {
            self.add(None, format!("{charges} charges, but the budget is {budget} queries"));
        }
    }

    fn journal(&mut self, store: &Store<ReadOnlyDatabase>) -> Result<Vec<Vec<u8>>, LedgerError> {
        let journal = store.journal()?;
        let next = store.next_sequence()?;
        if next != journal.len() as u64 {
            self.add(
                None,
                format!("{} journal entries, but the next is number {next}", journal.len()),
            );
        }
        Ok(journal)
    }
}
