//! One-shot mixup: as many random mixes as the budget pays for, chosen by no score.
//!
//! Source: FS-BBT (arXiv 2207.12106), section 3.2 and released code: the seed images are tiled, two permutations of them are
//! paired, each pair gets a weight from Beta(alpha, alpha), rounded to 0.01, and mixes within a margin of an
//! original image are dropped. Two things differ. Permutations are drawn a tile (all seed images once) at a time, so that a
//! larger budget only adds to what was drawn; and an image paired with itself is dropped like a weight at the end,
//! since it would buy what is known.

use std::collections::HashSet;

use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

use crate::pool::{Candidate, LAMBDA_DENOMINATOR, Lambda, Pool};
use crate::sampler::{Purpose, Stream};

/// How pairs get their weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BetaMixup {
    /// Both parameters of the Beta distribution, above 0: 1 is uniform.
    pub alpha: f64,
    /// Weights up to this, and from 1 less this on, are dropped, in hundredths.
    pub margin: u8,
}

impl BetaMixup {
    /// The draws of a job with `seed` over the pairs of `pool`, without end: a mix, or nothing where one was dropped.
    ///
    /// # Panics
    /// When `alpha` is not above 0.
    pub fn draws(self, seed: u64, pool: Pool) -> impl Iterator<Item = Option<Candidate>> {
        let stream = Stream::new(seed, Purpose::BetaMixup, 0);
        let weights = Beta::new(self.alpha, self.alpha).expect("a job's alpha is above 0");
        let tile = move |tile: u64| {
            let sides = [0, 1].map(|side| stream.fork(2 * tile + side).permutation(pool.seeds()));
            let [first, second] = sides;
            first.into_iter().zip(second)
        };
        (0..).flat_map(tile).zip(0..).map(move |((first, second), at)| {
            let drawn = weights.sample(&mut stream.fork(u64::MAX - at).draws());
            self.mix(pool, (first, second), drawn)
        })
    }

    /// How many of the first `draws` are dropped.
    #[must_use]
    pub fn dropped(self, seed: u64, pool: Pool, draws: u64) -> u64 {
        let draws = usize::try_from(draws).unwrap_or(usize::MAX);
        self.draws(seed, pool).take(draws).filter(Option::is_none).count() as u64
    }

    /// The next `k` mixes that are not in `asked`, in order of drawing. The pool must offer them.
    #[must_use]
    pub fn batch(self, seed: u64, pool: Pool, k: usize, asked: &HashSet<Candidate>) -> Vec<Candidate> {
        let mut new = HashSet::with_capacity(k);
        let fresh = |candidate: &Candidate| !asked.contains(candidate) && new.insert(*candidate);
        self.draws(seed, pool).flatten().filter(fresh).take(k).collect()
    }

    fn mix(self, pool: Pool, (first, second): (u32, u32), drawn: f64) -> Option<Candidate> {
        let pair = pool.rank(first, second)?;
        // Beta draws lie in 0..=1.
        let hundredths = (drawn * f64::from(LAMBDA_DENOMINATOR)).round() as u8;
        if hundredths <= self.margin || hundredths >= LAMBDA_DENOMINATOR - self.margin {
            return None;
        }
        let is_turned = pool.unrank(pair).is_some_and(|(weighed, _)| weighed != first);
        let hundredths = if is_turned {
            LAMBDA_DENOMINATOR - hundredths
        } else {
            hundredths
        };
        let lambda = Lambda::from_hundredths(hundredths)?;
        Some(Candidate { pair, lambda })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pairing;
    use std::collections::HashMap;

    const PUBLISHED: BetaMixup = BetaMixup { alpha: 1.0, margin: 5 };

    fn pool(seeds: u32) -> Pool {
        Pool::new(seeds, Pairing::All)
    }

    #[test]
    fn every_seed_image_is_on_each_side_once_a_tile_and_a_ninth_is_dropped() {
        let (pool, all) = (pool(2_000), BetaMixup { alpha: 1.0, margin: 0 });
        let drawn: Vec<_> = all.draws(3, pool).take(2_000).flatten().collect();
        let mut uses: HashMap<u32, u32> = HashMap::new();
        for (a, b) in drawn.iter().filter_map(|candidate| pool.unrank(candidate.pair)) {
            *uses.entry(a).or_default() += 1;
            *uses.entry(b).or_default() += 1;
        }
        assert!(uses.values().all(|uses| *uses <= 2));
        // Both ends hold 0.5 % each of a uniform draw that is rounded, and an image meets itself once in 2,000.
        assert!((1_960..=1_995).contains(&drawn.len()), "{}", drawn.len());
        let dropped = PUBLISHED.dropped(3, pool, 24_000);
        // 11 of 100 weights, less half a weight at either end, and 0.05 %: 11.05 %, deviation 0.2.
        assert!((2_500..=2_800).contains(&dropped), "{dropped}");
    }

    #[test]
    fn weights_are_those_of_the_image_that_was_drawn_first() {
        let pool = pool(50);
        let lopsided = BetaMixup { alpha: 0.2, margin: 5 };
        let drawn: Vec<_> = lopsided.draws(1, pool).take(5_000).flatten().collect();
        let kept = |range: std::ops::RangeInclusive<u8>| {
            let inside = drawn
                .iter()
                .filter(|candidate| range.contains(&candidate.lambda.hundredths()));
            inside.count()
        };
        assert_eq!(kept(0..=5) + kept(95..=100), 0);
        // Beta(0.2, 0.2) is heavy at both ends and symmetric.
        assert!(kept(6..=20) > 2 * kept(43..=57), "{} {}", kept(6..=20), kept(43..=57));
        let (low, high) = (kept(6..=49) as f64, kept(51..=94) as f64);
        assert!((low / high - 1.0).abs() < 0.15, "{low} {high}");
    }

    #[test]
    fn batches_go_on_where_the_last_one_ended_and_a_larger_budget_changes_nothing_before() {
        let pool = pool(30);
        let whole = PUBLISHED.batch(9, pool, 400, &HashSet::new());
        let first = PUBLISHED.batch(9, pool, 150, &HashSet::new());
        assert_eq!(first, whole[..150]);
        let asked: HashSet<Candidate> = first.into_iter().collect();
        assert_eq!(PUBLISHED.batch(9, pool, 250, &asked), whole[150..]);
        let distinct: HashSet<&Candidate> = whole.iter().collect();
        assert_eq!(distinct.len(), 400);
        assert_ne!(PUBLISHED.batch(8, pool, 400, &HashSet::new()), whole);
    }
}
