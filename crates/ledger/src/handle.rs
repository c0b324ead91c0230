//! The handle that everybody else holds.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use tokio::sync::{mpsc, oneshot};

use crate::book::Book;
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::permit::{Cause, Charge, OnAmbiguous, Permit, Proof, Record, RequestId};
use crate::store::Store;
use crate::writer::{Command, Reply, Writer};

/// Commands that wait for the writer. Each caller waits for its answer, so this is the number of
/// callers at most; a larger one would only hide that the disk is slow.
const COMMANDS: usize = 256;

/// Largest journal entry, in bytes. A transition holds a query batch at most, some 60 bytes a
/// candidate: this is four million of them.
pub const MAX_ENTRY_BYTES: usize = 256 << 20;

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
    /// What to do about queries in doubt; may change when it is opened again.
    pub on_ambiguous: OnAmbiguous,
}

impl Genesis {
    /// Whether the ledger `path`, made for this, may be opened for `given`.
    pub(crate) fn check(&self, given: &Genesis, path: &Path) -> Result<(), LedgerError> {
        let other = |what: &'static str| {
            let path = path.to_path_buf();
            Err(LedgerError::OtherJob {
                path,
                what: what.into(),
            })
        };
        if self.job_digest != given.job_digest {
            return other("job (other images, student, training or acquisition)");
        }
        if self.fingerprint != given.fingerprint || self.classes != given.classes {
            return other("teacher (another model, version or response)");
        }
        if given.budget < self.budget {
            let (was, found) = (self.budget, given.budget);
            return Err(LedgerError::BudgetShrunk { was, found });
        }
        Ok(())
    }
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
        cause: String,
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
    /// Whether its label came from another job, at no charge.
    pub imported: bool,
    /// Its charges, oldest first; none when its permit was given back.
    pub charges: Vec<Charge>,
    /// The answer.
    pub label: Option<SoftLabel>,
}

impl Entry {
    pub(crate) fn new(key: Key, record: &Record, label: Option<SoftLabel>) -> Self {
        Self {
            key,
            sample: record.sample,
            arm: record.arm,
            imported: record.imported,
            charges: record.charges.to_vec(),
            label,
        }
    }
}

/// Every query of `book`, in order of keys, with its label.
pub(crate) fn entries(store: &Store, book: &Book) -> Result<Vec<Entry>, LedgerError> {
    let entry = |(at, (key, record)): (usize, (&Key, &Record))| Ok(Entry::new(*key, record, store.label(at)?));
    let entries: Result<Vec<Entry>, LedgerError> = book.records().enumerate().map(entry).collect();
    let mut entries = entries?;
    entries.sort_unstable_by_key(|entry| entry.key);
    Ok(entries)
}

