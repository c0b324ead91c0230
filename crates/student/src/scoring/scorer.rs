//! Scan, calibrate, rescore: what a worker does with a shard of the pool.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use stillhouse_core::sample::Sources;
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::{Band, Entry, Histogram};
use stillhouse_core::stochastic::{Noise, Stochastic};
use stillhouse_core::{ImageSet, LambdaGrid, PairId, Pool};
use tch::Device;

use super::card::OnCard;
use super::exact::Batched;
use super::folded::Folded;
use super::fused::Fused;
use super::residual::Residual;
use super::walk::{Bound, Chunk, Walk, walk, walk_here};
use super::{Pair, PairScorer, ScoringError};
use crate::error::StudentError;
use crate::ffi::Shortcuts;
use crate::network::{Network, NetworkSpec};

/// How a pool is scanned. What is selected in the end is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanMode {
    /// By the definition of the score: no rescoring needed, several times slower.
    Exact,
    /// By an approximation, where there is one: the band must be rescored and the guard checked.
    Guarded,
}

/// What to score, and how.
#[derive(Clone, Debug)]
pub struct ScorerConfig {
    /// The seed images.
    pub seeds: Arc<ImageSet>,
    /// The generated images of the pool, if it has any.
    pub generated: Option<Arc<ImageSet>>,
    /// The pool over both.
    pub pool: Pool,
    /// Lambdas tried for each pair.
    pub lambdas: LambdaGrid,
    /// Acquisition function.
    pub acquisition: Acquisition,
    /// How chance takes part, of a job with this seed in this round; not at all when absent.
    pub stochastic: Option<(Stochastic, u64, u32)>,
    /// Computing threads of a processor, at least 1. Scores do not depend on their number.
    pub threads: usize,
    /// How the pool is scanned.
    pub scan: ScanMode,
    /// Where scores are computed. They have the same bits on devices of one kind.
    pub device: Device,
}

/// What a scan keeps of the pairs that it scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keep {
    /// Pairs up to the `k`-th best plus `width` are kept.
    pub k: usize,
    /// Guard width, in score units; 0 for an exact scan.
    pub width: f32,
    /// Scores above this are of no interest (`f32::INFINITY` when nothing is known from other ranges).
    pub ceiling: f32,
    /// Kept pairs after which the scan ends before its range does.
    pub cap: usize,
}

impl Keep {
    /// Pairs up to the `k`-th best plus `width`, however many.
    #[must_use]
    pub fn best(k: usize, width: f32) -> Self {
        Self {
            k,
            width,
            ceiling: f32::INFINITY,
            cap: usize::MAX,
        }
    }
}

/// What a scan of a range of pairs found.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// Every pair scanned whose scanned score is at most the ceiling and at most the k-th
    /// best of them plus the width, in order of (score, pair).
    pub entries: Vec<Entry>,
    /// Scanned scores of all pairs scanned.
    pub histogram: Histogram,
    /// Pairs scanned, from the start of the range on: all of it, unless more than the cap were to be kept.
    pub scanned: u64,
}

/// A scan under way. Chunks come in any order and are taken in in order of position, so that where a capped scan ends
/// does not depend on threads.
struct Scanning {
    band: Band,
    histogram: Histogram,
    scanned: u64,
    cap: usize,
    /// Chunks whose turn has not come, by position.
    early: BTreeMap<u64, Chunk>,
}

impl Scanning {
    fn new(keep: Keep, range: (f32, f32)) -> Self {
        Self {
            band: Band::new(keep.k, keep.width, keep.ceiling),
            histogram: Histogram::new(range),
            scanned: 0,
            cap: keep.cap,
            early: BTreeMap::new(),
        }
    }

    /// Takes in what has come up to now; breaks once more than the cap are kept.
    fn take(&mut self, chunk: Chunk) -> ControlFlow<()> {
        self.early.insert(chunk.start, chunk);
        while let Some(chunk) = self.early.remove(&self.scanned) {
            self.scanned += chunk.pairs;
            self.histogram.merge(&chunk.histogram);
            chunk.entries.into_iter().for_each(|entry| self.band.insert(entry));
            if self.band.exceeds(self.cap) {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Scores pairs of one pool with one student. Memory does not depend on the number of
/// pairs or of seed images, save for the seed images themselves and the band.
pub struct Scorer {
    seeds: Arc<ImageSet>,
    generated: Option<Arc<ImageSet>>,
    pool: Pool,
    range: (f32, f32),
    noise: Option<Noise>,
    exact: Exact,
    approximate: Approximations,
}

/// What a guarded scan uses, on a processor one for each thread.
enum Approximations {
    /// Nothing: scans are exact.
    None,
    Processor(Vec<Approximate>),
    Card(Box<OnCard>),
}

/// The definition of a score, on a processor one for each thread.
enum Exact {
    Processor(Vec<Batched<Network>>),
    Card(Box<OnCard>),
}

impl std::fmt::Debug for Scorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scan = match &self.approximate {
            Approximations::None => "exact",
            Approximations::Processor(threads) => threads.first().map_or("no", Approximate::name),
            Approximations::Card(_) => "rounding",
        };
        let (place, threads) = match &self.exact {
            Exact::Processor(threads) => ("processor", threads.len()),
            Exact::Card(_) => ("card", 1),
        };
        let pairs = self.pool.pairs();
        write!(f, "Scorer({pairs} pairs, {place}, {threads} threads, {scan} scan)")
    }
}

/// An approximation of the exact score, one for each thread.
enum Approximate {
    Fused(Box<Fused>),
    Residual(Box<Residual>),
    Folded(Batched<Folded>),
}

impl Approximate {
    fn name(&self) -> &'static str {
        match self {
            Self::Fused(_) => "fused",
            Self::Residual(_) => "residual",
            Self::Folded(_) => "folded",
        }
    }
}

impl PairScorer for Approximate {
    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        match self {
            Self::Fused(scorer) => scorer.score(pairs, entries),
            Self::Residual(scorer) => scorer.score(pairs, entries),
            Self::Folded(scorer) => scorer.score(pairs, entries),
        }
    }
}

