//! The bytes of a block: several references that travel as one stream entry, because Redis works
//! through entries one by one and hardly notices how long they are.
//!
//! A block is the value of field `b` of an entry, the only one:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `SHQ2`: format and version |
//! | 4 | 12 | the life's nonce, so that a delivery of an earlier life changes nothing in this one |
//! | 16 | 60 n | n >= 1 references |
//!
//! A reference, integers in little-endian order:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 32 | key |
//! | 32 | 8 | epoch of the permit |
//! | 40 | 4 | charge of the permit |
//! | 44 | 1 | arm: 0 active, 1 control |
//! | 45 | 1 | sample: 0 seed image, 1 mix, 2 evaluation image |
//! | 46 | 1 | lambda of a mix in hundredths, else 0 |
//! | 47 | 1 | 0 |
//! | 48 | 8 | pair of a mix, position of an image otherwise |
//! | 56 | 4 | round |

use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::{Key, Sample};

use crate::Reference;

/// First bytes of every block.
pub(super) const MAGIC: &[u8; 4] = b"SHQ2";
/// Bytes before the first reference.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of a reference.
pub(super) const RECORD_BYTES: usize = 60;

/// Random bytes that tell one beginning of the queue from every other.
pub(super) type Nonce = [u8; 12];

/// The block of `references`.
pub(super) fn encode(nonce: &Nonce, references: &[Reference]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + RECORD_BYTES * references.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(nonce);
    for reference in references {
        write(reference, &mut bytes);
    }
    bytes
}

fn write(reference: &Reference, bytes: &mut Vec<u8>) {
    let (kind, lambda, value) = match reference.sample {
        Sample::Seed(position) => (0, 0, u64::from(position)),
        Sample::Mix(candidate) => (1, candidate.lambda.hundredths(), candidate.pair.0),
        Sample::Evaluation(position) => (2, 0, u64::from(position)),
    };
    let arm = match reference.arm {
        Arm::Active => 0,
        Arm::Control => 1,
    };
    bytes.extend_from_slice(&reference.key.0);
    bytes.extend_from_slice(&reference.epoch.to_le_bytes());
    bytes.extend_from_slice(&reference.charge.to_le_bytes());
    bytes.extend_from_slice(&[arm, kind, lambda, 0]);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(&reference.round.to_le_bytes());
}

/// What a block holds; `None` when the bytes are not a block.
pub(super) fn decode(bytes: &[u8]) -> Option<(Nonce, Vec<Reference>)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (nonce, rest) = rest.split_first_chunk()?;
    if rest.is_empty() || !rest.len().is_multiple_of(RECORD_BYTES) {
        return None;
    }
    let references: Option<Vec<Reference>> = rest.chunks_exact(RECORD_BYTES).map(read).collect();
    Some((*nonce, references?))
}

fn read(record: &[u8]) -> Option<Reference> {
    let (key, rest) = record.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (charge, rest) = rest.split_first_chunk()?;
    let ([arm, kind, lambda, 0], rest) = rest.split_first_chunk()? else {
        return None;
    };
    let (value, round) = rest.split_first_chunk()?;
    let value = u64::from_le_bytes(*value);
    let sample = match (kind, lambda) {
        (0, 0) => Sample::Seed(value.try_into().ok()?),
        (1, hundredths) => Sample::Mix(Candidate {
            pair: PairId(value),
            lambda: Lambda::from_hundredths(*hundredths)?,
        }),
        (2, 0) => Sample::Evaluation(value.try_into().ok()?),
        _ => return None,
    };
    let arm = match arm {
        0 => Arm::Active,
        1 => Arm::Control,
        _ => return None,
    };
    Some(Reference {
        key: Key(*key),
        sample,
        epoch: u64::from_le_bytes(*epoch),
        charge: u32::from_le_bytes(*charge),
        arm,
        round: u32::from_le_bytes(round.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = [9; 12];

    fn one_of_each() -> Vec<Reference> {
        let lambda = Lambda::from_hundredths(45).unwrap();
        let pair = PairId(u64::MAX - 3);
        let samples = [
            Sample::Seed(7),
            Sample::Mix(Candidate { pair, lambda }),
            Sample::Evaluation(u32::MAX),
        ];
        let of = |(sample, arm)| Reference {
            key: Key([1; 32]),
            sample,
            epoch: 1 << 40,
            charge: 3,
            arm,
            round: 9,
        };
        let arms = [Arm::Active, Arm::Control, Arm::Active];
        samples.into_iter().zip(arms).map(of).collect()
    }

    #[test]
    fn a_block_reads_as_what_was_written() {
        let bytes = encode(&NONCE, &one_of_each());
        assert_eq!(bytes.len(), HEADER_BYTES + 3 * RECORD_BYTES);
        assert_eq!(decode(&bytes), Some((NONCE, one_of_each())));
    }

    #[test]
    fn bytes_stand_where_the_table_says() {
        let bytes = encode(&NONCE, &one_of_each()[1..2]);
        assert_eq!(bytes[..4], *b"SHQ2");
        assert_eq!(bytes[4..16], NONCE);
        let record = &bytes[16..];
        assert_eq!(record[..32], [1; 32]);
        assert_eq!(record[32..40], (1_u64 << 40).to_le_bytes());
        assert_eq!(record[40..44], [3, 0, 0, 0]);
        assert_eq!(record[44..48], [1, 1, 45, 0]);
        assert_eq!(record[48..56], (u64::MAX - 3).to_le_bytes());
        assert_eq!(record[56..], [9, 0, 0, 0]);
    }

    #[test]
    fn anything_else_is_not_a_block() {
        let good = encode(&NONCE, &one_of_each());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            vec![],
            b"hello".to_vec(),
            good[..HEADER_BYTES].to_vec(),
            good[..good.len() - 1].to_vec(),
            with(0, b'X'),
            with(16 + 44, 2),
            with(16 + 45, 3),
            with(16 + 46, 1),
            with(16 + 47, 1),
            with(16 + 55, 1),
            with(16 + 60 + 46, 101),
        ];
        for bytes in cases {
            assert_eq!(decode(&bytes), None, "{bytes:?}");
        }
    }
}
