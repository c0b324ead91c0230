//! The permit protocol as a pure state machine: who may spend a query, and what is known of it.
//!
//! A *charge* is one query that is, was or may have been billed. Every permit is for one charge:
//! (key, epoch, number), never given out twice. A key has at most one charge that is open
//! (reserved or sent), after any number of earlier ones that stayed ambiguous.
//!
//! ```text
//!            admit              mark_sent            commit
//!  (none) ----------> Reserved ----------> Sent ----------------> Committed
//!    ^                   |                  | \  spent               ^
//!    |     release       |     release      |  \---------> Spent     | late label
//!    +------ (any) <-----+---- (proof) <----+                        |
//!                                           |  ambiguous, crash      |
//!                                           +--------------> Ambiguous
//! ```
//!
//! What is absent: a way from `Sent` or `Ambiguous` back to nothing on a timeout.
//!
//! Invariant I1: reserved + sent + ambiguous + spent + committed charges never exceed the budget.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

use crate::counts::Counts;

/// The right to send one query once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Permit {
    /// What may be asked.
    pub key: Key,
    /// In which life of the ledger it was given out.
    pub epoch: u64,
    /// Its number among all permits ever given out for the key, from 1.
    pub charge: u32,
}

/// One request to the teacher, by one gateway: who marked a charge as sent. Chosen at random by the
/// gateway and never used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u128);

/// 32 hexadecimal digits.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for RequestId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Why a charge brought no label, for people to read: at most [`Cause::MAX_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause(Arc<str>);

impl Cause {
    /// Longest cause, in bytes of UTF-8: a sentence. Every record of a failed batch carries one.
    pub const MAX_BYTES: usize = 200;

    /// Keeps as much of `text` as fits.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(Self::MAX_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of a charge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// May be sent; was not.
    Reserved,
    /// A byte may have left.
    Sent,
    /// Nobody knows whether it was billed.
    Ambiguous(Cause),
    /// Billed, but brought no label.
    Spent(Cause),
    /// Billed, and the label is kept.
    Committed,
}

/// One query that is, was or may have been billed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// [`Permit::charge`].
    pub number: u32,
    /// [`Permit::epoch`].
    pub epoch: u64,
    /// Who marked it as sent; `None` until somebody did.
    pub request: Option<RequestId>,
    /// What is known of it.
    pub state: State,
}

impl Charge {
    /// Only who marked a charge as sent knows what became of it (I5).
    fn held_by(&self, request: RequestId) -> Result<(), Refusal> {
        if self.request == Some(request) {
            Ok(())
        } else {
            Err(Refusal::OtherRequest)
        }
    }

    fn refusal(&self) -> Refusal {
        Refusal::State(self.state.clone())
    }
}

/// A key and its charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub sample: Sample,
    /// For whom it was asked first.
    pub arm: Arm,
    /// Permits given out so far, with those given back: numbers are never used twice.
    pub issued: u32,
    /// Charges that were not given back, oldest first. At most one is committed; only the last may
    /// be reserved or sent, unless a late label overtook it.
    pub charges: Vec<Charge>,
}

impl Record {
    /// Whether its label is kept.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.charges.iter().any(|charge| charge.state == State::Committed)
    }
}

/// What to do about a query whose fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// No connection was made, so no byte left.
    NeverConnected,
    /// The teacher refused before any work.
    Refused {
        /// HTTP status: 3xx, 4xx or 503. Others may come after the work was done and prove nothing.
        status: u16,
    },
}

impl Proof {
    fn holds(self) -> bool {
        match self {
            Proof::NeverConnected => true,
            Proof::Refused { status } => matches!(status, 300..=499 | 503),
        }
    }
}

/// The answer to a wish to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The label is known.
    Known,
    /// Somebody asks already.
    InFlight,
    /// Ask.
    Permitted(Permit),
    /// It was asked, no label came of it, and it is not asked again.
    Held(Cause),
    /// The budget is spent.
    Exhausted,
}

/// Why a report changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such permit was given out, or it was given back since.
    Unknown,
    /// It is of an earlier life of the ledger.
    OldEpoch,
    /// Another request marked it as sent.
    OtherRequest,
    /// Its charge is in a state that the report cannot follow.
    State(State),
}