impl Scorer {
    /// A scorer for the student `spec` with `weights` (safetensors, see [`Network::load_weights`]).
    ///
    /// # Errors
    /// When weights, images, pool and network do not fit each other.
    pub fn new(spec: &NetworkSpec, weights: &[u8], config: &ScorerConfig) -> Result<Self, ScoringError> {
        let ScorerConfig {
            seeds,
            generated,
            pool,
            acquisition,
            ..
        } = config;
        let images = [Some(seeds), generated.as_ref()].into_iter().flatten();
        if let Some(other) = images.map(|images| images.shape()).find(|shape| *shape != spec.shape()) {
            return Err(ScoringError::Shape {
                expected: spec.shape(),
                found: other,
            });
        }
        if seeds.len() != pool.seeds() as usize {
            return Err(ScoringError::Seeds {
                expected: pool.seeds(),
                found: seeds.len(),
            });
        }
        let found = generated.as_ref().map_or(0, |images| images.len());
        if found != pool.generated() as usize {
            return Err(ScoringError::Seeds {
                expected: pool.generated(),
                found,
            });
        }
        let mut network = Network::build(spec, 0, config.device)?;
        network.load_weights(weights)?;
        let network = match acquisition {
            Acquisition::Bald => network.committee()?,
            _ => network.deployed()?,
        };
        let lambdas = Arc::new(config.lambdas.clone());
        let threads = config.threads.max(1);
        let is_card = matches!(config.device, Device::Cuda(_));
        let on_card = || OnCard::new(network.share()?, &lambdas, *acquisition);
        let approximate = match config.scan {
            ScanMode::Exact => Approximations::None,
            ScanMode::Guarded if is_card => Approximations::Card(Box::new(on_card()?.approximate())),
            ScanMode::Guarded => Approximations::Processor(approximate(&network, &lambdas, *acquisition, threads)?),
        };
        let exact = if is_card {
            Exact::Card(Box::new(on_card()?))
        } else {
            let scorer = || Ok(Batched::new(network.share()?, spec, Arc::clone(&lambdas), *acquisition));
            Exact::Processor((0..threads).map(|_| scorer()).collect::<Result<_, ScoringError>>()?)
        };
        Ok(Self {
            seeds: Arc::clone(seeds),
            generated: generated.clone(),
            pool: *pool,
            range: match config.stochastic {
                Some((stochastic, ..)) => stochastic.range(*acquisition, spec.classes()),
                None => acquisition.range(spec.classes()),
            },
            noise: (config.stochastic).map(|(stochastic, seed, round)| stochastic.noise(seed, round, *acquisition)),
            exact,
            approximate,
        })
    }

    /// The pool whose pairs are scored.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// Whether scanned scores are exact scores: then the guard width may be 0 and the entries of a
    /// scan need no rescoring.
    #[must_use]
    pub fn scans_exactly(&self) -> bool {
        matches!(self.approximate, Approximations::None)
    }

