//! The one thread that writes. Requests that arrive together are decided one after another and
//! written with one fsync (group commit); nobody gets an answer before that.
//!
//! After a failed write every later request fails too: what is on disk is unknown, and nothing may
//! be sent without a record. Opening the ledger again finds out.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample, SoftLabel};
use tokio::sync::{mpsc, oneshot};

use crate::book::{Book, Records};
use crate::compact::{compact, is_worth_it};
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::handle::{Admission, Entry, Genesis, Request, entries};
use crate::lock::{Lock, Sharing};
use crate::permit::{Cause, Decision, Permit, Proof, Refusal, RequestId};
use crate::replay::Replay;
use crate::store::{Changes, Head, Store, file};

/// Requests written together at most: beyond a few hundred an fsync is cheap already.
const GROUP: usize = 256;

/// A label of another job: what it is of, and for whom it is wanted.
pub(crate) type Imported = (Key, Sample, Arm, SoftLabel);

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Command {
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
type Waiting = Box<dyn FnOnce(&Store, &Book, Result<(), LedgerError>)>;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Store,
    /// What is on disk and what is being written. After a failed write only a guess, from which
    /// nobody is answered any more.
    book: Book,
    head: Head,
    failed: Option<LedgerError>,
    _lock: Lock,
}

impl Writer {
    /// Opens the ledger in `dir`, making it when there is none. The new life and what it makes of
    /// the charges that a dead process left open are one frame.
    ///
    /// # Errors
    /// When it is in use, belongs to another job or teacher, had a larger budget, or cannot be used.
    pub(crate) fn open(dir: &Path, genesis: &Genesis) -> Result<Self, LedgerError> {
        let lock = Lock::take(dir, Sharing::Nobody)?;
        let (store, book, head) = match Store::load(dir, Sharing::Nobody)? {
            None => begin(dir, genesis)?,
            Some((store, replay)) => go_on(dir, genesis, store, replay)?,
        };
        tracing::debug!(head.epoch, counts = ?book.counts(), "opened the ledger");
        Ok(Self {
            store,
            book,
            head,
            failed: None,
            _lock: lock,
        })
    }

    /// [`Book::epoch`].
    #[must_use]
    pub(crate) fn epoch(&self) -> u64 {
        self.book.epoch()
    }

