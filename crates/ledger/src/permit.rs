//! The words of the permit protocol: who may spend a query, and what is known of it. [`crate::book`]
//! holds its rules.
//!
//! A *charge* is one query that is, was or may have been billed. Every permit is for one charge:
//! (key, epoch, number). A number is never given out twice, so it names the charge in every life;
//! the epoch says in which life it may be sent. A key has at most one charge that is open
//! (reserved, sent or renewed), after any number of earlier ones that stayed ambiguous.
//!
//! | from | by | to |
//! |---|---|---|
//! | nothing | `admit` | Reserved |
//! | Reserved | `mark_sent` | Sent |
//! | | `release` or `give_back` by anybody, a new life | nothing |
//! | Sent | a label | Committed |
//! | | `spent` by the request that sent it | Spent |
//! | | `release` by that request on proof that nothing was billed | nothing; Ambiguous when sent before |
//! | | `ambiguous` or an unproven `release` by that request, a new life | Ambiguous |
//! | Ambiguous | a late label | Committed |
//! | | `admit` under an idempotency key | Renewed |
//! | | `acquit`: the teacher's invoice | nothing |
//! | Renewed | `mark_sent` by a request that never sent it | Sent |
//! | | a late label | Committed |
//! | | `release` or `give_back` by anybody, a new life | Ambiguous |
//!
//! What is absent: a way from `Sent` or `Ambiguous` back to nothing on a timeout.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

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
    /// As ambiguous, and it may be sent once more: the teacher knows it again by its idempotency key.
    Renewed(Cause),
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
    /// How often it was marked as sent, without those times that are proven not to have been billed.
    pub sends: u32,
    /// [`Permit::epoch`] of the last permit for it.
    pub epoch: u64,
    /// Who marked it as sent last; `None` until somebody did.
    pub request: Option<RequestId>,
    /// What is known of it.
    pub state: State,
}

impl Charge {
    /// Whether a permit for it waits to be used.
    pub(crate) fn may_be_sent(&self) -> bool {
        matches!(self.state, State::Reserved | State::Renewed(_))
    }

    /// Only who marked a charge as sent knows what became of it (I5).
    pub(crate) fn held_by(&self, request: RequestId) -> Result<(), Refusal> {
        if self.request == Some(request) {
            Ok(())
        } else {
            Err(Refusal::OtherRequest)
        }
    }

    pub(crate) fn refusal(&self) -> Refusal {
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
    /// Whether its label came from another job, at no charge.
    pub imported: bool,
    /// Permits given out so far, with those given back: numbers are never used twice.
    pub issued: u32,
    /// Charges that were not given back, oldest first. At most one is committed; only the last may
    /// be reserved, renewed or sent, unless a late label overtook it. Nearly every key has one.
    pub charges: SmallVec<[Charge; 1]>,
}

impl Record {
    /// A key that nobody asked for yet.
    pub(crate) fn new(sample: Sample, arm: Arm) -> Self {
        Self {
            sample,
            arm,
            imported: false,
            issued: 0,
            charges: SmallVec::new(),
        }
    }

    /// Whether its label is kept.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.imported || self.charges.iter().any(|charge| charge.state == State::Committed)
    }

    /// Takes back what was permitted and not sent.
    pub(crate) fn withdraw(&mut self) {
        self.withdraw_before(u64::MAX);
    }

    /// Sorts out what lives before `epoch` left: what was reserved was never sent (I2) and is void,
    /// what was renewed is in doubt as before; both by definition, so the file may go on saying
    /// otherwise. Of what was sent nobody knows; returns whether there is any.
    pub(crate) fn outlive(&mut self, epoch: u64) -> bool {
        self.withdraw_before(epoch);
        let mut was_sent = false;
        for charge in &mut self.charges {
            if charge.state == State::Sent && charge.epoch < epoch {
                charge.state = State::Ambiguous(Cause::new("the process died after it was sent"));
                was_sent = true;
            }
        }
        was_sent
    }

    fn withdraw_before(&mut self, epoch: u64) {
        self.charges
            .retain(|charge| charge.state != State::Reserved || charge.epoch >= epoch);
        for charge in &mut self.charges {
            if let State::Renewed(cause) = &charge.state
                && charge.epoch < epoch
            {
                charge.state = State::Ambiguous(cause.clone());
            }
        }
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
    /// It may be sent again, so often, on the same charge: the teacher bills an idempotency key once.
    IdempotencyKey {
        /// Times that a charge is sent again, at most.
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
    pub(crate) fn holds(self) -> bool {
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
    /// The request marked it before, and what became of that was told.
    UsedRequest,
    /// Its charge is in a state that the report cannot follow.
    State(State),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_one_charge_is_small_and_in_one_piece() {
        assert!(size_of::<Record>() <= 128, "{} bytes", size_of::<Record>());
        let mut record = Record::new(Sample::Seed(0), Arm::Active);
        record.charges.push(Charge {
            number: 1,
            sends: 0,
            epoch: 1,
            request: None,
            state: State::Reserved,
        });
        assert!(!record.charges.spilled());
    }

    #[test]
    fn a_request_is_read_as_it_is_shown() {
        for request in [RequestId(0), RequestId(0xab << 64), RequestId(u128::MAX)] {
            let text = request.to_string();
            assert_eq!((text.len(), text.parse()), (32, Ok(request)));
        }
        assert!("not a request".parse::<RequestId>().is_err());
    }
}