    /// Scans the pairs `range`, or as many of them as it takes to `keep` more than the cap (then at least one, and up to
    /// a chunk's pairs more than the cap are kept). `observer` hears how
    /// many pairs are done and may break off. The result is a function of the arguments, the
    /// student and the pool: threads and timing do not change it. (Another cut of the same pairs
    /// into ranges may change the last bits of scanned scores where the scan is libtorch's frozen
    /// graph; never those of rescored ones.)
    ///
    /// # Errors
    /// [`ScoringError::Stopped`] when the observer breaks off, [`ScoringError::Diverged`] when an
    /// answer is not a number, [`ScoringError::OutsidePool`] when the range is not of the pool.
    pub fn scan(
        &mut self,
        range: Range<u64>,
        keep: Keep,
        observer: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Scan, ScoringError> {
        if range.end > self.pool.candidates() {
            return Err(ScoringError::OutsidePool {
                pair: range.end - 1,
                pairs: self.pool.candidates(),
            });
        }
        let mut scanning = Scanning::new(keep, self.range);
        let bound = Bound::new(keep.ceiling);
        let mut stopped = ControlFlow::Continue(());
        let consume = |chunk: Chunk| {
            let full = scanning.take(chunk);
            bound.set(scanning.band.bound());
            stopped = observer(scanning.scanned);
            if stopped.is_break() { stopped } else { full }
        };
        let pairs = |at| PairId(range.start + at);
        let total = range.end.saturating_sub(range.start);
        self.walk(!self.scans_exactly(), &pairs, total, &bound, consume)?;
        if stopped.is_break() {
            return Err(ScoringError::Stopped);
        }
        Ok(Scan {
            entries: scanning.band.into_sorted(),
            histogram: scanning.histogram,
            scanned: scanning.scanned,
        })
    }

    /// Exact entries of `pairs`, in that order.
    ///
    /// # Errors
    /// As [`Scorer::scan`].
    pub fn rescore(&mut self, pairs: &[PairId]) -> Result<Vec<Entry>, ScoringError> {
        self.entries(false, pairs)
    }

    /// The largest difference between scanned and exact score over `pairs`, in score units. It is
    /// 0 when scans are exact.
    ///
    /// # Errors
    /// As [`Scorer::scan`].
    pub fn calibrate(&mut self, pairs: &[PairId]) -> Result<f32, ScoringError> {
        if self.scans_exactly() {
            return Ok(0.0);
        }
        let approximate = self.entries(true, pairs)?;
        let exact = self.entries(false, pairs)?;
        let differences = approximate
            .iter()
            .zip(&exact)
            .map(|(a, e)| (a.score.score() - e.score.score()).abs());
        Ok(differences.fold(0.0, f32::max))
    }

    /// Entries of `pairs`, in that order.
    pub(super) fn entries(&mut self, approximate: bool, pairs: &[PairId]) -> Result<Vec<Entry>, ScoringError> {
        let mut chunks = HashMap::new();
        let consume = |chunk: Chunk| {
            chunks.insert(chunk.start, chunk.entries);
            ControlFlow::Continue(())
        };
        let at = |at: u64| pairs[at as usize];
        self.walk(
            approximate,
            &at,
            pairs.len() as u64,
            &Bound::new(f32::INFINITY),
            consume,
        )?;
        let mut chunks: Vec<(u64, Vec<Entry>)> = chunks.into_iter().collect();
        chunks.sort_unstable_by_key(|(start, _)| *start);
        Ok(chunks.into_iter().flat_map(|(_, entries)| entries).collect())
    }

    fn walk(
        &mut self,
        approximate: bool,
        pairs: &(dyn Fn(u64) -> PairId + Sync),
        total: u64,
        bound: &Bound,
        consume: impl FnMut(Chunk) -> ControlFlow<()>,
    ) -> Result<(), ScoringError> {
        let plan = Walk {
            sources: Sources {
                seeds: &self.seeds,
                evaluation: None,
                generated: self.generated.as_deref(),
                pool: self.pool,
            },
            pairs,
            total,
            range: self.range,
            noise: self.noise,
            bound,
        };
        match &mut self.approximate {
            Approximations::Processor(threads) if approximate => {
                return walk(threads.iter_mut().collect(), plan, consume);
            }
            Approximations::Card(scorer) if approximate => {
                let _shortcuts = Shortcuts::take().map_err(StudentError::Torch)?;
                return walk_here(&mut **scorer, plan, consume);
            }
            _ => {}
        }
        match &mut self.exact {
            Exact::Processor(threads) => walk(threads.iter_mut().collect(), plan, consume),
            Exact::Card(scorer) => walk_here(&mut **scorer, plan, consume),
        }
    }
}

/// The fastest approximation that there is for `network`, one for each thread.
fn approximate(
    network: &Network,
    lambdas: &Arc<LambdaGrid>,
    acquisition: Acquisition,
    threads: usize,
) -> Result<Vec<Approximate>, ScoringError> {
    if let Some(fused) = Fused::new(network, lambdas, acquisition)? {
        return Ok((0..threads)
            .map(|_| Approximate::Fused(Box::new(fused.share())))
            .collect());
    }
    if let Some(residual) = Residual::new(network, lambdas, acquisition)? {
        return Ok((0..threads)
            .map(|_| Approximate::Residual(Box::new(residual.share())))
            .collect());
    }
    let spec = network.spec();
    (0..threads)
        .map(|_| {
            let folded = Folded::new(network, spec.shape())?;
            Ok(Approximate::Folded(Batched::new(
                folded,
                spec,
                Arc::clone(lambdas),
                acquisition,
            )))
        })
        .collect()
}
