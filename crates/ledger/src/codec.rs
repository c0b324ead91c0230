//! A record as bytes. Integers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | arm: 0 active, 1 control |
//! | 1 | sample: 0 seed image, 1 mix, 2 evaluation image |
//! | 2 | lambda in hundredths; 0 unless a mix |
//! | 3 | 1 when its label was imported, otherwise 0 |
//! | 4..12 | u64: image index, or pair id |
//! | 12..16 | u32: permits given out so far |
//! | 16.. | charges, oldest first |
//!
//! A charge:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | state: 1 reserved, 2 sent, 3 ambiguous, 4 spent, 5 committed, 6 renewed |
//! | 1 | 1 when a request marked it as sent, otherwise 0 |
//! | 2..4 | u16: length of the cause; 0 unless ambiguous, renewed or spent |
//! | 4..8 | u32: number |
//! | 8..12 | u32: times sent |
//! | 12..20 | u64: epoch |
//! | 20..36 | u128: the request that marked it as sent; 0 unless byte 1 is 1 |
//! | 36.. | the cause, UTF-8 |

use smallvec::SmallVec;
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::{Sample, SoftLabel};

use crate::error::LedgerError;
use crate::permit::{Cause, Charge, Record, RequestId, State};

/// Bytes of a record with one charge and its key.
pub(crate) const RECORD_BYTES: usize = 32 + 16 + 36;

pub(crate) fn encode(record: &Record, bytes: &mut Vec<u8>) {
    let (kind, lambda, at) = match record.sample {
        Sample::Seed(index) => (0, 0, u64::from(index)),
        Sample::Mix(candidate) => (1, candidate.lambda.hundredths(), candidate.pair.0),
        Sample::Evaluation(index) => (2, 0, u64::from(index)),
    };
    let arm = match record.arm {
        Arm::Active => 0,
        Arm::Control => 1,
    };
    bytes.extend([arm, kind, lambda, u8::from(record.imported)]);
    bytes.extend(at.to_le_bytes());
    bytes.extend(record.issued.to_le_bytes());
    for charge in &record.charges {
        encode_charge(charge, bytes);
    }
}

fn encode_charge(charge: &Charge, bytes: &mut Vec<u8>) {
    let (state, cause) = match &charge.state {
        State::Reserved => (1, ""),
        State::Sent => (2, ""),
        State::Ambiguous(cause) => (3, cause.as_str()),
        State::Spent(cause) => (4, cause.as_str()),
        State::Committed => (5, ""),
        State::Renewed(cause) => (6, cause.as_str()),
    };
    let length = u16::try_from(cause.len()).expect("a cause is at most 200 bytes");
    bytes.extend([state, u8::from(charge.request.is_some())]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(charge.number.to_le_bytes());
    bytes.extend(charge.sends.to_le_bytes());
    bytes.extend(charge.epoch.to_le_bytes());
    bytes.extend(charge.request.map_or(0, |request| request.0).to_le_bytes());
    bytes.extend(cause.as_bytes());
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Record, LedgerError> {
    let mut rest = Bytes(bytes);
    let [arm, kind, lambda, imported] = rest.take()?;
    let at = u64::from_le_bytes(rest.take()?);
    let index = || u32::try_from(at).map_err(|_| wrong("image"));
    let sample = match (kind, lambda) {
        (0, 0) => Sample::Seed(index()?),
        (1, _) => Sample::Mix(Candidate {
            pair: PairId(at),
            lambda: Lambda::from_hundredths(lambda).ok_or_else(|| wrong("lambda"))?,
        }),
        (2, 0) => Sample::Evaluation(index()?),
        _ => return Err(wrong("sample")),
    };
    let arm = match arm {
        0 => Arm::Active,
        1 => Arm::Control,
        _ => return Err(wrong("arm")),
    };
    let imported = match imported {
        0 => false,
        1 => true,
        _ => return Err(wrong("origin")),
    };
    let issued = u32::from_le_bytes(rest.take()?);
    let mut charges = SmallVec::new();
    while !rest.0.is_empty() {
        charges.push(decode_charge(&mut rest)?);
    }
    Ok(Record {
        sample,
        arm,
        imported,
        issued,
        charges,
    })
}

fn decode_charge(rest: &mut Bytes<'_>) -> Result<Charge, LedgerError> {
    let [state, is_marked] = rest.take()?;
    let length = usize::from(u16::from_le_bytes(rest.take()?));
    let number = u32::from_le_bytes(rest.take()?);
    let sends = u32::from_le_bytes(rest.take()?);
    let epoch = u64::from_le_bytes(rest.take()?);
    let request = match (is_marked, u128::from_le_bytes(rest.take()?)) {
        (0, 0) => None,
        (1, request) => Some(RequestId(request)),
        _ => return Err(wrong("request")),
    };
    let cause = rest.split(length)?;
    let cause = std::str::from_utf8(cause).map_err(|_| wrong("cause"))?;
    let state = match (state, length) {
        (1, 0) => State::Reserved,
        (2, 0) => State::Sent,
        (3, ..=Cause::MAX_BYTES) => State::Ambiguous(Cause::new(cause)),
        (4, ..=Cause::MAX_BYTES) => State::Spent(Cause::new(cause)),
        (5, 0) => State::Committed,
        (6, ..=Cause::MAX_BYTES) => State::Renewed(Cause::new(cause)),
        _ => return Err(wrong("state")),
    };
    Ok(Charge {
        number,
        sends,
        epoch,
        request,
        state,
    })
}

pub(crate) fn encode_label(label: &SoftLabel, bytes: &mut Vec<u8>) {
    bytes.extend(label.probabilities().iter().flat_map(|p| p.to_le_bytes()));
}

pub(crate) fn decode_label(bytes: &[u8]) -> Result<SoftLabel, LedgerError> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(LedgerError::damaged("a label is not a whole number of floats"));
    }
    let probabilities = floats.iter().map(|float| f32::from_le_bytes(*float)).collect();
    SoftLabel::from_probabilities(probabilities, floats.len())
        .map_err(|error| LedgerError::damaged(format!("label: {error}")))
}

