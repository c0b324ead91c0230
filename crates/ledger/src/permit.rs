//! The permit protocol as a pure state machine: who may spend a query, and what is known of it.
//!
//! A *charge* is one query that is, was or may have been billed. Every charge of a key has a
//! number; a permit is (key, epoch, charge).
//!
//! ```text
//!            admit              mark_sent            commit
//!  (none) ----------> Reserved ----------> Sent ----------------> Committed
//!    ^                   |                  | \  spent              ^
//!    |     release       |     release      |  \---------> Spent    | late label
//!    +---- (proof) <-----+------------------+                       |
//!                                           |  ambiguous, crash     |
//!                                           +-------------> Ambiguous
//! ```
//!
//! Invariant I1: reserved + sent + ambiguous + spent + committed charges never exceed the budget.

use std::collections::HashMap;

use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

/// The right to send one query once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permit {
    /// What may be asked.
    pub key: Key,
    /// In which life of the ledger it was given out.
    pub epoch: u64,
    /// Number of the charge among those of its key, from 1.
    pub charge: u32,
}

/// What is known of the latest charge of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Given back: nothing was billed.
    Released,
    /// May be sent; was not.
    Reserved,
    /// A byte may have left.
    Sent,
    /// Nobody knows whether it was billed.
    Ambiguous,
    /// Billed, but the answer is no label.
    Spent,
    /// Billed, and the label is kept.
    Committed,
}

/// A key and its charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub sample: Sample,
    /// For whom it was asked first.
    pub arm: Arm,
    /// State of the latest charge.
    pub state: State,
    /// Number of the latest charge.
    pub charge: u32,
    /// Epoch of the latest charge.
    pub epoch: u64,
    /// Earlier charges that stayed ambiguous.
    pub lost: u32,
}

/// What to do about a query whose fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OnAmbiguous {
    /// It is never sent again.
    Hold,
    /// It may be sent again on a new permit, so often.
    Resend {
        /// New permits a key, at most.
        attempts: u32,
    },
}

/// Proof that a sent query was not billed. A timeout is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No connection was made, so no byte left.
    NeverConnected,
    /// The teacher refused before any work.
    Refused {
        /// HTTP status.
        status: u16,
    },
}

/// The answer to a wish to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The label is known.
    Known,
    /// Somebody asks already.
    InFlight,
    /// Ask.
    Permitted(Permit),
    /// It was asked, and no label came of it.
    Held(State),
    /// The budget is spent.
    Exhausted,
}

/// Charges by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries that may be billed.
    pub budget: u64,
    /// Charges that may be sent.
    pub reserved: u64,
    /// Charges of which a byte may have left.
    pub sent: u64,
    /// Charges in doubt.
    pub ambiguous: u64,
    /// Charges billed without a label.
    pub spent: u64,
    /// Charges billed with a label.
    pub committed: u64,
    /// Charges that are or may be billed, by what was asked.
    pub by_category: Categories,
}

/// Charges by what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories {
    /// Seed images.
    pub seed: u64,
    /// Candidates of the active arm.
    pub synthetic_active: u64,
    /// Candidates of the control.
    pub synthetic_control: u64,
    /// Evaluation images.
    pub evaluation: u64,
}

impl Counts {
    /// Charges that are or may be billed: everything but what is only reserved.
    #[must_use]
    pub fn billed(&self) -> u64 {
        self.sent + self.ambiguous + self.spent + self.committed
    }

    fn taken(&self) -> u64 {
        self.reserved + self.billed()
    }

    fn slot(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Released => None,
            State::Reserved => Some(&mut self.reserved),
            State::Sent => Some(&mut self.sent),
            State::Ambiguous => Some(&mut self.ambiguous),
            State::Spent => Some(&mut self.spent),
            State::Committed => Some(&mut self.committed),
        }
    }

    fn add(&mut self, record: &Record) {
        if let Some(slot) = self.slot(record.state) {
            *slot += 1;
        }
        self.ambiguous += u64::from(record.lost);
        *self.by_category.of(record) += billed_charges(record);
    }

    fn remove(&mut self, record: &Record) {
        if let Some(slot) = self.slot(record.state) {
            *slot -= 1;
        }
        self.ambiguous -= u64::from(record.lost);
        *self.by_category.of(record) -= billed_charges(record);
    }
}

