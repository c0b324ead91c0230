//! The one thread that writes. Requests that arrive together are decided one after another and
//! written with one fsync (group commit); nobody gets an answer before that.
//!
//! After a failed write every later request fails too: what is on disk is unknown, and nothing may
//! be sent without a record. Opening the ledger again finds out.

use stillhouse_core::{Key, SoftLabel};
use tokio::sync::{mpsc, oneshot};

use crate::error::LedgerError;
use crate::handle::{Admission, Entry, Request};
use crate::permit::{Book, Counts, Decision, Permit, Proof, State};
use crate::store::{Changes, Store};

/// Requests written together at most: beyond a few hundred an fsync is cheap already.
const GROUP: usize = 256;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// Something to do.
#[derive(Debug)]
pub enum Command {
    /// Decide about queries.
    Admit(Vec<Request>, Reply<Vec<Admission>>),
    /// Queries are about to be sent: all of them, or an error and none.
    MarkSent(Vec<Permit>, Reply<()>),
    /// Labels came.
    Commit(Vec<(Permit, SoftLabel)>, Reply<()>),
    /// Nobody knows.
    Ambiguous(Vec<Permit>, String, Reply<()>),
    /// Billed for nothing.
    Spent(Vec<Permit>, String, Reply<()>),
    /// Provably not billed.
    Release(Vec<Permit>, Proof, Reply<()>),
    /// Note what was done.
    Append(Vec<u8>, Reply<()>),
    /// Read labels.
    Labels(Vec<Key>, Reply<Vec<Option<SoftLabel>>>),
    /// Read counts.
    Counts(Reply<Counts>),
    /// Read the journal.
    Journal(Reply<Vec<Vec<u8>>>),
    /// Read everything.
    Entries(Reply<Vec<Entry>>),
}

/// An answer that waits for the write.
type Waiting = Box<dyn FnOnce(&Store, &Book, Result<(), LedgerError>)>;

/// The thread's state.
pub struct Writer {
    store: Store,
    book: Book,
    failed: Option<LedgerError>,
}

impl Writer {
    /// A writer over a recovered book.
    #[must_use]
    pub fn new(store: Store, book: Book) -> Self {
        Self {
            store,
            book,
            failed: None,
        }
    }

