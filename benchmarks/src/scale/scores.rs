//! Scores of a pool that nobody could score here: known without computing them, so that what is chosen can be checked.
//!
//! A pair's rank among all is a permutation of its id, so the best pairs are found by the inverse, and the score follows
//! from the rank alone.

use std::ops::Range;

use anyhow::{Context, ensure};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::selection::Entry;
use stillhouse_core::{Lambda, PairId, ScoreBits};

/// The largest difference between approximate and exact score of LeNet-5 in the results of `scoring`.
const STRAY: f64 = 4.3e-6;
/// The highest of ten probabilities is near its least where nine others are near theirs: the share of pairs below a score
/// grows like its ninth power.
const CLASSES: f64 = 10.0;
/// Best pairs whose ids are looked up, at least. Others are computed one by one.
const LOOKED_UP: u64 = 1 << 23;
/// Pairs that are computed one by one at once; more are never asked for with a ceiling as high as that.
const ONE_BY_ONE: u64 = 1 << 26;

/// A permutation of `0..size`: a Feistel network of four rounds, walked until it hits the range.
#[derive(Clone, Copy, Debug)]
struct Permutation {
    size: u64,
    /// Bits of half a word.
    bits: u32,
    stream: Stream,
}

impl Permutation {
    const ROUNDS: u64 = 4;

    fn new(size: u64) -> Self {
        let bits = (u64::BITS - size.leading_zeros()).div_ceil(2);
        Self {
            size,
            bits,
            stream: Stream::new(11, Purpose::Shuffle, 0),
        }
    }

    fn mixed(self, round: u64, half: u64) -> u64 {
        self.stream.at((round << 40) | half) & ((1 << self.bits) - 1)
    }

    fn forward(self, mut word: u64) -> u64 {
        loop {
            let (mut left, mut right) = (word >> self.bits, word & ((1 << self.bits) - 1));
            for round in 0..Self::ROUNDS {
                (left, right) = (right, left ^ self.mixed(round, right));
            }
            word = (left << self.bits) | right;
            if word < self.size {
                return word;
            }
        }
    }

    fn backward(self, mut word: u64) -> u64 {
        loop {
            let (mut left, mut right) = (word >> self.bits, word & ((1 << self.bits) - 1));
            for round in (0..Self::ROUNDS).rev() {
                (left, right) = (right ^ self.mixed(round, left), left);
            }
            word = (left << self.bits) | right;
            if word < self.size {
                return word;
            }
        }
    }
}

/// Exact and approximate scores of every pair of a pool.
#[derive(Debug)]
pub(super) struct Scores {
    ranks: Permutation,
    noise: Stream,
    /// The pairs of the best ranks, ascending.
    best: Vec<u64>,
}

impl Scores {
    /// Of a pool of `pairs`, of which about the `k` best are asked for.
    pub(super) fn new(pairs: u64, k: u64) -> Self {
        let ranks = Permutation::new(pairs);
        let known = (8 * k).max(LOOKED_UP).min(pairs);
        let mut best: Vec<u64> = (0..known).map(|rank| ranks.backward(rank)).collect();
        best.sort_unstable();
        Self {
            ranks,
            noise: Stream::new(12, Purpose::Shuffle, 0),
            best,
        }
    }

    fn score(&self, pair: u64) -> f64 {
        let share = (self.ranks.forward(pair) as f64 + 0.5) / self.ranks.size as f64;
        1.0 / CLASSES + (1.0 - 1.0 / CLASSES) * share.powf(1.0 / (CLASSES - 1.0))
    }

    /// Ranks from here on have higher approximate scores than `score`.
    fn rank_above(&self, score: f32) -> u64 {
        // Rounding to a float moves a score by less than the second term.
        let score = f64::from(score) + STRAY + 1e-6;
        let share = ((score - 1.0 / CLASSES) / (1.0 - 1.0 / CLASSES)).clamp(0.0, 1.0);
        (share.powf(CLASSES - 1.0) * self.ranks.size as f64) as u64 + 1
    }