fn billed_charges(record: &Record) -> u64 {
    let latest = !matches!(record.state, State::Released | State::Reserved);
    u64::from(record.lost) + u64::from(latest)
}

impl Categories {
    fn of(&mut self, record: &Record) -> &mut u64 {
        match (record.sample, record.arm) {
            (Sample::Seed(_), _) => &mut self.seed,
            (Sample::Evaluation(_), _) => &mut self.evaluation,
            (Sample::Mix(_), Arm::Active) => &mut self.synthetic_active,
            (Sample::Mix(_), Arm::Control) => &mut self.synthetic_control,
        }
    }
}

/// Every charge of a job.
#[derive(Clone, Debug)]
pub struct Book {
    epoch: u64,
    policy: OnAmbiguous,
    counts: Counts,
    records: HashMap<Key, Record>,
    /// Keys whose record changed since they were last taken.
    dirty: Vec<Key>,
    #[cfg(test)]
    pub(crate) fault: Option<Fault>,
}

/// Rules that the random schedules break on purpose, one at a time, to see that they notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The budget is not looked at.
    NoBudgetCheck,
    /// What was sent when the process died counts as not sent.
    ForgetSent,
    /// A timeout gives the permit back.
    ReleaseOnTimeout,
    /// Ambiguous queries are sent again under hold.
    ResendUnderHold,
    /// Permits of an earlier life are honoured.
    NoEpochCheck,
    /// A permit may be sent twice.
    SendTwice,
    /// Late labels are thrown away.
    DropLateLabel,
}