/// What a report makes of a charge.
enum Next {
    Stays,
    Becomes(State),
    GivenBack,
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
}

impl Book {
    /// The book of `records` in life `epoch`. Records of an earlier life need [`Book::recover`].
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
        }
    }

    /// Sorts out what a dead process left: what was reserved was never sent (I2) and is given back;
    /// of what was sent nobody knows.
    pub fn recover(&mut self) {
        let is_open = |charge: &Charge| matches!(charge.state, State::Reserved | State::Sent);
        let open = self
            .records
            .iter()
            .filter(|(_, record)| record.charges.iter().any(is_open));
        let open: Vec<(Key, Record)> = open.map(|(key, record)| (*key, record.clone())).collect();
        let died = Cause::new("the process died after it was sent");
        for (key, mut record) in open {
            record.charges.retain(|charge| charge.state != State::Reserved);
            for charge in &mut record.charges {
                if charge.state == State::Sent {
                    charge.state = State::Ambiguous(died.clone());
                }
            }
            self.set(key, record);
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

    /// Takes the records that changed, in order of keys.
    pub fn take_changes(&mut self) -> Vec<(Key, Record)> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        let changed = |key| Some((key, self.records.get(&key)?.clone()));
        dirty.into_iter().filter_map(changed).collect()
    }

    /// Decides whether `key` may be asked; reserves a charge when it may. Whom a key was asked for
    /// first pays for it.
    pub fn admit(&mut self, key: Key, sample: Sample, arm: Arm) -> Decision {
        let known = self.records.get(&key);
        if let Some(settled) = known.and_then(|record| self.without_asking(record)) {
            return settled;
        }
        if self.counts.left() == 0 {
            return Decision::Exhausted;
        }
        let mut record = known.cloned().unwrap_or(Record {
            sample,
            arm,
            issued: 0,
            charges: Vec::new(),
        });
        let Some(number) = record.issued.checked_add(1) else {
            return Decision::Held(Cause::new("it was permitted and given back four billion times"));
        };
        record.issued = number;
        let epoch = self.epoch;
        record.charges.push(Charge {
            number,
            epoch,
            request: None,
            state: State::Reserved,
        });
        self.set(key, record);
        Decision::Permitted(Permit {
            key,
            epoch,
            charge: number,
        })
    }

    /// The decision about a key that is known, unless it may be asked (again).
    fn without_asking(&self, record: &Record) -> Option<Decision> {
        if record.is_labelled() {
            return Some(Decision::Known);
        }
        match &record.charges.last()?.state {
            State::Committed => Some(Decision::Known),
            State::Reserved | State::Sent => Some(Decision::InFlight),
            State::Spent(cause) => Some(Decision::Held(cause.clone())),
            State::Ambiguous(cause) => {
                let resend = match self.policy {
                    OnAmbiguous::Hold => false,
                    OnAmbiguous::Resend { attempts } => record.charges.len() as u64 <= u64::from(attempts),
                };
                (!resend).then(|| Decision::Held(cause.clone()))
            }
        }
    }

    /// Notes that a byte may leave from now on, by `request` only. Returns those of `permits` that
    /// are now marked by it, in order and each once: only these may be sent. Asking again gets the
    /// same answer while they are in flight. What is not valid (any more), or marked by another
    /// request, is left as it is.
    pub fn mark_sent(&mut self, request: RequestId, permits: &[Permit]) -> Vec<Permit> {
        let mut marked = HashSet::with_capacity(permits.len());
        let accepted = |permit: &&Permit| self.mark(request, **permit).is_ok() && marked.insert(**permit);
        permits.iter().filter(accepted).copied().collect()
    }

    fn mark(&mut self, request: RequestId, permit: Permit) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            State::Reserved => {
                charge.request = Some(request);
                Ok(Next::Becomes(State::Sent))
            }
            State::Sent => charge.held_by(request).map(|()| Next::Stays),
            State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
        })
    }

    /// Notes that a label came; `true` when it is the key's first and must be kept. It was paid for,
    /// so it is taken from an earlier life and from a charge in doubt, too (I3). A second permit of
    /// the key that was not sent yet is given back; one that was brings a label of no use.
    ///
    /// # Errors
    /// When the permit was not sent, or is settled; nothing changed.
    pub fn commit(&mut self, permit: Permit) -> Result<bool, Refusal> {
        let (mut record, at) = self.find(permit)?;
        match &record.charges[at].state {
            State::Sent | State::Ambiguous(_) => {}
            other @ (State::Reserved | State::Spent(_) | State::Committed) => {
                return Err(Refusal::State(other.clone()));
            }
        }
        let first = !record.is_labelled();
        record.charges[at].state = if first {
            State::Committed
        } else {
            State::Spent(Cause::new("the label of an earlier charge had come first"))
        };
        record.charges.retain(|charge| charge.state != State::Reserved);
        self.set(permit.key, record);
        Ok(first)
    }

    /// Notes that nobody knows whether a sent query was billed.
    ///
    /// # Errors
    /// When the permit is not in flight for `request`; nothing changed.
    pub fn ambiguous(&mut self, request: RequestId, permit: Permit, cause: &Cause) -> Result<(), Refusal> {
        self.close_sent(request, permit, State::Ambiguous(cause.clone()))
    }

    /// Notes that a query was billed and its answer is no label.
    ///
    /// # Errors
    /// When the permit is not in flight for `request`; nothing changed.
    pub fn spent(&mut self, request: RequestId, permit: Permit, cause: &Cause) -> Result<(), Refusal> {
        self.close_sent(request, permit, State::Spent(cause.clone()))
    }

    fn close_sent(&mut self, request: RequestId, permit: Permit, to: State) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            State::Sent => charge.held_by(request).map(|()| Next::Becomes(to)),
            State::Reserved | State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
        })
    }

    /// Gives a charge back: a reserved one always, one sent by `request` on proof that nothing was
    /// billed. Without proof it stays, as ambiguous.
    ///
    /// # Errors
    /// When the permit is neither reserved nor in flight for `request`; nothing changed.
    pub fn release(&mut self, request: RequestId, permit: Permit, proof: Proof) -> Result<(), Refusal> {
        let unproven = || Cause::new(&format!("{proof:?} does not prove that nothing was billed"));
        self.report(permit, |charge| match charge.state {
            State::Reserved => Ok(Next::GivenBack),
            State::Sent => charge.held_by(request).map(|()| match proof.holds() {
                true => Next::GivenBack,
                false => Next::Becomes(State::Ambiguous(unproven())),
            }),
            State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
        })
    }

    /// Gives a reserved charge back: nobody sent it, so anybody may.
    ///
    /// # Errors
    /// When the permit is not reserved; nothing changed.
    pub fn give_back(&mut self, permit: Permit) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            State::Reserved => Ok(Next::GivenBack),
            State::Sent | State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
        })
    }

    /// Applies a report about a permit of this life.
    fn report(
        &mut self,
        permit: Permit,
        next: impl FnOnce(&mut Charge) -> Result<Next, Refusal>,
    ) -> Result<(), Refusal> {
        if permit.epoch != self.epoch {
            return Err(Refusal::OldEpoch);
        }
        let (mut record, at) = self.find(permit)?;
        let charge = &mut record.charges[at];
        match next(charge)? {
            Next::Stays => return Ok(()),
            Next::Becomes(state) => charge.state = state,
            Next::GivenBack => drop(record.charges.remove(at)),
        }
        self.set(permit.key, record);
        Ok(())
    }

    fn find(&self, permit: Permit) -> Result<(Record, usize), Refusal> {
        let record = self.records.get(&permit.key).ok_or(Refusal::Unknown)?;
        let named = |charge: &Charge| charge.number == permit.charge && charge.epoch == permit.epoch;
        let at = record.charges.iter().position(named).ok_or(Refusal::Unknown)?;
        Ok((record.clone(), at))
    }

    fn set(&mut self, key: Key, record: Record) {
        self.counts.add(&record);
        if let Some(old) = self.records.insert(key, record) {
            self.counts.remove(&old);
        }
        self.dirty.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_is_shown() {
        for request in [RequestId(0), RequestId(0xab << 64), RequestId(u128::MAX)] {
            let text = request.to_string();
            assert_eq!((text.len(), text.parse()), (32, Ok(request)));
        }
        assert!("not a request".parse::<RequestId>().is_err());
    }
}
