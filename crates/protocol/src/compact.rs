//! A histogram in few bytes: one goes with every report of a scan, and most of its counts are small.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | lower edge, `f32` |
//! | 4 | upper edge, `f32` |
//! | 8 | bytes of all counts |
//! | 1 to 10 each | counts: seven bits a byte, the lowest first, the highest bit set where more follow (LEB128) |

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stillhouse_core::selection::Histogram;

/// Bits of a count in one byte.
const BITS: u32 = 7;
/// Set where more bytes follow.
const MORE: u8 = 1 << BITS;

pub(crate) fn serialize<S: Serializer>(histogram: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(2 * histogram.counts.len());
    for count in &histogram.counts {
        let mut left = *count;
        while left >= u64::from(MORE) {
            bytes.push(left as u8 | MORE);
            left >>= BITS;
        }
        bytes.push(left as u8);
    }
    (histogram.low, histogram.high, bytes).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram, D::Error> {
    let (low, high, bytes) = <(f32, f32, Vec<u8>)>::deserialize(deserializer)?;
    let counts = counts(&bytes).ok_or_else(|| D::Error::custom("expected counts of 64 bits, found others"))?;
    Ok(Histogram { low, high, counts })
}

/// `None` when a count is cut off or too large, or has bytes that say nothing.
fn counts(bytes: &[u8]) -> Option<Vec<u64>> {
    let (mut counts, mut count, mut shift) = (Vec::new(), 0_u64, 0);
    for byte in bytes {
        let bits = u64::from(byte & !MORE);
        let is_last = byte & MORE == 0;
        if shift >= u64::BITS || bits << shift >> shift != bits || (is_last && bits == 0 && shift > 0) {
            return None;
        }
        count |= bits << shift;
        shift += BITS;
        if is_last {
            counts.push(std::mem::take(&mut count));
            shift = 0;
        }
    }
    (shift == 0).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Held(#[serde(with = "super")] Histogram);

    proptest! {
        #[test]
        fn any_histogram_comes_back(counts in prop::collection::vec((any::<u64>(), 0_u32..64), 0..120)) {
            let counts = counts.into_iter().map(|(count, shift)| count >> shift).collect();
            let held = Held(Histogram { low: 0.1, high: 1.0, counts });
            let bytes = codec::encode(&held).expect("short");
            prop_assert_eq!(codec::decode::<Held>(&bytes).expect("whole"), held);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_are_what_would_be_written(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(counts) = counts(&bytes) {
                let held = Held(Histogram { low: 0.0, high: 0.0, counts });
                prop_assert_eq!(&codec::encode(&held).expect("short")[16..], &bytes[..]);
            }
        }
    }

    #[test]
    fn few_are_written_in_few_bytes_and_what_is_cut_off_or_too_large_is_refused() {
        let held = Held(Histogram::new((0.1, 1.0)));
        assert_eq!(codec::encode(&held).expect("short").len(), 16 + 100);
        assert_eq!(counts(&[5, 0x80 | 2, 1]), Some(vec![5, 130]));
        assert_eq!(counts(&[5, 0x80]), None);
        assert_eq!(counts(&[0xff; 11]), None);
        let most = [[0xff; 9].as_slice(), &[1]].concat();
        assert_eq!(counts(&most), Some(vec![u64::MAX]));
        assert_eq!(counts(&[[0xff; 9].as_slice(), &[2]].concat()), None);
    }
}
