//! Scores candidates of the pool: for each pair, the lambda that a student is least sure of.
//!
//! A score has one exact definition (`exact`): the acquisition function of the network's logits
//! for the canonical bytes, computed in batches of one fixed shape on one thread, so that its bits
//! depend on nothing but network and candidate. Most pairs are far from being selected, so a
//! [`Scorer`] first scans them with an approximation that is several times faster, keeps the band
//! around the cut, and only that band is rescored exactly. The guard of
//! [`selection`](stillhouse_core::selection) proves afterwards that the band was wide enough, so
//! the selected pairs are those of the exact scan.
//!
//! | module | what |
//! |---|---|
//! | [`scorer`] | scan, calibrate, rescore |
//! | `walk` | many pairs over several threads |
//! | `exact` | the definition of a score |
//! | `card` | the same on a card, where candidates are mixed too |
//! | `fused` | the approximation for LeNets: the layers fused, a candidate a SIMD lane |
//! | `residual` | the approximation for residual networks: Winograd, channels on SIMD lanes |
//! | `folded` | the approximation for other networks: libtorch's frozen graph |
//! | [`error`] | what can go wrong |

mod card;
pub mod error;
mod exact;
mod folded;
mod fused;
mod lanes;
mod residual;
pub mod scorer;
mod walk;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;

pub use error::ScoringError;
pub use scorer::{Keep, Scan, ScanMode, Scorer, ScorerConfig};

use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::Entry;
use stillhouse_core::{Lambda, PairId, ScoreBits};

/// A pair with its images.
#[derive(Clone, Copy, Debug)]
struct Pair<'a> {
    id: PairId,
    /// The image that lambda weighs.
    first: &'a [u8],
    second: &'a [u8],
}

/// Something that scores pairs: the exact definition or an approximation of it.
trait PairScorer {
    /// Pairs that a thread takes at once: some milliseconds of work, and whole batches for the usual
    /// grid of eleven lambdas. Scores do not depend on it.
    const CHUNK_PAIRS: u64 = 256;

    /// Appends the best lambda of each of `pairs`, in order.
    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError>;
}

/// The best lambda of one pair so far.
struct Best {
    pair: PairId,
    entry: Option<Entry>,
}

impl Best {
    fn new(pair: PairId) -> Self {
        Self { pair, entry: None }
    }

    /// Takes in the score at the next higher lambda: the lowest lambda of equals stays.
    fn take(
        &mut self,
        acquisition: Acquisition,
        lambda: Lambda,
        logits: &[f32],
        classes: usize,
    ) -> Result<(), ScoringError> {
        let pair = self.pair;
        let score =
            ScoreBits::new(acquisition.score(logits, classes)).ok_or(ScoringError::Diverged { pair: pair.0 })?;
        if self.entry.is_none_or(|best| score < best.score) {
            self.entry = Some(Entry { score, pair, lambda });
        }
        Ok(())
    }

    fn entry(self) -> Entry {
        self.entry.expect("a grid has at least one lambda")
    }
}
