//! The one thread that writes. Requests that arrive together are decided one after another and
//! written with one fsync (group commit); nobody gets an answer before that.
//!
//! After a failed write every later request fails too: what is on disk is unknown, and nothing may
//! be sent without a record. Opening the ledger again finds out.

use std::ops::Range;
use std::path::Path;

use redb::Database;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample, SoftLabel};
use tokio::sync::{mpsc, oneshot};

use crate::book::Book;
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::handle::{Admission, Entry, Genesis, Request, entries};
use crate::permit::{Cause, Decision, Permit, Proof, Refusal, RequestId};
use crate::store::{Changes, Head, Store, file};

/// Requests written together at most: beyond a few hundred an fsync is cheap already.
const GROUP: usize = 256;

/// A label of another job: what it is of, and for whom it is wanted.
pub type Imported = (Key, Sample, Arm, SoftLabel);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// Something to do.
#[derive(Debug)]
pub enum Command {
    /// Decide about queries.
    Admit(Vec<Request>, Reply<Vec<Admission>>),
    /// Queries are about to be sent: which of them may be.
    MarkSent(RequestId, Vec<Permit>, Reply<Vec<Permit>>),
    /// Labels came.
    Commit(Vec<(Permit, SoftLabel)>, Reply<()>),
    /// Nobody knows.
    Ambiguous(RequestId, Vec<Permit>, Cause, Reply<()>),
    /// Billed for nothing.
    Spent(RequestId, Vec<Permit>, Cause, Reply<()>),
    /// Provably not billed.
    Release(RequestId, Vec<Permit>, Proof, Reply<()>),
    /// Not needed, and not sent.
    GiveBack(Vec<Permit>, Reply<()>),
    /// In doubt, and the teacher's invoice does not contain them.
    Acquit(Vec<Permit>, Reply<usize>),
    /// Labels of another job.
    Import(Vec<Imported>, Reply<usize>),
    /// Allow more queries in all.
    RaiseBudget(u64, Reply<()>),
    /// Note what was done.
    Append(Vec<Vec<u8>>, Reply<Range<u64>>),
    /// Read labels.
    Labels(Vec<Key>, Reply<Vec<Option<SoftLabel>>>),
    /// Read what is permitted and not sent.
    Outstanding(Reply<Vec<(Permit, Sample, Arm)>>),
    /// Read counts.
    Counts(Reply<Counts>),
    /// Read the journal.
    Journal(Reply<Vec<Vec<u8>>>),
    /// Read everything.
    Entries(Reply<Vec<Entry>>),
}

/// An answer that waits for the write, and is given only what is on disk.
type Waiting = Box<dyn FnOnce(&Store<Database>, &Book, Result<(), LedgerError>)>;

/// The thread's state.
#[derive(Debug)]
pub struct Writer {
    store: Store<Database>,
    /// What is on disk and what is being written. After a failed write only a guess, from which
    /// nobody is answered any more.
    book: Book,
    head: Head,
    next_sequence: u64,
    failed: Option<LedgerError>,
}

impl Writer {
    /// Opens the ledger in `dir`, making it when there is none. The new life and what it makes of
    /// the charges that a dead process left open are one transaction.
    ///
    /// # Errors
    /// When it is in use, belongs to another job or teacher, had a larger budget, or cannot be used.
    pub fn open(dir: &Path, genesis: &Genesis) -> Result<Self, LedgerError> {
        let store = Store::create(dir)?;
        let last = store.head()?;
        if let Some(last) = &last {
            last.genesis.check(genesis, &file(dir))?;
        }
        let (epoch, raised) = last.map_or((0, 0), |head| (head.epoch, head.raised));
        let head = Head {
            genesis: genesis.clone(),
            epoch: epoch + 1,
            raised,
        };
        let epoch = head.epoch;
        let mut book = Book::open(head.budget(), genesis.on_ambiguous, epoch, store.records()?);
        let changes = Changes {
            head: Some(head.clone()),
            ..Changes::default()
        };
        store.write(epoch, book.changes(), &changes)?;
        book.forget_changes();
        tracing::debug!(epoch, counts = ?book.counts(), "opened the ledger");
        Ok(Self {
            next_sequence: store.next_sequence()?,
            store,
            head,
            book,
            failed: None,
        })
    }

