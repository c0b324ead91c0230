//! The exact k best candidates of a pool that nobody holds, from any number of shards.
//!
//! Entries are ordered by (score bits, pair id): a total order without ties, so the query batch is
//! a function of the scores alone, not of shards, workers or arrival order (invariant I4).
//!
//! Scoring may be fast and approximate as long as selection stays exact. With `e` the largest
//! difference between a pair's approximate and exact score, every pair of the exact k best has an
//! approximate score of at most `A + 2e`, where `A` is the k-th best approximate score (k pairs
//! have exact scores up to `A + e`, so the exact cut is at most `A + e`, and a winner's
//! approximate score at most `A + 2e`). So: keep a [`Band`] of all pairs up to `A + width`, rescore
//! those exactly, and accept when the width that was kept is [proved](check_guard) wide enough.

use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use crate::pool::{Lambda, PairId};
use crate::score::ScoreBits;

/// One pair with its best lambda and the score there. The order is (score, pair): lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Score at the best lambda.
    pub score: ScoreBits,
    /// The pair.
    pub pair: PairId,
    /// The lambda that attains the score; the lowest of equals.
    pub lambda: Lambda,
}

/// Every entry whose score is at most the k-th best seen, plus a guard width. Order of insertion
/// does not matter; memory is the band and at most as much again.
#[derive(Clone, Debug)]
pub struct Band {
    k: usize,
    width: f32,
    /// A bound known from elsewhere (other shards); never loosened.
    ceiling: f32,
    best: BinaryHeap<ScoreBits>,
    entries: Vec<Entry>,
    prune_at: usize,
}

impl Band {
    /// A band around the `k`-th best (`k` of at least 1), `width` (not negative, in score units)
    /// wide, of entries with scores of at most `ceiling` (`f32::INFINITY` when nothing is known).
    #[must_use]
    pub fn new(k: usize, width: f32, ceiling: f32) -> Self {
        Self {
            k: k.max(1),
            width,
            ceiling,
            best: BinaryHeap::with_capacity(k + 1),
            entries: Vec::new(),
            prune_at: 2 * k + 1024,
        }
    }

    /// Scores above this are of no interest: the k-th best seen so far plus the width.
    #[must_use]
    pub fn bound(&self) -> f32 {
        match self.cut() {
            Some(cut) => self.ceiling.min(cut + self.width),
            None => self.ceiling,
        }
    }

    /// The k-th best score seen, once k were seen.
    #[must_use]
    pub fn cut(&self) -> Option<f32> {
        (self.best.len() == self.k).then(|| self.best.peek().expect("k is at least 1").score())
    }

    /// Takes an entry in, unless its score is above the bound.
    pub fn insert(&mut self, entry: Entry) {
        if entry.score.score() > self.bound() {
            return;
        }
        self.best.push(entry.score);
        if self.best.len() > self.k {
            self.best.pop();
        }
        self.entries.push(entry);
        if self.entries.len() >= self.prune_at {
            self.prune();
            self.prune_at = 2 * self.entries.len() + 1024;
        }
    }

    /// Whether more than `cap` entries are within the bound.
    pub fn exceeds(&mut self, cap: usize) -> bool {
        if self.entries.len() <= cap {
            return false;
        }
        self.prune();
        self.entries.len() > cap
    }

    /// Entries held, in no order: all within the bound, and at most as many again.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Entries held: all within the bound, and at most as many again.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.len()
    }

    /// The `rank`-th best score of those held (`rank` of at least 1), while there are as many.
    #[must_use]
    pub fn nth(&self, rank: usize) -> Option<f32> {
        let at = rank.checked_sub(1).filter(|at| *at < self.entries.len())?;
        let mut scores: Vec<ScoreBits> = self.entries.iter().map(|entry| entry.score).collect();
        Some(scores.select_nth_unstable(at).1.score())
    }

    fn prune(&mut self) {
        let bound = self.bound();
        self.entries.retain(|entry| entry.score.score() <= bound);
    }

    /// Everything up to the final bound, in order.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<Entry> {
        self.prune();
        self.entries.sort_unstable();
        self.entries
    }
}

/// The `k` best of `entries`, best first. Each pair must occur once.
#[must_use]
pub fn select(mut entries: Vec<Entry>, k: usize) -> Vec<Entry> {
    entries.sort_unstable();
    entries.truncate(k);
    entries
}

/// How much wider than the largest deviation seen on a sample the first band is made.
pub const GUARD_FACTOR: f32 = 4.0;

/// What [`check_guard`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guard {
    /// No pair outside the band can be among the k best, unless its deviation is more than twice
    /// the largest of all rescored ones.
    Wide,
    /// The band must be at least this wide.
    TooNarrow(f32),
}

/// Decides whether a band that reached up to `bound` was wide enough, given the exact k-th best
/// score of the band, its approximate one, and the largest deviation seen in the band.
#[must_use]
pub fn check_guard(bound: f32, approximate_cut: f32, exact_cut: f32, deviation: f32) -> Guard {
    if bound >= exact_cut + 2.0 * deviation {
        return Guard::Wide;
    }
    let needed = (exact_cut - approximate_cut).max(0.0) + 2.0 * deviation;
    Guard::TooNarrow(1.5 * needed)
}

/// Number of bins of a [`Histogram`].
pub const HISTOGRAM_BINS: usize = 100;