    /// Serves commands until every handle is gone.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while commands.blocking_recv_many(&mut group, GROUP) > 0 {
            self.serve(group.drain(..));
        }
        if self.failed.is_none()
            && let Err(error) = self.store.close()
        {
            tracing::warn!(%error, "everything is on disk, but not that the ledger ended well");
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
        let count = self.book.changes().count() as u64;
        let written = if changes.is_empty() && count == 0 {
            // An answer of a life that is over is worth nothing.
            self.store.check()
        } else {
            let begun = Instant::now();
            let written = self.store.write(self.book.changes(), changes);
            let metrics = stillhouse_metrics::ledger();
            metrics.writes.observe(begun.elapsed().as_secs_f64());
            metrics
                .changes
                .inc_by(count + (changes.labels.len() + changes.journal.len()) as u64);
            written
        };
        self.book.forget_changes();
        written.inspect_err(|error| {
            tracing::error!(%error, "the ledger cannot be written and stops");
            stillhouse_metrics::ledger().failed.set(1.0);
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
                let next = |changes: &Changes| self.store.next_sequence() + changes.journal.len() as u64;
                let first = next(changes);
                changes.journal.extend(entries);
                answer(reply, first..next(changes))
            }
            Command::Labels(keys, reply) => read(reply, move |store, book| labels(store, book, &keys)),
            Command::Outstanding(reply) => read(reply, |_, book| Ok(book.outstanding())),
            Command::Counts(reply) => read(reply, |_, book| Ok(book.counts())),
            Command::Journal(reply) => read(reply, |store, _| store.journal()),
            Command::Entries(reply) => read(reply, entries),
        }
    }

    fn admit(&mut self, requests: Vec<Request>, reply: Reply<Vec<Admission>>) -> Waiting {
        let decide = |r: &Request| self.book.admit(r.key, r.sample, r.arm);
        let decisions: Vec<Decision> = requests.iter().map(decide).collect();
        // The asker may be gone; a permit that it never saw is given back at the next start.
        read(reply, move |store, book| admissions(store, book, &requests, decisions))
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
    fn import(&mut self, labels: Vec<Imported>) -> impl Iterator<Item = (usize, SoftLabel)> {
        let keep = |(key, sample, arm, label)| {
            let is_new = self.book.import(key, sample, arm);
            is_new.then(|| Some((self.book.position(&key)?, label))).flatten()
        };
        labels.into_iter().filter_map(keep)
    }

    /// The labels that must be kept.
    fn commit(&mut self, labels: Vec<(Permit, SoftLabel)>) -> Vec<(usize, SoftLabel)> {
        let keep = |(permit, label): (Permit, SoftLabel)| match self.book.commit(permit) {
            Ok(true) => Some((self.book.position(&permit.key)?, label)),
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
    answer: impl FnOnce(&Store, &Book) -> Result<T, LedgerError> + 'static,
) -> Waiting {
    Box::new(move |store, book, outcome| {
        // Nobody may be waiting any more.
        let _ = reply.send(outcome.and_then(|()| answer(store, book)));
    })
}

fn labels(store: &Store, book: &Book, keys: &[Key]) -> Result<Vec<Option<SoftLabel>>, LedgerError> {
    let label = |key| book.position(key).map_or(Ok(None), |at| store.label(at));
    keys.iter().map(label).collect()
}

fn admissions(
    store: &Store,
    book: &Book,
    requests: &[Request],
    decisions: Vec<Decision>,
) -> Result<Vec<Admission>, LedgerError> {
    let admission = |(request, decision): (&Request, Decision)| {
        Ok(match decision {
            Decision::Known => {
                let label = book.position(&request.key).map_or(Ok(None), |at| store.label(at))?;
                Admission::Known(label.ok_or_else(|| LedgerError::damaged("a query that is known has no label"))?)
            }
            Decision::InFlight => Admission::InFlight,
            Decision::Permitted(permit) => Admission::Permitted(permit),
            Decision::Held(cause) => Admission::Held {
                cause: cause.as_str().to_owned(),
            },
            Decision::Exhausted => Admission::Exhausted,
        })
    };
    requests.iter().zip(decisions).map(admission).collect()
}

/// The first life.
fn begin(dir: &Path, genesis: &Genesis) -> Result<(Store, Book, Head), LedgerError> {
    let head = Head {
        genesis: genesis.clone(),
        epoch: 1,
        raised: 0,
    };
    let mut store = Store::draft(dir, &head)?;
    store.publish()?;
    let book = Book::open(head.budget(), genesis.on_ambiguous, head.epoch, Records::default());
    Ok((store, book, head))
}

/// The life after those that `replay` tells of.
fn go_on(dir: &Path, genesis: &Genesis, mut store: Store, replay: Replay) -> Result<(Store, Book, Head), LedgerError> {
    replay.head.genesis.check(genesis, &file(dir))?;
    let head = Head {
        genesis: genesis.clone(),
        epoch: replay.head.epoch + 1,
        raised: replay.head.raised,
    };
    let mut book = Book::open(head.budget(), genesis.on_ambiguous, head.epoch, replay.records);
    let smaller = is_worth_it(&store, &book).then(|| compact(dir, &store, &head, &book));
    match smaller {
        Some(Ok(smaller)) => store = smaller,
        other => {
            if let Some(Err(error)) = other {
                tracing::warn!(%error, "the ledger stays larger than it needs to be");
            }
            if !replay.ended_well {
                store.mend(replay.last)?;
            }
            let changes = Changes {
                head: Some(head.clone()),
                ..Changes::default()
            };
            store.write(book.changes(), &changes)?;
        }
    }
    book.forget_changes();
    Ok((store, book, head))
}