    /// [`Book::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.book.epoch()
    }

    /// Serves commands until every handle is gone.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while commands.blocking_recv_many(&mut group, GROUP) > 0 {
            self.serve(group.drain(..));
        }
    }

    fn serve(&mut self, group: impl Iterator<Item = Command>) {
        let mut changes = Changes::default();
        let waiting: Vec<Waiting> = group.map(|command| self.decide(command, &mut changes)).collect();
        let outcome = self.persist(&changes);
        for answer in waiting {
            answer(&self.store, &self.book, outcome.clone());
        }
    }

    fn persist(&mut self, changes: &Changes) -> Result<(), LedgerError> {
        if let Some(error) = &self.failed {
            return Err(LedgerError::Stopped {
                cause: error.to_string(),
            });
        }
        let written = if changes.is_empty() && self.book.changes().next().is_none() {
            // An answer of a life that is over is worth nothing.
            self.store.check(self.head.epoch)
        } else {
            self.store.write(self.head.epoch, self.book.changes(), changes)
        };
        self.book.forget_changes();
        written.inspect_err(|error| {
            tracing::error!(%error, "the ledger cannot be written and stops");
            self.failed = Some(error.clone());
        })
    }

    /// Changes the book, notes what else must be written, and returns how to answer after that.
    fn decide(&mut self, command: Command, changes: &mut Changes) -> Waiting {
        match command {
            Command::Admit(requests, reply) => self.admit(requests, reply),
            Command::MarkSent(request, permits, reply) => answer(reply, self.book.mark_sent(request, &permits)),
            Command::Commit(labels, reply) => {
                changes.labels.extend(self.commit(labels));
                answer(reply, ())
            }
            Command::Ambiguous(request, permits, cause, reply) => {
                let count = applied(&permits, |permit| self.book.ambiguous(request, permit, &cause));
                tracing::warn!(count, cause = cause.as_str(), "queries are in doubt");
                answer(reply, ())
            }
            Command::Spent(request, permits, cause, reply) => {
                let count = applied(&permits, |permit| self.book.spent(request, permit, &cause));
                tracing::warn!(
                    count,
                    cause = cause.as_str(),
                    "queries were billed without a usable answer"
                );
                answer(reply, ())
            }
            Command::Release(request, permits, proof, reply) => {
                let count = applied(&permits, |permit| self.book.release(request, permit, proof));
                tracing::debug!(count, ?proof, "permits were given back");
                answer(reply, ())
            }
            Command::GiveBack(permits, reply) => {
                applied(&permits, |permit| self.book.give_back(permit));
                answer(reply, ())
            }
            Command::Acquit(permits, reply) => {
                let count = applied(&permits, |permit| self.book.acquit(permit));
                tracing::info!(count, "queries in doubt are not in the teacher's invoice");
                answer(reply, count)
            }
            Command::Import(labels, reply) => {
                let before = changes.labels.len();
                changes.labels.extend(self.import(labels));
                answer(reply, changes.labels.len() - before)
            }
            Command::RaiseBudget(budget, reply) => self.raise_budget(budget, changes, reply),
            Command::Append(entries, reply) => {
                let first = self.next_sequence;
                changes.journal.extend((first..).zip(entries));
                self.next_sequence = changes.journal.last().map_or(first, |(last, _)| last + 1);
                answer(reply, first..self.next_sequence)
            }
            Command::Labels(keys, reply) => read(reply, move |store, _| store.labels(&keys)),
            Command::Outstanding(reply) => read(reply, |_, book| Ok(book.outstanding())),
            Command::Counts(reply) => read(reply, |_, book| Ok(book.counts())),
            Command::Journal(reply) => read(reply, |store, _| store.journal()),
            Command::Entries(reply) => read(reply, |store, book| entries(store, book.records())),
        }
    }

    fn admit(&mut self, requests: Vec<Request>, reply: Reply<Vec<Admission>>) -> Waiting {
        let decide = |r: &Request| self.book.admit(r.key, r.sample, r.arm);
        let decisions: Vec<Decision> = requests.iter().map(decide).collect();
        // The asker may be gone; a permit that it never saw is given back at the next start.
        read(reply, move |store, _| admissions(store, &requests, decisions))
    }

    fn raise_budget(&mut self, budget: u64, changes: &mut Changes, reply: Reply<()>) -> Waiting {
        let was = self.book.counts().budget;
        if !self.book.raise_budget(budget) {
            let error = LedgerError::BudgetShrunk { was, found: budget };
            return read(reply, |_, _| Err(error));
        }
        self.head.raised = budget;
        changes.head = Some(self.head.clone());
        answer(reply, ())
    }

    /// The labels that must be kept.
    fn import(&mut self, labels: Vec<Imported>) -> impl Iterator<Item = (Key, SoftLabel)> {
        let keep = |(key, sample, arm, label)| self.book.import(key, sample, arm).then_some((key, label));
        labels.into_iter().filter_map(keep)
    }

    /// The labels that must be kept.
    fn commit(&mut self, labels: Vec<(Permit, SoftLabel)>) -> Vec<(Key, SoftLabel)> {
        let keep = |(permit, label): (Permit, SoftLabel)| match self.book.commit(permit) {
            Ok(true) => Some((permit.key, label)),
            Ok(false) => None,
            Err(refusal) => {
                tracing::debug!(?permit, ?refusal, "a label changed nothing");
                None
            }
        };
        labels.into_iter().filter_map(keep).collect()
    }
}