    /// Serves commands until every handle is gone.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while let Some(first) = commands.blocking_recv() {
            group.push(first);
            while group.len() < GROUP
                && let Ok(next) = commands.try_recv()
            {
                group.push(next);
            }
            self.serve(group.drain(..));
        }
    }

    fn serve(&mut self, group: impl Iterator<Item = Command>) {
        let mut changes = Changes::default();
        let waiting: Vec<Waiting> = group.map(|command| self.decide(command, &mut changes)).collect();
        let outcome = self.persist(changes);
        for answer in waiting {
            answer(&self.store, &self.book, outcome.clone());
        }
    }

    fn persist(&mut self, mut changes: Changes) -> Result<(), LedgerError> {
        if let Some(error) = &self.failed {
            return Err(LedgerError::Stopped {
                cause: error.to_string(),
            });
        }
        let book = &self.book;
        let dirty = std::mem::take(&mut changes.records).into_iter().map(|(key, _)| key);
        let mut keys: Vec<Key> = dirty.collect();
        keys.sort_unstable();
        keys.dedup();
        changes.records = keys.iter().filter_map(|key| Some((*key, *book.record(key)?))).collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.store.write(&changes).inspect_err(|error| {
            tracing::error!(%error, "the ledger cannot be written and stops");
            self.failed = Some(error.clone());
        })
    }

    /// Changes the book, notes what must be written, and returns how to answer after that.
    fn decide(&mut self, command: Command, changes: &mut Changes) -> Waiting {
        let waiting = match command {
            Command::Admit(requests, reply) => self.admit(requests, reply),
            Command::MarkSent(permits, reply) => self.mark_sent(&permits, reply),
            Command::Commit(labels, reply) => {
                for (permit, label) in labels {
                    if self.book.commit(permit) {
                        changes.labels.push((permit.key, label));
                    }
                }
                done(reply)
            }
            Command::Ambiguous(permits, cause, reply) => {
                let count = permits
                    .into_iter()
                    .filter(|permit| self.book.ambiguous(*permit))
                    .count();
                tracing::warn!(count, cause, "queries are in doubt");
                done(reply)
            }
            Command::Spent(permits, cause, reply) => {
                let count = permits.into_iter().filter(|permit| self.book.spent(*permit)).count();
                tracing::warn!(count, cause, "queries were billed without a usable answer");
                done(reply)
            }
            Command::Release(permits, proof, reply) => {
                // A stale permit has nothing to give back.
                let count = permits
                    .into_iter()
                    .filter(|permit| self.book.release(*permit, proof))
                    .count();
                tracing::debug!(count, ?proof, "permits were given back");
                done(reply)
            }
            Command::Append(entry, reply) => {
                changes.journal.push(entry);
                done(reply)
            }
            Command::Labels(keys, reply) => read(reply, move |store, _| store.labels(&keys)),
            Command::Counts(reply) => read(reply, |_, book| Ok(book.counts())),
            Command::Journal(reply) => read(reply, |store, _| store.journal()),
            Command::Entries(reply) => read(reply, entries),
        };
        let touched = self.book.take_dirty();
        let current = touched.iter().filter_map(|key| Some((*key, *self.book.record(key)?)));
        changes.records.extend(current);
        waiting
    }

    fn admit(&mut self, requests: Vec<Request>, reply: Reply<Vec<Admission>>) -> Waiting {
        let decide = |r: &Request| self.book.admit(r.key, r.sample, r.arm);
        let decisions: Vec<Decision> = requests.iter().map(decide).collect();
        Box::new(move |store, _, outcome| {
            // The asker may be gone; a permit that it never saw is released at the next start.
            let _ = reply.send(outcome.and_then(|()| admissions(store, &requests, &decisions)));
        })
    }

    fn mark_sent(&mut self, permits: &[Permit], reply: Reply<()>) -> Waiting {
        let sent: Vec<Permit> = permits
            .iter()
            .copied()
            .filter(|permit| self.book.mark_sent(*permit))
            .collect();
        let stale = permits.len() - sent.len();
        if stale == 0 {
            return done(reply);
        }
        // The caller sends nothing, so the valid ones go back.
        for permit in sent {
            let released = self.book.release(permit, Proof::NeverConnected);
            debug_assert!(released, "it was marked a moment ago");
        }
        let given = permits.len();
        Box::new(move |_, _, outcome| {
            let _ = reply.send(outcome.and(Err(LedgerError::Stale { stale, given })));
        })
    }
}

fn done(reply: Reply<()>) -> Waiting {
    Box::new(move |_, _, outcome| {
        // Nobody may be waiting any more.
        let _ = reply.send(outcome);
    })
}

fn read<T: 'static>(
    reply: Reply<T>,
    answer: impl FnOnce(&Store, &Book) -> Result<T, LedgerError> + 'static,
) -> Waiting {
    Box::new(move |store, book, outcome| {
        let _ = reply.send(outcome.and_then(|()| answer(store, book)));
    })
}

fn admissions(store: &Store, requests: &[Request], decisions: &[Decision]) -> Result<Vec<Admission>, LedgerError> {
    let known = requests
        .iter()
        .zip(decisions)
        .filter(|(_, decision)| **decision == Decision::Known);
    let keys: Vec<Key> = known.map(|(request, _)| request.key).collect();
    let mut labels = store.labels(&keys)?.into_iter();
    let admission = |decision: &Decision| {
        Ok(match decision {
            Decision::Known => {
                let label = labels.next().flatten();
                let missing = || LedgerError::Damaged {
                    cause: "a committed query has no label".into(),
                };
                Admission::Known(label.ok_or_else(missing)?)
            }
            Decision::InFlight => Admission::InFlight,
            Decision::Permitted(permit) => Admission::Permitted(*permit),
            Decision::Held(State::Spent) => Admission::Held {
                cause: "it was billed, and the answer was no label",
            },
            Decision::Held(_) => Admission::Held {
                cause: "nobody knows whether it was billed",
            },
            Decision::Exhausted => Admission::Exhausted,
        })
    };
    decisions.iter().map(admission).collect()
}

fn entries(store: &Store, book: &Book) -> Result<Vec<Entry>, LedgerError> {
    let mut keys: Vec<Key> = book.records().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    let labels = store.labels(&keys)?;
    let entry = |(key, label): (Key, Option<SoftLabel>)| {
        let record = book.record(&key)?;
        Some(Entry {
            key,
            sample: record.sample,
            arm: record.arm,
            state: record.state,
            label,
        })
    };
    Ok(keys.into_iter().zip(labels).filter_map(entry).collect())
}