/// How many pairs have which score: equal bins over a fixed range, for people to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Lower edge of the first bin.
    pub low: f32,
    /// Upper edge of the last bin.
    pub high: f32,
    /// Pairs a bin; scores outside the range count in the end bins.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram over `low..=high`.
    #[must_use]
    pub fn new((low, high): (f32, f32)) -> Self {
        Self {
            low,
            high,
            counts: vec![0; HISTOGRAM_BINS],
        }
    }

    /// Counts one score.
    pub fn add(&mut self, score: f32) {
        let at = (score - self.low) / (self.high - self.low) * HISTOGRAM_BINS as f32;
        // A float cast saturates: below 0 (and NaN) gives bin 0.
        self.counts[(at as usize).min(HISTOGRAM_BINS - 1)] += 1;
    }

    /// Adds another histogram over the same range; one with other bins is ignored.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// Pairs counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Digest of a query batch in order: BLAKE3 over (pair id, lambda) little-endian.
#[must_use]
pub fn batch_digest(batch: &[crate::pool::Candidate]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("stillhouse query batch v1");
    for candidate in batch {
        hasher.update(&candidate.pair.0.to_le_bytes());
        hasher.update(&[candidate.lambda.hundredths()]);
    }
    crate::key::hex(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(score: f32, pair: u64) -> Entry {
        Entry {
            score: ScoreBits::new(score).expect("not NaN"),
            pair: PairId(pair),
            lambda: Lambda::from_hundredths(50).expect("valid"),
        }
    }

    /// Few distinct values, so that ties are common.
    fn scores() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((0_u8..40).prop_map(|v| f32::from(v) / 40.0), 1..400)
    }

    proptest! {
        #[test]
        fn shards_and_order_do_not_change_the_batch(
            scores in scores(), k in 1_usize..50, cuts in prop::collection::vec(0_usize..400, 0..6), seed: u64,
        ) {
            let all: Vec<Entry> = scores.iter().enumerate().map(|(i, s)| entry(*s, i as u64)).collect();
            let want = select(all.clone(), k);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut shards: Vec<&[Entry]> = cuts.windows(2).map(|w| &all[w[0]..w[1]]).collect();
            let shift = (seed % shards.len() as u64) as usize;
            shards.rotate_left(shift);
            let mut global = Band::new(k, 0.0, f32::INFINITY);
            for shard in shards {
                let mut band = Band::new(k, 0.0, global.bound());
                shard.iter().for_each(|e| band.insert(*e));
                band.into_sorted().into_iter().for_each(|e| global.insert(e));
            }
            prop_assert_eq!(select(global.into_sorted(), k), want);
        }

        #[test]
        fn an_accepted_band_holds_the_exact_k_best(
            scores in scores(), noise in prop::collection::vec(-1.0_f32..1.0, 400),
            size in 0.0_f32..0.2, k in 1_usize..50, width in 0.0_f32..0.5,
        ) {
            let exact: Vec<Entry> = scores.iter().enumerate().map(|(i, s)| entry(*s, i as u64)).collect();
            let near = |e: &Entry| e.score.score() + size * noise[e.pair.0 as usize];
            prop_assume!(exact.len() > k);
            let mut band = Band::new(k, width, f32::INFINITY);
            exact.iter().for_each(|e| band.insert(entry(near(e), e.pair.0)));
            let (bound, cut) = (band.bound(), band.cut().expect("more than k"));
            let kept: Vec<Entry> = band.into_sorted().iter().map(|e| exact[e.pair.0 as usize]).collect();
            let chosen = select(kept, k);
            let exact_cut = chosen.last().expect("k of them").score.score();
            // The true largest deviation, so the guarantee is unconditional.
            let deviation = exact.iter().map(|e| (near(e) - e.score.score()).abs()).fold(0.0, f32::max);
            if check_guard(bound, cut, exact_cut, deviation) == Guard::Wide {
                prop_assert_eq!(chosen, select(exact, k));
            }
        }
    }

    #[test]
    fn ranks_are_counted_from_the_best_and_what_is_above_the_bound_is_not_held() {
        let mut band = Band::new(2, 0.1, f32::INFINITY);
        [0.9, 0.5, 0.3, 0.55]
            .into_iter()
            .zip(0..)
            .for_each(|(score, pair)| band.insert(entry(score, pair)));
        assert_eq!((band.nth(0), band.nth(1), band.nth(2)), (None, Some(0.3), Some(0.5)));
        assert!(band.exceeds(2) && !band.exceeds(3), "0.9 is above 0.5 + 0.1");
        assert_eq!(band.held(), 3);
        assert_eq!(band.nth(4), None);
    }

    #[test]
    fn the_digest_depends_on_order() {
        let lambda = Lambda::from_hundredths(50).expect("valid");
        let [a, b] = [1, 2].map(|p| crate::pool::Candidate {
            pair: PairId(p),
            lambda,
        });
        assert_ne!(batch_digest(&[a, b]), batch_digest(&[b, a]));
    }

    #[test]
    fn a_histogram_counts_every_score_once() {
        let mut histogram = Histogram::new((0.1, 1.0));
        for score in [0.0, 0.1, 0.5, 1.0, 2.0] {
            histogram.add(score);
        }
        assert_eq!(histogram.total(), 5);
        assert_eq!(histogram.counts[0], 2);
        assert_eq!(histogram.counts[HISTOGRAM_BINS - 1], 2);
    }
}
