//! The handle that everybody else holds.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use tokio::sync::{mpsc, oneshot};

use crate::error::LedgerError;
use crate::permit::{Book, Counts, OnAmbiguous, Permit, Proof, State};
use crate::store::{Changes, Store};
use crate::writer::{Command, Reply, Writer};

/// Commands that wait for the writer. Each caller waits for its answer, so this is the number of
/// callers at most; a larger one would only hide that the disk is slow.
const COMMANDS: usize = 256;

/// What a ledger is for; written into it when it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// Digest of job and images.
    pub job_digest: [u8; 32],
    /// Whose answers it holds.
    pub fingerprint: Fingerprint,
    /// Queries that may be billed; may grow when it is opened again.
    pub budget: u64,
    /// Classes of a label.
    pub classes: u32,
    /// What to do about queries in doubt.
    pub on_ambiguous: OnAmbiguous,
}

/// A wish to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name of the query.
    pub key: Key,
    /// What is asked.
    pub sample: Sample,
    /// For whom.
    pub arm: Arm,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Nothing to ask: here is the label.
    Known(SoftLabel),
    /// Somebody asks already; look again later.
    InFlight,
    /// Ask.
    Permitted(Permit),
    /// It was asked, no label came of it, and it is not asked again.
    Held {
        /// Why there is none.
        cause: &'static str,
    },
    /// The budget is spent.
    Exhausted,
}

/// One query of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// What was asked.
    pub sample: Sample,
    /// For whom it was asked first.
    pub arm: Arm,
    /// What is known of it.
    pub state: State,
    /// The answer.
    pub label: Option<SoftLabel>,
}

/// The ledger of a job directory. Cheap to clone; the file closes with the last clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    epoch: u64,
}

impl Ledger {
    /// Opens the ledger in `dir`, making it when there is none, and sorts out what a process that
    /// died left open.
    ///
    /// # Errors
    /// When it is in use, belongs to another job or teacher, had a larger budget, or cannot be used.
    pub fn create_or_open(dir: &Path, genesis: &Genesis) -> Result<Self, LedgerError> {
        let (store, epoch) = Store::open(dir, genesis)?;
        let mut book = Book::new(genesis.budget, genesis.on_ambiguous, epoch, store.records()?);
        book.recover();
        let keys = book.take_dirty();
        let records = keys.iter().filter_map(|key| Some((*key, *book.record(key)?))).collect();
        store.write(&Changes {
            records,
            ..Changes::default()
        })?;
        let (commands, received) = mpsc::channel(COMMANDS);
        let writer = Writer::new(store, book);
        let spawned = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(received));
        spawned.map_err(|error| LedgerError::Storage {
            cause: format!("no thread: {error}"),
        })?;
        Ok(Self { commands, epoch })
    }

    /// How often this ledger was opened; grows with every start.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Decides about queries, in order; a key that occurs twice gets one permit.
    ///
    /// # Errors
    /// When the decision cannot be written; then nothing may be sent.
    pub async fn admit(&self, requests: Vec<Request>) -> Result<Vec<Admission>, LedgerError> {
        self.call(|reply| Command::Admit(requests, reply)).await
    }

    /// Notes that queries are about to be sent. Only after this returned may a byte leave.
    ///
    /// # Errors
    /// [`LedgerError::Stale`] when a permit is not valid any more, and then none may be sent.
    pub async fn mark_sent(&self, permits: Vec<Permit>) -> Result<(), LedgerError> {
        self.call(|reply| Command::MarkSent(permits, reply)).await
    }

    /// Keeps labels. Stale permits bring nothing, except labels of queries in doubt.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn commit(&self, labels: Vec<(Permit, SoftLabel)>) -> Result<(), LedgerError> {
        self.call(|reply| Command::Commit(labels, reply)).await
    }

    /// Notes that nobody knows whether queries were billed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn ambiguous(&self, permits: Vec<Permit>, cause: impl Into<String>) -> Result<(), LedgerError> {
        let cause = cause.into();
        self.call(|reply| Command::Ambiguous(permits, cause, reply)).await
    }

    /// Notes that queries were billed and answered with something that is no label.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn spent(&self, permits: Vec<Permit>, cause: impl Into<String>) -> Result<(), LedgerError> {
        let cause = cause.into();
        self.call(|reply| Command::Spent(permits, cause, reply)).await
    }

    /// Gives permits back, on proof that nothing was billed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn release(&self, permits: Vec<Permit>, proof: Proof) -> Result<(), LedgerError> {
        self.call(|reply| Command::Release(permits, proof, reply)).await
    }

    /// Adds an entry to the journal.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn append(&self, entry: Vec<u8>) -> Result<(), LedgerError> {
        self.call(|reply| Command::Append(entry, reply)).await
    }

    /// Labels of keys, in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn labels(&self, keys: Vec<Key>) -> Result<Vec<Option<SoftLabel>>, LedgerError> {
        self.call(|reply| Command::Labels(keys, reply)).await
    }

    /// Charges by state.
    ///
    /// # Errors
    /// When the writer is gone.
    pub async fn counts(&self) -> Result<Counts, LedgerError> {
        self.call(Command::Counts).await
    }

    /// The journal, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn journal(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.call(Command::Journal).await
    }

    /// Every query, in order of keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn entries(&self) -> Result<Vec<Entry>, LedgerError> {
        self.call(Command::Entries).await
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LedgerError> {
        let gone = || LedgerError::Stopped {
            cause: "its thread ended".into(),
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