    /// The exact entry of a pair.
    pub(super) fn exact(&self, pair: u64) -> Entry {
        entry(pair, self.score(pair))
    }

    fn approximate(&self, pair: u64) -> Entry {
        let noise = f64::from(self.noise.unit(pair)) * 2.0 - 1.0;
        entry(pair, self.score(pair) + STRAY * noise)
    }

    /// How far the approximate score of a pair strays.
    pub(super) fn stray(&self, pair: u64) -> f32 {
        (self.approximate(pair).score.score() - self.exact(pair).score.score()).abs()
    }

    /// Approximate entries of a range up to `ceiling`, in order of pairs.
    ///
    /// # Errors
    /// When that are too many to be computed.
    pub(super) fn up_to(&self, ceiling: f32, range: Range<u64>) -> anyhow::Result<Vec<Entry>> {
        let within = |pair: &u64| Some(self.approximate(*pair)).filter(|entry| entry.score.score() <= ceiling);
        if self.rank_above(ceiling) <= self.best.len() as u64 {
            let from = self.best.partition_point(|pair| *pair < range.start);
            let to = self.best.partition_point(|pair| *pair < range.end);
            return Ok(self.best[from..to].iter().filter_map(within).collect());
        }
        let pairs = range.end - range.start;
        ensure!(
            pairs <= ONE_BY_ONE,
            "expected a lower ceiling for a shard of {pairs} pairs, found {ceiling}"
        );
        Ok(range.filter_map(|pair| within(&pair)).collect())
    }

    /// The `k` best of the pool, best first, by their exact scores.
    ///
    /// # Errors
    /// When more pairs than are looked up might be among them.
    pub(super) fn winners(&self, k: usize) -> anyhow::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = self.best.iter().map(|pair| self.exact(*pair)).collect();
        entries.sort_unstable();
        let last = entries.get(k - 1).context("the pool has fewer pairs")?.score.score();
        ensure!(
            self.rank_above(last) <= self.best.len() as u64,
            "expected the {k} best among {} pairs",
            self.best.len()
        );
        entries.truncate(k);
        Ok(entries)
    }
}

fn entry(pair: u64, score: f64) -> Entry {
    Entry {
        score: ScoreBits::new(score as f32).expect("a number"),
        pair: PairId(pair),
        lambda: Lambda::from_hundredths((30 + pair % 41) as u8).expect("below 100"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_a_place_of_its_own_and_the_way_back_is_known() {
        for size in [1, 2, 37, 1_000, 4_097] {
            let permutation = Permutation::new(size);
            let mut there: Vec<u64> = (0..size).map(|word| permutation.forward(word)).collect();
            assert!((0..size).all(|word| permutation.backward(there[word as usize]) == word));
            there.sort_unstable();
            assert!(there.into_iter().eq(0..size));
        }
    }

    #[test]
    fn what_is_looked_up_is_what_is_computed_one_by_one() {
        let scores = Scores {
            best: {
                let ranks = Permutation::new(50_000);
                let mut best: Vec<u64> = (0..5_000).map(|rank| ranks.backward(rank)).collect();
                best.sort_unstable();
                best
            },
            ..Scores::new(50_000, 1)
        };
        let every: Vec<Entry> = (0..50_000).map(|pair| scores.approximate(pair)).collect();
        for (ceiling, looked_up) in [(0.4, true), (0.7, true), (0.9, false)] {
            let want: Vec<Entry> = every[100..40_000]
                .iter()
                .filter(|e| e.score.score() <= ceiling)
                .copied()
                .collect();
            assert_eq!(scores.rank_above(ceiling) <= 5_000, looked_up, "{ceiling}");
            assert_eq!(scores.up_to(ceiling, 100..40_000).unwrap(), want);
        }
        let mut exact: Vec<Entry> = (0..50_000).map(|pair| scores.exact(pair)).collect();
        exact.sort_unstable();
        assert_eq!(scores.winners(1_000).unwrap(), exact[..1_000]);
        assert!(scores.winners(5_001).is_err());
    }
}
