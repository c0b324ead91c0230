//! The virtual pool: every mixup candidate is an index, nothing is stored.
//!
//! Source: Active Mixup (arXiv 2003.13960), section 3.2. The released code walks circular shifts
//! `s = 1..floor((N-1)/2)` and pairs image `a` with image `(a - s) mod N`; [`Pairing::All`] adds
//! the `N/2` antipodal pairs that this leaves out when `N` is even.
//!
//! Images that a conditional VAE made (FS-BBT, arXiv 2207.12106) follow the pairs: each counts as a pair of
//! itself with itself, which is itself at any weight. So candidates of all sources are scored, ordered,
//! excluded and rendered alike.

use serde::{Deserialize, Serialize};

/// Position of a candidate in the pool, below [`Pool::candidates`]: an unordered pair of seed images below
/// [`Pool::pairs`], a generated image from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PairId(pub u64);

/// Mixing weight of the first image of a pair, in hundredths: exact, so it can be part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lambda(u8);

/// Denominator of every [`Lambda`].
pub const LAMBDA_DENOMINATOR: u8 = 100;

impl Lambda {
    /// `hundredths / 100`, or `None` above 100.
    #[must_use]
    pub fn from_hundredths(hundredths: u8) -> Option<Self> {
        (hundredths <= LAMBDA_DENOMINATOR).then_some(Self(hundredths))
    }

    /// The first image alone.
    #[must_use]
    pub fn whole() -> Self {
        Self(LAMBDA_DENOMINATOR)
    }

    /// The numerator over 100.
    #[must_use]
    pub fn hundredths(self) -> u8 {
        self.0
    }

    /// The weight as a float in 0..=1, for display and for approximate scores.
    #[must_use]
    pub fn as_f32(self) -> f32 {
        f32::from(self.0) / f32::from(LAMBDA_DENOMINATOR)
    }
}

/// The mixing weights tried for each pair, ascending, without repeats, never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LambdaGrid(Vec<Lambda>);

impl LambdaGrid {
    /// `from`, `from + step`, ... up to and including `to`, all in hundredths; `None` when a value
    /// is above 100, `from > to`, or `step` is zero while `from < to`.
    #[must_use]
    pub fn new(from: u8, to: u8, step: u8) -> Option<Self> {
        if from > to || to > LAMBDA_DENOMINATOR || (step == 0 && from < to) {
            return None;
        }
        let step = usize::from(step.max(1));
        Some(Self((from..=to).step_by(step).map(Lambda).collect()))
    }

    /// The weights in ascending order.
    #[must_use]
    pub fn lambdas(&self) -> &[Lambda] {
        &self.0
    }
}

/// Which unordered pairs of seed images the pool offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Every unordered pair: `N (N-1) / 2`.
    All,
    /// The released code's circular shifts: for even `N`, without the `N/2` antipodal pairs.
    Circular,
}

/// Every pair of `seeds` images, and then every generated image: an index space, not a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    seeds: u32,
    pairing: Pairing,
    generated: u32,
}

impl Pool {
    /// The pool over `seeds` seed images, without generated ones.
    #[must_use]
    pub fn new(seeds: u32, pairing: Pairing) -> Self {
        Self {
            seeds,
            pairing,
            generated: 0,
        }
    }

    /// The same pairs, followed by so many generated images.
    #[must_use]
    pub fn with_generated(self, generated: u32) -> Self {
        Self { generated, ..self }
    }

    /// Number of generated images.
    #[must_use]
    pub fn generated(self) -> u32 {
        self.generated
    }

    /// Number of pairs and generated images; ids are `0..candidates()`.
    #[must_use]
    pub fn candidates(self) -> u64 {
        self.pairs() + u64::from(self.generated)
    }

    /// Which generated image an id is; `None` for a pair, and past the end.
    ///
    /// ```
    /// use stillhouse_core::pool::{PairId, Pairing, Pool};
    /// let pool = Pool::new(4, Pairing::All).with_generated(2);
    /// assert_eq!((pool.pairs(), pool.candidates()), (6, 8));
    /// assert_eq!(pool.generated_at(PairId(7)), Some(1));
    /// assert_eq!((pool.generated_at(PairId(5)), pool.generated_at(PairId(8))), (None, None));
    /// ```
    #[must_use]
    pub fn generated_at(self, id: PairId) -> Option<u32> {
        let at = u32::try_from(id.0.checked_sub(self.pairs())?).ok()?;
        (at < self.generated).then_some(at)
    }

    /// The ids of all generated images.
    pub fn generated_ids(self) -> impl Iterator<Item = PairId> {
        (self.pairs()..self.candidates()).map(PairId)
    }

