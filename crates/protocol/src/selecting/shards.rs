//! How a pool is cut into shards: lazily, so that 10^12 pairs cost a handful of ranges, and the smaller the less is left.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// The pool is given out from so many places in turn: pairs that lie side by side have a seed image in common or are
/// near in the data set, and the first shards must tell what the others will be like.
const STRIPS: u64 = 64;
/// A shard is at most this part of what a worker has left to do: one that is four times slower then ends with the
/// others.
const PART_OF_REST: u64 = 4;
/// No shard needs to be smaller than this part of what a worker does in all: that is what waiting for the last one costs.
const PART_OF_WHOLE: u64 = 256;
/// A shard is at most so many times what a worker did before: scores of few pairs say little of many.
const GROWTH: u64 = 16;
/// What a worker may lose with its life: at one failure in a thousand hours this is nothing, and the histograms of ever
/// more shards would be most of what is sent.
const LONGEST: Duration = Duration::from_secs(1_800);

/// Sizes of what is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutting {
    /// Pairs of a shard before any score is known.
    pub first: u64,
    /// Pairs of a shard at least, from then on: some tens of milliseconds, of which the way there and back is little.
    pub least: u64,
    /// Pairs scored exactly by one command, at least and at most.
    pub exact: (u64, u64),
    /// Entries of a report at most, beside a worker's share of those wanted.
    pub cap: u64,
}

impl Default for Cutting {
    fn default() -> Self {
        Self {
            first: 256,
            least: 8_192,
            exact: (256, 2_048),
            cap: 1_024,
        }
    }
}

/// What workers got done so far, of all scans of a selection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pairs: u64,
    spent: Duration,
}

impl Pace {
    /// A worker scanned `pairs` in `spent`.
    pub(super) fn add(&mut self, pairs: u64, spent: Duration) {
        self.pairs += pairs;
        self.spent += spent;
    }

    /// Pairs that a worker scans in the longest time that a shard may take, once that is known.
    fn most(&self) -> u64 {
        let lasted = self.spent.as_secs_f64();
        if lasted == 0.0 {
            return u64::MAX;
        }
        // A float cast saturates.
        (self.pairs as f64 / lasted * LONGEST.as_secs_f64()) as u64
    }
}

/// What is known when a shard is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Workers that share the rest, at least 1.
    pub(super) workers: u64,
    /// Pairs scanned so far; all of them where a ceiling was known from the start.
    pub(super) scanned: u64,
    /// What workers got done.
    pub(super) pace: Pace,
}

/// Ranges of pairs that nobody was given yet, or that came back.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    ranges: VecDeque<Range<u64>>,
    left: u64,
    total: u64,
    cutting: Cutting,
}

impl Shards {
    /// All of a pool of `pairs`.
    pub(super) fn new(pairs: u64, cutting: Cutting) -> Self {
        let strips = (pairs / (PART_OF_REST * cutting.least.max(1))).clamp(1, STRIPS);
        let bits = strips.ilog2();
        let edge = |at: u64| ((u128::from(pairs) * u128::from(at)) >> bits) as u64;
        // Backwards in binary, so that the first few are far from each other.
        let places = (0..1_u64 << bits).map(|at| at.reverse_bits().checked_shr(u64::BITS - bits).unwrap_or(0));
        Self::of(places.map(|at| edge(at)..edge(at + 1)).collect(), cutting)
    }

    /// These ranges of it.
    pub(super) fn of(mut ranges: VecDeque<Range<u64>>, cutting: Cutting) -> Self {
        ranges.retain(|range| !range.is_empty());
        let total = ranges.iter().map(|range| range.end - range.start).sum();
        Self {
            ranges,
            left: total,
            total,
            cutting,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// What nobody has.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ranges.iter()
    }

    /// The next shard: the front of a range, whose rest waits until its turn comes again.
    pub(super) fn cut(&mut self, progress: Progress) -> Option<Range<u64>> {
        let range = self.ranges.pop_front()?;
        let size = self.size(progress);
        // No crumbs; but what a slow worker gets must not grow for their sake.
        let is_whole = range.end - range.start <= size + size.min(self.least(progress.workers)) / 2;
        let end = if is_whole { range.end } else { range.start + size };
        if !is_whole {
            self.ranges.push_back(end..range.end);
        }
        self.left -= end - range.start;
        Some(range.start..end)
    }

    fn size(&self, progress: Progress) -> u64 {
        let Progress { workers, scanned, pace } = progress;
        let Cutting { first, least, .. } = self.cutting;
        if scanned == 0 {
            return first.max(1);
        }
        let fair = (self.left / (PART_OF_REST * workers)).max(self.least(workers));
        let known = (GROWTH.saturating_mul(scanned / workers)).min(pace.most());
        fair.min(known).max(least.max(1))
    }

    /// The size that shards shrink to.
    fn least(&self, workers: u64) -> u64 {
        (self.total / (PART_OF_WHOLE * workers)).max(self.cutting.least).max(1)
    }

    /// Takes back what was cut and not scanned; it goes first.
    pub(super) fn put_back(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.left += range.end - range.start;
            self.ranges.push_front(range);
        }
    }