fn wrong(what: &str) -> LedgerError {
    LedgerError::damaged(format!("a record has an unknown {what}"))
}

/// What is left to decode.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn split(&mut self, length: usize) -> Result<&'a [u8], LedgerError> {
        let cut = || LedgerError::damaged("a record ends too early");
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], LedgerError> {
        Ok(self.split(N)?.try_into().expect("split to this length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, &mut bytes);
        bytes
    }

    fn state() -> impl Strategy<Value = State> {
        let cause = || ".{0,300}".prop_map(|text| Cause::new(&text));
        prop_oneof![
            Just(State::Reserved),
            Just(State::Sent),
            cause().prop_map(State::Ambiguous),
            cause().prop_map(State::Renewed),
            cause().prop_map(State::Spent),
            Just(State::Committed),
        ]
    }

    fn charge() -> impl Strategy<Value = Charge> {
        let parts = (any::<u32>(), any::<u32>(), any::<u64>(), any::<Option<u128>>(), state());
        parts.prop_map(|(number, sends, epoch, request, state)| Charge {
            number,
            sends,
            epoch,
            request: request.map(RequestId),
            state,
        })
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let mix = |(pair, lambda)| {
            let lambda = Lambda::from_hundredths(lambda).expect("at most 100");
            Sample::Mix(Candidate {
                pair: PairId(pair),
                lambda,
            })
        };
        prop_oneof![
            any::<u32>().prop_map(Sample::Seed),
            (any::<u64>(), 0_u8..=100).prop_map(mix),
            any::<u32>().prop_map(Sample::Evaluation),
        ]
    }

    proptest! {
        #[test]
        fn records_keep_every_field(
            sample in sample(), control: bool, imported: bool, issued: u32,
            charges in prop::collection::vec(charge(), 0..5),
        ) {
            let arm = if control { Arm::Control } else { Arm::Active };
            let record = Record { sample, arm, imported, issued, charges: charges.into() };
            let bytes = bytes_of(&record);
            prop_assert_eq!(decode(&bytes).expect("own encoding"), record);
            let shorter = &bytes[..bytes.len() - 1];
            prop_assert!(decode(shorter).map_or(true, |other| bytes_of(&other) == shorter));
        }

        #[test]
        fn any_bytes_are_a_record_or_refused(bytes in prop::collection::vec(prop_oneof![0_u8..6, any::<u8>()], 0..80)) {
            if let Ok(record) = decode(&bytes) {
                prop_assert_eq!(bytes_of(&record), bytes);
            }
        }

        #[test]
        fn any_bytes_are_a_label_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(label) = decode_label(&bytes) {
                let mut again = Vec::new();
                encode_label(&label, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
