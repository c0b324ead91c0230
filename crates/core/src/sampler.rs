//! Counter-based randomness: a draw is a function of (seed, purpose, round, counter), so it does
//! not depend on which worker makes it, in which order, or how often (invariant I11).

use std::collections::HashSet;
use std::convert::Infallible;

use rand::TryRng;

use crate::pool::{Candidate, LambdaGrid, PairId, Pool};

/// What a draw is for: streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which images of the data set become seed images.
    SeedImages,
    /// Initial weights of a student.
    Initialisation,
    /// Order of the transfer set in an epoch.
    Shuffle,
    /// Augmentation of one sample in one step.
    Augmentation,
    /// Dropout masks.
    Dropout,
    /// Random acquisition.
    RandomPairs,
    /// The sample on which approximate scores are compared with exact ones.
    Calibration,
    /// Which evaluation images the teacher labels.
    Evaluation,
    /// What the samples of a batch are mixed with.
    Mixing,
    /// The pairs that a round scores, where it does not score all.
    Sample,
    /// Pairs and weights of one-shot mixup.
    BetaMixup,
    /// Everything random about a generator of images.
    Generation,
    /// Noise of stochastic acquisition.
    Stochastic,
    /// What is done to a job that is tried, and when.
    Blows,
}

/// A stream of draws addressed by counter.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits with full avalanche.
fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 2^64 over the golden ratio, SplitMix64's increment.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn absorb(state: u64, word: u64) -> u64 {
    mix64(state ^ mix64(word.wrapping_add(GOLDEN))).wrapping_add(GOLDEN)
}

impl Stream {
    /// The stream for `purpose` in `round` of a job with `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, round: u64) -> Self {
        Self(absorb(absorb(absorb(0, seed), purpose as u64), round))
    }

    /// A stream of its own inside this one, for example a step or a sample.
    #[must_use]
    pub fn fork(self, word: u64) -> Self {
        Self(absorb(self.0, word))
    }

    /// 64 uniform bits at `counter`.
    #[must_use]
    pub fn at(self, counter: u64) -> u64 {
        mix64(absorb(self.0, counter))
    }

    /// Uniform integer in `0..bound` at `counter` (`bound` of at least 1). The bias of
    /// multiply-shift is below `bound / 2^64`.
    #[must_use]
    pub fn below(self, counter: u64, bound: u64) -> u64 {
        ((u128::from(self.at(counter)) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform float in `0.0..1.0` at `counter`, 24 bits.
    #[must_use]
    pub fn unit(self, counter: u64) -> f32 {
        (self.at(counter) >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// The draws at 0, 1, 2, ... as a generator of random numbers, for distributions that take several.
    #[must_use]
    pub fn draws(self) -> Draws {
        Draws { stream: self, next: 0 }
    }

    /// A uniform permutation of `0..n` (Fisher and Yates).
    #[must_use]
    pub fn permutation(self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for last in (1..n as usize).rev() {
            order.swap(last, self.below(last as u64, last as u64 + 1) as usize);
        }
        order
    }

    /// `take` of `0..n` without repeats, ascending.
    #[must_use]
    pub fn choose(self, n: u32, take: u32) -> Vec<u32> {
        let mut chosen = self.permutation(n);
        chosen.truncate(take as usize);
        chosen.sort_unstable();
        chosen
    }

    /// `k` uniform candidates with distinct pairs, none of which is in `asked`; fewer when the
    /// pool has fewer left. The order of drawing is the order of the result.
    #[must_use]
    pub fn candidates(self, pool: Pool, grid: &LambdaGrid, k: usize, asked: &HashSet<PairId>) -> Vec<Candidate> {
        let left = pool.pairs().saturating_sub(asked.len() as u64);
        let k = k.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut taken = HashSet::with_capacity(k);
        let mut batch = Vec::with_capacity(k);
        let mut counter = 0;
        while batch.len() < k {
            let pair = PairId(self.below(2 * counter, pool.pairs()));
            let at = self.below(2 * counter + 1, grid.lambdas().len() as u64);
            counter += 1;
            if !asked.contains(&pair) && taken.insert(pair) {
                let lambda = grid.lambdas()[at as usize];
                batch.push(Candidate { pair, lambda });
            }
        }
        batch
    }
}

/// The draws of a [`Stream`] one after another.
#[derive(Clone, Debug)]
pub struct Draws {
    stream: Stream,
    next: u64,
}

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.next += 1;
        Ok(self.stream.at(self.next - 1))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pairing;

    #[test]
    fn draws_are_addressed_not_consumed() {
        let stream = Stream::new(7, Purpose::Shuffle, 2);
        assert_eq!(stream.at(5), Stream::new(7, Purpose::Shuffle, 2).at(5));
        assert_ne!(stream.at(5), stream.at(6));
        assert_ne!(stream.at(5), Stream::new(8, Purpose::Shuffle, 2).at(5));
        assert_ne!(stream.at(5), Stream::new(7, Purpose::Dropout, 2).at(5));
        assert_ne!(stream.at(5), Stream::new(7, Purpose::Shuffle, 3).at(5));
        assert_ne!(stream.at(5), stream.fork(0).at(5));
    }

    #[test]
    fn units_are_uniform() {
        let stream = Stream::new(1, Purpose::Augmentation, 0);
        let mut bins = [0_u32; 20];
        for counter in 0..200_000 {
            bins[(stream.unit(counter) * 20.0) as usize] += 1;
        }
        // Chi-squared with 19 degrees of freedom: above 50 has probability 1e-4.
        let chi: f64 = bins.iter().map(|b| (f64::from(*b) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 50.0, "chi-squared {chi}");
    }

    #[test]
    fn a_permutation_holds_everything_once() {
        let mut order = Stream::new(3, Purpose::Shuffle, 0).permutation(1_000);
        assert_ne!(order, (0..1_000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn random_candidates_are_new_and_exhaust_the_pool() {
        let pool = Pool::new(10, Pairing::All);
        let grid = LambdaGrid::new(30, 70, 4).expect("valid");
        let stream = Stream::new(1, Purpose::RandomPairs, 1);
        let first = stream.candidates(pool, &grid, 40, &HashSet::new());
        let asked: HashSet<PairId> = first.iter().map(|c| c.pair).collect();
        assert_eq!(asked.len(), 40);
        let rest = stream.candidates(pool, &grid, 40, &asked);
        assert_eq!(rest.len(), 5);
        assert!(rest.iter().all(|c| !asked.contains(&c.pair)));
    }
}
