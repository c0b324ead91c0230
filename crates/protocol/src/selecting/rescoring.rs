//! Pairs that are scored exactly one by one: what is left of them, and the band that is checked in the end.

use std::collections::VecDeque;

use stillhouse_core::pool::PairId;
use stillhouse_core::selection::{Entry, Histogram};

/// A batch is at most this part of what a worker has left to do.
const PART_OF_REST: u64 = 4;

/// What is left of pairs that are scored one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Batches {
    pairs: Vec<PairId>,
    next: usize,
    returned: VecDeque<Vec<PairId>>,
}

impl Batches {
    pub(super) fn new(pairs: Vec<PairId>) -> Self {
        Self {
            pairs,
            next: 0,
            returned: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.next == self.pairs.len()
    }

    /// The next batch for one of `workers`: a part of what is left for it, of a size within `(least, most)`.
    pub(super) fn cut(&mut self, workers: u64, (least, most): (u64, u64)) -> Option<Vec<PairId>> {
        if let Some(batch) = self.returned.pop_front() {
            return Some(batch);
        }
        let left = &self.pairs[self.next..];
        let share = left.len() as u64 / (PART_OF_REST * workers);
        let size = share.clamp(least, most.max(least)).min(left.len() as u64) as usize;
        self.next += size;
        (size > 0).then(|| left[..size].to_vec())
    }

    pub(super) fn put_back(&mut self, batch: Vec<PairId>) {
        self.returned.push_back(batch);
    }
}

/// The band, while it is scored exactly.
#[derive(Clone, Debug)]
pub(super) struct Rescoring {
    /// Approximate scores, in order of pairs.
    pub(super) approximate: Vec<(PairId, f32)>,
    pub(super) histogram: Histogram,
    pub(super) cut: f32,
    pub(super) bound: f32,
    pub(super) exact: Vec<Entry>,
}

impl Rescoring {
    /// A band whose `entries` lie up to `bound`, around the approximate cut.
    pub(super) fn new(entries: &[Entry], bound: f32, cut: Option<f32>, histogram: Histogram) -> Self {
        let mut approximate: Vec<(PairId, f32)> = entries.iter().map(|e| (e.pair, e.score.score())).collect();
        approximate.sort_unstable_by_key(|(pair, _)| *pair);
        Self {
            approximate,
            histogram,
            cut: cut.unwrap_or(f32::INFINITY),
            bound,
            exact: Vec::new(),
        }
    }

    /// Pairs whose exact scores are known, without approximate ones.
    pub(super) fn known(exact: Vec<Entry>, cut: Option<f32>, histogram: Histogram) -> Self {
        Self {
            exact,
            ..Self::new(&[], f32::INFINITY, cut, histogram)
        }
    }

    /// Puts the exact scores in order; the `k`-th best.
    pub(super) fn exact_cut(&mut self, k: u64) -> f32 {
        self.exact.sort_unstable();
        let last = usize::try_from(k).map_or(usize::MAX, |k| k.saturating_sub(1));
        let entry = self.exact.get(last).or(self.exact.last());
        entry.map_or(0.0, |entry| entry.score.score())
    }

    /// The largest difference between approximate and exact score.
    pub(super) fn deviation(&self) -> f32 {
        let approximate = |pair: PairId| {
            let at = self.approximate.binary_search_by_key(&pair, |(of, _)| *of);
            self.approximate[at.expect("only these were rescored")].1
        };
        let difference = |entry: &Entry| (approximate(entry.pair) - entry.score.score()).abs();
        self.exact.iter().map(difference).fold(0.0, f32::max)
    }
}