/// The ledger of a job directory, open for writing. Cheap to clone. Dropping the last clone waits
/// until what was asked for is on disk and the file is closed.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    epoch: u64,
    classes: usize,
    /// Both are there until dropped.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread ends when nobody can send commands any more.
        self.commands = None;
        // A panic there was told to every caller as `Stopped`.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Ledger {
    /// Opens the ledger in `dir`, making it when there is none, and sorts out what a process that
    /// died left open. Blocks on the disk: call it when a program starts.
    ///
    /// # Errors
    /// When it is in use, belongs to another job or teacher, had a larger budget, or cannot be used.
    pub fn create_or_open(dir: &Path, genesis: &Genesis) -> Result<Self, LedgerError> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (tell, told) = std::sync::mpsc::channel();
        let (place, purpose) = (dir.to_path_buf(), genesis.clone());
        let serve = move || match Writer::open(&place, &purpose) {
            Ok(writer) => {
                // Whoever opens waits for this.
                let _ = tell.send(Ok(writer.epoch()));
                writer.run(received);
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(serve);
        let thread = thread.map_err(|error| LedgerError::Storage {
            cause: format!("no thread: {error}"),
        })?;
        let panicked = |_| Err(LedgerError::damaged("reading it failed in an unforeseen way"));
        let opened = told.recv().unwrap_or_else(panicked);
        let inner = Inner {
            epoch: *opened.as_ref().unwrap_or(&0),
            classes: genesis.classes as usize,
            commands: Some(commands),
            thread: Some(thread),
        };
        // On an error this waits for the thread, which gives the file free.
        opened.map(|_| Self { inner: Arc::new(inner) })
    }

    /// How often this ledger was opened; grows with every start.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Decides about queries, in order; a key that occurs twice gets one permit.
    ///
    /// # Errors
    /// When the decision cannot be written; then nothing may be sent.
    pub async fn admit(&self, requests: Vec<Request>) -> Result<Vec<Admission>, LedgerError> {
        self.call(|reply| Command::Admit(requests, reply)).await
    }

    /// Notes that `request` is about to send queries. Returns those of `permits` that it may send, in
    /// order and each once; the others are void, settled, or sent by another request. Only after
    /// this returned may a byte leave. When the answer was lost, the same request may ask again and
    /// gets the same answer while its queries are in flight.
    ///
    /// # Errors
    /// When it cannot be written; then nothing may be sent.
    pub async fn mark_sent(&self, request: RequestId, permits: Vec<Permit>) -> Result<Vec<Permit>, LedgerError> {
        self.call(|reply| Command::MarkSent(request, permits, reply)).await
    }

    /// Keeps labels. A permit that is settled brings nothing; one in doubt, even of an earlier life,
    /// brings its label.
    ///
    /// # Errors
    /// When they cannot be written, or have the wrong number of classes.
    pub async fn commit(&self, labels: Vec<(Permit, SoftLabel)>) -> Result<(), LedgerError> {
        self.check_classes(labels.iter().map(|(_, label)| label))?;
        self.call(|reply| Command::Commit(labels, reply)).await
    }

    /// Notes that nobody knows whether the queries that `request` sent were billed. Stale permits,
    /// and what another request sent, change nothing.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn ambiguous(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        cause: impl AsRef<str>,
    ) -> Result<(), LedgerError> {
        let cause = Cause::new(cause.as_ref());
        self.call(|reply| Command::Ambiguous(request, permits, cause, reply))
            .await
    }

    /// Notes that the queries that `request` sent were billed and answered with something that is
    /// no label. Stale permits, and what another request sent, change nothing.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn spent(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        cause: impl AsRef<str>,
    ) -> Result<(), LedgerError> {
        let cause = Cause::new(cause.as_ref());
        self.call(|reply| Command::Spent(request, permits, cause, reply)).await
    }

    /// Gives permits back: those not sent always, those that `request` sent on proof that nothing
    /// was billed; without proof they are in doubt. Stale permits, and what another request sent,
    /// change nothing.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn release(&self, request: RequestId, permits: Vec<Permit>, proof: Proof) -> Result<(), LedgerError> {
        self.call(|reply| Command::Release(request, permits, proof, reply))
            .await
    }

    /// Gives permits back that are not needed. What was sent, and stale permits, stay as they are.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn give_back(&self, permits: Vec<Permit>) -> Result<(), LedgerError> {
        self.call(|reply| Command::GiveBack(permits, reply)).await
    }

    /// Gives back charges in doubt, of any life, because the teacher's invoice is closed and does not
    /// contain them; a permit is the key, epoch and number of such a charge. For
    /// reconciliation only: nothing that a gateway knows proves this. Returns how many were given
    /// back; what is not in doubt stays as it is.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn acquit(&self, permits: Vec<Permit>) -> Result<usize, LedgerError> {
        self.call(|reply| Command::Acquit(permits, reply)).await
    }

    /// Allows `budget` queries in all, from now on and in every later life, whatever smaller budget
    /// the job names then.
    ///
    /// # Errors
    /// [`LedgerError::BudgetShrunk`] when that is fewer than now, and when it cannot be written.
    pub async fn raise_budget(&self, budget: u64) -> Result<(), LedgerError> {
        self.call(|reply| Command::RaiseBudget(budget, reply)).await
    }

    /// Keeps labels that another job bought of the same teacher, at no charge: what they are of, for
    /// whom they are wanted, and the label. The caller compares the fingerprints. Returns how many
    /// were not known.
    ///
    /// # Errors
    /// When they cannot be written, or have the wrong number of classes.
    pub async fn import(&self, labels: Vec<(Key, Sample, Arm, SoftLabel)>) -> Result<usize, LedgerError> {
        self.check_classes(labels.iter().map(|(_, _, _, label)| label))?;
        self.call(|reply| Command::Import(labels, reply)).await
    }

    /// Adds an entry to the journal; returns its sequence, from 0.
    ///
    /// # Errors
    /// When it cannot be written, or is larger than [`MAX_ENTRY_BYTES`].
    pub async fn append(&self, entry: Vec<u8>) -> Result<u64, LedgerError> {
        Ok(self.append_all(vec![entry]).await?.start)
    }

    /// Adds entries to the journal, all or none; returns their sequences.
    ///
    /// # Errors
    /// When they cannot be written, or one is larger than [`MAX_ENTRY_BYTES`].
    pub async fn append_all(&self, entries: Vec<Vec<u8>>) -> Result<Range<u64>, LedgerError> {
        let limit = MAX_ENTRY_BYTES;
        if let Some(found) = entries.iter().map(Vec::len).find(|found| *found > limit) {
            return Err(LedgerError::TooLarge { found, limit });
        }
        self.call(|reply| Command::Append(entries, reply)).await
    }

    /// Labels of keys, in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn labels(&self, keys: Vec<Key>) -> Result<Vec<Option<SoftLabel>>, LedgerError> {
        self.call(|reply| Command::Labels(keys, reply)).await
    }

    /// What is permitted in this life and not sent yet, in the order in which the keys came up: what a
    /// queue that lost everything must deliver.
    ///
    /// # Errors
    /// When the writer is gone.
    pub async fn outstanding(&self) -> Result<Vec<(Permit, Sample, Arm)>, LedgerError> {
        self.call(Command::Outstanding).await
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

    fn check_classes<'a>(&self, labels: impl Iterator<Item = &'a SoftLabel>) -> Result<(), LedgerError> {
        let expected = self.inner.classes;
        let mut found = labels.map(|label| label.probabilities().len());
        match found.find(|found| *found != expected) {
            Some(found) => Err(LedgerError::Classes { expected, found }),
            None => Ok(()),
        }
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LedgerError> {
        let gone = || LedgerError::Stopped {
            cause: "its thread ended".into(),
        };
        let commands = self.inner.commands.as_ref().expect("there until dropped");
        let (reply, answer) = oneshot::channel();
        commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
