//! Which scores are of interest before everything was scanned.
//!
//! The k-th best score so far is a bound that is certain, and for most of a scan far too high: of 10^12 pairs the
//! 10^6-th best of the first 10^9 is exceeded by 10^9 others. What was scanned is a sample of the pool, so the cut can be
//! told from it: of n pairs out of N about k n / N are among the k best. The score a few deviations beyond that rank is
//! the ceiling. It may be too low, by bad luck or because the pool is not alike everywhere; that is noticed in the end
//! (`super::scanning`), so it costs time and never the batch.

use stillhouse_core::selection::Band;

/// Standard deviations beyond the expected rank, which is Poisson's: in a pool that is alike everywhere, less than one of
/// a billion ceilings is then too low.
const DEVIATIONS: f64 = 6.0;
/// Ranks beyond that: the deviation of few is not the square root.
const RANKS: f64 = 16.0;
/// A new estimate is made once this part more was scanned: sooner it would hardly differ, and it reads the whole band.
const NEWS: u64 = 64;

/// The estimate.
#[derive(Clone, Debug)]
pub(super) struct Ceiling {
    k: f64,
    pairs: f64,
    width: f32,
    cut: Option<f32>,
    next: u64,
}

impl Ceiling {
    /// For the `k` best of `pairs`, and `width` beyond them.
    pub(super) fn new(k: u64, pairs: u64, width: f32) -> Self {
        Self {
            k: k as f64,
            pairs: pairs.max(1) as f64,
            width,
            cut: None,
            next: 0,
        }
    }

    /// Scores above this are most likely of no interest.
    pub(super) fn value(&self) -> f32 {
        self.cut.map_or(f32::INFINITY, |cut| cut + self.width)
    }

    /// About where the cut will be, or a little above.
    pub(super) fn cut(&self) -> Option<f32> {
        self.cut
    }

    /// Looks again, when enough was scanned since the last time. `band` has what was found among `scanned` pairs. Where
    /// it has too little to tell, the last estimate stays.
    pub(super) fn update(&mut self, band: &Band, scanned: u64) {
        if scanned < self.next {
            return;
        }
        self.next = scanned + scanned / NEWS + 1;
        self.cut = band.nth(self.rank(scanned)).or(self.cut);
    }

    fn rank(&self, scanned: u64) -> usize {
        let expected = self.k * (scanned as f64 / self.pairs);
        // A float cast saturates.
        (expected + DEVIATIONS * expected.sqrt() + RANKS).ceil() as usize
    }

    /// An estimate of before.
    pub(super) fn recall(&mut self, cut: Option<f32>) {
        self.cut = cut;
    }

    /// The estimate was too low.
    pub(super) fn forget(&mut self) {
        self.cut = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::selection::Entry;
    use stillhouse_core::{Lambda, PairId, ScoreBits};

    #[test]
    fn the_cut_is_told_from_a_part_and_nothing_is_told_from_too_little() {
        let entry = |at: u64| Entry {
            score: ScoreBits::new(at as f32).expect("a number"),
            pair: PairId(at),
            lambda: Lambda::whole(),
        };
        let (k, pairs) = (10_000, 1_000_000);
        let mut ceiling = Ceiling::new(k, pairs, 0.5);
        let mut band = Band::new(k as usize, 0.5, f32::INFINITY);
        (0..16).for_each(|at| band.insert(entry(at)));
        ceiling.update(&band, 16);
        assert_eq!(ceiling.value(), f32::INFINITY);
        // A hundredth of the pool: 100 expected, 6 deviations of 10 and 16 more.
        (16..10_000).for_each(|at| band.insert(entry(at)));
        ceiling.update(&band, 10_000);
        assert_eq!((ceiling.cut(), ceiling.value()), (Some(175.0), 175.5));
        (0..9_000).for_each(|at| band.insert(entry(at)));
        ceiling.update(&band, 10_100);
        assert_eq!(ceiling.cut(), Some(175.0), "too soon to look again");
        ceiling.forget();
        assert_eq!(ceiling.value(), f32::INFINITY);
    }
}