    /// Plants the fault of losing a range.
    pub(super) fn forget_one(&mut self) {
        if self.ranges.len() > 1 {
            self.left -= self.ranges.pop_front().map_or(0, |range| range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CUTTING: Cutting = Cutting {
        first: 16,
        least: 64,
        exact: (8, 32),
        cap: 20,
    };

    /// Cuts everything, as `workers` that do `rate` pairs a second would.
    fn cut_all(mut shards: Shards, workers: u64, rate: f64) -> Vec<Range<u64>> {
        let (mut scanned, mut pace, mut cut) = (0, Pace::default(), Vec::new());
        while let Some(range) = shards.cut(Progress { workers, scanned, pace }) {
            let pairs = range.end - range.start;
            scanned += pairs;
            pace.add(pairs, Duration::from_secs_f64(pairs as f64 / rate));
            cut.push(range);
        }
        cut
    }

    proptest! {
        #[test]
        fn every_pair_is_cut_once(pairs in 0_u64..50_000, workers in 1_u64..40, rate in 1.0_f64..1e6) {
            let mut cut = cut_all(Shards::new(pairs, CUTTING), workers, rate);
            cut.sort_unstable_by_key(|range| range.start);
            prop_assert!(cut.iter().all(|range| !range.is_empty()));
            let ends = std::iter::once(0).chain(cut.iter().map(|range| range.end));
            prop_assert!(cut.iter().map(|range| range.start).eq(ends.take(cut.len())));
            prop_assert_eq!(cut.iter().map(|range| range.end - range.start).sum::<u64>(), pairs);
        }
    }

    #[test]
    fn a_trillion_pairs_are_some_ten_thousands_of_shards_and_the_last_ones_are_small() {
        let (pairs, workers, rate) = (1_000_000_000_000, 1_024, 40_000.0);
        let cut = cut_all(Shards::new(pairs, Cutting::default()), workers, rate);
        assert!(cut.len() < 32_000, "{} shards", cut.len());
        let size = |range: &Range<u64>| range.end - range.start;
        let longest = cut.iter().map(size).max().expect("shards") as f64 / rate;
        assert!(longest <= 1.5 * LONGEST.as_secs_f64(), "a shard takes {longest} s");
        let tail = cut[cut.len() - 1_024..].iter().map(size).max().expect("shards");
        assert!(
            tail <= 3 * pairs / (2 * PART_OF_WHOLE * workers),
            "{tail} pairs at the end"
        );
    }

    #[test]
    fn a_slow_worker_is_given_no_more_than_it_gets_done_until_the_others_end() {
        let (pairs, workers) = (1_000_000_000, 16);
        let mut shards = Shards::new(pairs, Cutting::default());
        let (mut scanned, least) = (0, shards.least(workers));
        let mut left = pairs;
        while let Some(range) = shards.cut(Progress {
            workers,
            scanned,
            pace: Pace::default(),
        }) {
            let size = range.end - range.start;
            assert!(
                size <= left / (PART_OF_REST * workers) + 3 * least / 2,
                "{size} of {left}"
            );
            (scanned, left) = (scanned + size, left - size);
        }
    }

    #[test]
    fn what_comes_back_is_given_out_next() {
        let mut shards = Shards::new(1_000, CUTTING);
        let progress = Progress {
            workers: 2,
            scanned: 100,
            pace: Pace::default(),
        };
        let first = shards.cut(progress).expect("a shard");
        shards.put_back(first.start + 9..first.end);
        assert_eq!(shards.cut(progress).expect("a shard").start, first.start + 9);
    }
}