impl Book {
    /// The book of `records` in life `epoch`.
    #[must_use]
    pub fn new(budget: u64, policy: OnAmbiguous, epoch: u64, records: HashMap<Key, Record>) -> Self {
        let mut counts = Counts {
            budget,
            ..Counts::default()
        };
        records.values().for_each(|record| counts.add(record));
        Self {
            epoch,
            policy,
            counts,
            records,
            dirty: Vec::new(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Sorts out what a dead process left: what was reserved was never sent and is released; of
    /// what was sent nobody knows.
    pub fn recover(&mut self) {
        let open: Vec<(Key, Record)> = self.records.iter().map(|(k, r)| (*k, *r)).collect();
        let forget = self.planted(Fault::ForgetSent);
        for (key, record) in open {
            match record.state {
                State::Reserved => self.set(
                    key,
                    Record {
                        state: State::Released,
                        ..record
                    },
                ),
                State::Sent if forget => self.set(
                    key,
                    Record {
                        state: State::Released,
                        ..record
                    },
                ),
                State::Sent => self.set(
                    key,
                    Record {
                        state: State::Ambiguous,
                        ..record
                    },
                ),
                State::Released | State::Ambiguous | State::Spent | State::Committed => {}
            }
        }
    }

    /// This life.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Charges by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A key's record.
    #[must_use]
    pub fn record(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter()
    }

    /// Takes the keys whose records changed.
    pub fn take_dirty(&mut self) -> Vec<Key> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        dirty
    }

    /// Decides whether `key` may be asked; reserves a charge when it may.
    pub fn admit(&mut self, key: Key, sample: Sample, arm: Arm) -> Decision {
        let known = self.records.get(&key).copied();
        let (charge, lost) = match known.map(|record| (record.state, record)) {
            None => (1, 0),
            Some((State::Committed, _)) => return Decision::Known,
            Some((State::Reserved | State::Sent, _)) => return Decision::InFlight,
            Some((State::Spent, _)) => return Decision::Held(State::Spent),
            Some((State::Released, record)) => (record.charge + 1, record.lost),
            Some((State::Ambiguous, record)) => {
                if !self.may_resend(&record) {
                    return Decision::Held(State::Ambiguous);
                }
                (record.charge + 1, record.lost + 1)
            }
        };
        if self.counts.taken() >= self.counts.budget && !self.planted(Fault::NoBudgetCheck) {
            return Decision::Exhausted;
        }
        // Whom a key was asked for first pays for it.
        let (sample, arm) = known.map_or((sample, arm), |record| (record.sample, record.arm));
        let epoch = self.epoch;
        let state = State::Reserved;
        self.set(
            key,
            Record {
                sample,
                arm,
                state,
                charge,
                epoch,
                lost,
            },
        );
        Decision::Permitted(Permit { key, epoch, charge })
    }

    fn may_resend(&self, record: &Record) -> bool {
        match self.policy {
            OnAmbiguous::Hold => self.planted(Fault::ResendUnderHold),
            OnAmbiguous::Resend { attempts } => record.lost < attempts,
        }
    }

    /// Notes that a byte may leave from now on; `false`, and nothing changes, for a permit that is
    /// not valid any more.
    #[must_use]
    pub fn mark_sent(&mut self, permit: Permit) -> bool {
        let again = self.planted(Fault::SendTwice);
        self.shift(permit, State::Sent, |state| {
            state == State::Reserved || (again && state == State::Sent)
        })
    }

    /// Notes a label; `false` when the permit never led to a query.
    ///
    /// A label is taken whatever has become of its permit since: it was paid for (I3).
    #[must_use]
    pub fn commit(&mut self, permit: Permit) -> bool {
        let Some(record) = self.records.get(&permit.key).copied() else {
            return false;
        };
        if permit.charge == record.charge {
            let late = record.state == State::Ambiguous && !self.planted(Fault::DropLateLabel);
            let taken = late || (record.state == State::Sent && permit.epoch == record.epoch);
            if taken {
                self.set(
                    permit.key,
                    Record {
                        state: State::Committed,
                        ..record
                    },
                );
            }
            return taken;
        }
        // The label of an earlier charge, which stayed ambiguous; the later one was not sent yet.
        let settles = permit.charge < record.charge && record.lost > 0;
        let unsent = matches!(record.state, State::Reserved | State::Released);
        if settles && unsent {
            let lost = record.lost - 1;
            self.set(
                permit.key,
                Record {
                    state: State::Committed,
                    lost,
                    ..record
                },
            );
        }
        settles && unsent
    }

    /// Notes that nobody knows whether a sent query was billed.
    #[must_use]
    pub fn ambiguous(&mut self, permit: Permit) -> bool {
        let released = self.planted(Fault::ReleaseOnTimeout);
        let to = if released { State::Released } else { State::Ambiguous };
        self.shift(permit, to, |state| state == State::Sent)
    }

    /// Notes that a query was billed and its answer is no label.
    #[must_use]
    pub fn spent(&mut self, permit: Permit) -> bool {
        self.shift(permit, State::Spent, |state| state == State::Sent)
    }

    /// Gives a charge back, on proof that nothing was billed.
    #[must_use]
    pub fn release(&mut self, permit: Permit, _proof: Proof) -> bool {
        self.shift(permit, State::Released, |state| {
            matches!(state, State::Reserved | State::Sent)
        })
    }

    /// Moves the charge of a valid permit from a state that `from` accepts.
    fn shift(&mut self, permit: Permit, to: State, from: impl Fn(State) -> bool) -> bool {
        let any_epoch = self.planted(Fault::NoEpochCheck);
        let Some(record) = self.records.get(&permit.key).copied() else {
            return false;
        };
        let current =
            any_epoch || (permit.charge == record.charge && permit.epoch == self.epoch && record.epoch == self.epoch);
        let valid = current && from(record.state);
        if valid {
            self.set(permit.key, Record { state: to, ..record });
        }
        valid
    }

    fn set(&mut self, key: Key, record: Record) {
        if let Some(old) = self.records.insert(key, record) {
            self.counts.remove(&old);
        }
        self.counts.add(&record);
        self.dirty.push(key);
    }

    fn planted(&self, fault: Fault) -> bool {
        #[cfg(test)]
        return self.fault == Some(fault);
        #[cfg(not(test))]
        {
            let _ = fault;
            false
        }
    }
}
