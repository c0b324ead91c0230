//! Which samples make which step, and which shard gets which of them: functions of the settings,
//! never of who computes.

use std::ops::Range;

use stillhouse_core::job::steps_an_epoch;

/// Fewest samples that a shard of a step gets, when the step has that many at all: batch
/// normalisation over fewer is noise, and over one is undefined.
const MIN_SHARD: usize = 8;

/// The steps of one epoch over `samples` samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    samples: usize,
    batch: usize,
}

impl Steps {
    pub(crate) fn new(samples: usize, batch: usize) -> Self {
        Self { samples, batch }
    }

    /// Number of steps. The last one may be smaller; a single left-over sample joins the step
    /// before it.
    pub(crate) fn count(self) -> usize {
        steps_an_epoch(self.samples as u64, self.batch as u64) as usize
    }

    /// Positions in the epoch's order that make `step`.
    pub(crate) fn range(self, step: usize) -> Range<usize> {
        let start = step * self.batch;
        let end = if step + 1 == self.count() {
            self.samples
        } else {
            start + self.batch
        };
        start..end
    }
}

/// How many of `shards` (a power of two) share `samples` samples: a power of two.
pub(crate) fn shards_used(samples: usize, shards: usize) -> usize {
    let most = (samples / MIN_SHARD).max(1).min(shards);
    1 << most.ilog2()
}

/// Positions inside a step of `samples` samples that `shard` computes. Used shards are spread
/// evenly over all shards, so that every rank has about as many.
pub(crate) fn shard_range(samples: usize, shard: usize, shards: usize) -> Range<usize> {
    let used = shards_used(samples, shards);
    let stride = shards / used;
    if !shard.is_multiple_of(stride) {
        return 0..0;
    }
    let at = shard / stride;
    at * samples / used..(at + 1) * samples / used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_uses_every_sample_once_and_no_step_has_one_sample() {
        for samples in 2..300 {
            for batch in [2, 7, 16, 128] {
                let steps = Steps::new(samples, batch);
                let ranges: Vec<_> = (0..steps.count()).map(|step| steps.range(step)).collect();
                assert_eq!(
                    ranges.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..samples).collect::<Vec<_>>()
                );
                assert!(ranges.iter().all(|range| range.len() > 1), "{samples} by {batch}");
            }
        }
    }

    #[test]
    fn shards_share_a_step_evenly_and_none_is_tiny() {
        for shards in [1, 2, 4, 8, 64] {
            for samples in 2..200 {
                let ranges: Vec<_> = (0..shards).map(|shard| shard_range(samples, shard, shards)).collect();
                let all: Vec<usize> = ranges.iter().cloned().flatten().collect();
                assert_eq!(all, (0..samples).collect::<Vec<_>>(), "{samples} on {shards}");
                let busy: Vec<usize> = ranges.iter().map(Range::len).filter(|length| *length > 0).collect();
                assert_eq!(busy.len(), shards_used(samples, shards));
                let least = MIN_SHARD.min(samples);
                assert!(
                    busy.iter().all(|length| *length >= least),
                    "{samples} on {shards}: {busy:?}"
                );
            }
        }
    }
}