/// Applies a report to each permit; returns how many it changed.
fn applied(permits: &[Permit], mut report: impl FnMut(Permit) -> Result<(), Refusal>) -> usize {
    let changed = |permit: &&Permit| match report(**permit) {
        Ok(()) => true,
        Err(refusal) => {
            tracing::debug!(?permit, ?refusal, "a report changed nothing");
            false
        }
    };
    permits.iter().filter(changed).count()
}

fn answer<T: 'static>(reply: Reply<T>, value: T) -> Waiting {
    read(reply, |_, _| Ok(value))
}

fn read<T: 'static>(
    reply: Reply<T>,
    answer: impl FnOnce(&Store<Database>, &Book) -> Result<T, LedgerError> + 'static,
) -> Waiting {
    Box::new(move |store, book, outcome| {
        // Nobody may be waiting any more.
        let _ = reply.send(outcome.and_then(|()| answer(store, book)));
    })
}

fn admissions(
    store: &Store<Database>,
    requests: &[Request],
    decisions: Vec<Decision>,
) -> Result<Vec<Admission>, LedgerError> {
    let known = requests.iter().zip(&decisions);
    let known = known.filter(|(_, decision)| **decision == Decision::Known);
    let keys: Vec<Key> = known.map(|(request, _)| request.key).collect();
    let mut labels = store.labels(&keys)?.into_iter();
    let admission = |decision| {
        Ok(match decision {
            Decision::Known => {
                let label = labels.next().flatten();
                Admission::Known(label.ok_or_else(|| LedgerError::damaged("a committed query has no label"))?)
            }
            Decision::InFlight => Admission::InFlight,
            Decision::Permitted(permit) => Admission::Permitted(permit),
            Decision::Held(cause) => Admission::Held {
                cause: cause.as_str().to_owned(),
            },
            Decision::Exhausted => Admission::Exhausted,
        })
    };
    decisions.into_iter().map(admission).collect()
}