    /// Number of seed images.
    #[must_use]
    pub fn seeds(self) -> u32 {
        self.seeds
    }

    /// Number of pairs; their ids are `0..pairs()`.
    #[must_use]
    pub fn pairs(self) -> u64 {
        let n = u64::from(self.seeds);
        match self.pairing {
            Pairing::All => n * n.saturating_sub(1) / 2,
            Pairing::Circular => (n.saturating_sub(1) / 2) * n,
        }
    }

    /// The two seed images of a pair: `a` is the one that lambda weighs. `None` for what is no pair.
    ///
    /// ```
    /// use stillhouse_core::pool::{PairId, Pairing, Pool};
    /// let pool = Pool::new(4, Pairing::All);
    /// assert_eq!(pool.pairs(), 6);
    /// assert_eq!(pool.unrank(PairId(0)), Some((0, 3)));
    /// ```
    #[must_use]
    pub fn unrank(self, pair: PairId) -> Option<(u32, u32)> {
        if pair.0 >= self.pairs() {
            return None;
        }
        let n = u64::from(self.seeds);
        let (shift, a) = (pair.0 / n + 1, pair.0 % n);
        let b = (a + n - shift) % n;
        Some((a as u32, b as u32))
    }

    /// The id of an unordered pair, or `None` when the pool does not offer it.
    #[must_use]
    pub fn rank(self, first: u32, second: u32) -> Option<PairId> {
        let n = u64::from(self.seeds);
        let (first, second) = (u64::from(first), u64::from(second));
        if first >= n || second >= n || first == second {
            return None;
        }
        let forward = (first + n - second) % n;
        let (shift, a) = match (2 * forward).cmp(&n) {
            std::cmp::Ordering::Less => (forward, first),
            std::cmp::Ordering::Greater => (n - forward, second),
            std::cmp::Ordering::Equal => (forward, first.min(second)),
        };
        let pair = PairId((shift - 1) * n + a);
        (pair.0 < self.pairs()).then_some(pair)
    }
}

/// One synthetic image of the pool: a pair and the weight of its first image. Of a generated image the weight
/// says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The pair of seed images.
    pub pair: PairId,
    /// Weight of the pair's first image.
    pub lambda: Lambda,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn unranking_visits_every_pair_exactly_once(n in 0_u32..60) {
            let pool = Pool::new(n, Pairing::All);
            let seen: BTreeSet<(u32, u32)> = (0..pool.pairs())
                .filter_map(|id| pool.unrank(PairId(id)))
                .map(|(a, b)| (a.min(b), a.max(b)))
                .collect();
            let every: BTreeSet<(u32, u32)> = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect();
            prop_assert_eq!(seen.len() as u64, pool.pairs());
            prop_assert_eq!(seen, every);
        }

        #[test]
        fn rank_inverts_unrank(n in 2_u32..100_000, circular: bool, at in 0.0_f64..1.0) {
            let pairing = if circular { Pairing::Circular } else { Pairing::All };
            let pool = Pool::new(n, pairing);
            prop_assume!(pool.pairs() > 0);
            let pair = PairId((at * pool.pairs() as f64) as u64);
            let (a, b) = pool.unrank(pair).expect("within the pool");
            prop_assert_eq!(pool.rank(a, b), Some(pair));
            prop_assert_eq!(pool.rank(b, a), Some(pair));
        }
    }

    #[test]
    fn pair_counts_are_those_of_the_released_code() {
        assert_eq!(Pool::new(1_000, Pairing::Circular).pairs(), 499_000);
        assert_eq!(Pool::new(2_000, Pairing::Circular).pairs(), 1_998_000);
        assert_eq!(Pool::new(2_000, Pairing::All).pairs(), 1_999_000);
        assert_eq!(Pool::new(0, Pairing::All).pairs(), 0);
    }

    #[test]
    fn a_pair_past_the_end_has_no_images() {
        assert_eq!(Pool::new(4, Pairing::All).unrank(PairId(6)), None);
        assert_eq!(Pool::new(4, Pairing::Circular).rank(0, 2), None);
    }

    #[test]
    fn the_published_grid_has_eleven_exact_weights() {
        let grid = LambdaGrid::new(30, 70, 4).expect("valid");
        let hundredths: Vec<u8> = grid.lambdas().iter().map(|l| l.hundredths()).collect();
        assert_eq!(hundredths, [30, 34, 38, 42, 46, 50, 54, 58, 62, 66, 70]);
        assert_eq!(LambdaGrid::new(50, 40, 1), None);
        assert_eq!(LambdaGrid::new(50, 101, 1), None);
        assert_eq!(LambdaGrid::new(50, 60, 0), None);
    }
}
