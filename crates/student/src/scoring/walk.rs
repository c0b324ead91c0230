//! Many pairs over several threads: each takes the next chunk, and hands what is left of it after
//! the bound to the calling thread, which alone holds the band.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, ScopedJoinHandle, scope};

use stillhouse_core::sample::Sources;
use stillhouse_core::selection::{Entry, Histogram};
use stillhouse_core::stochastic::Noise;
use stillhouse_core::{PairId, ScoreBits};

use super::{Pair, PairScorer, ScoringError};
use crate::ffi::{InferenceMode, compute_alone};

/// Chunks that may wait for the calling thread, for each computing thread: it only sorts them in,
/// so it is never far behind.
const WAITING_CHUNKS: usize = 2;

/// What is walked over.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    /// Where pairs get their images.
    pub(super) sources: Sources<'a>,
    /// The pairs: position in `0..total` to pair.
    pub(super) pairs: &'a (dyn Fn(u64) -> PairId + Sync),
    pub(super) total: u64,
    /// Lowest and highest possible score.
    pub(super) range: (f32, f32),
    /// What chance adds to scores, if it takes part.
    pub(super) noise: Option<Noise>,
    /// Scores above this are counted but not handed on. It may fall during the walk.
    pub(super) bound: &'a Bound,
}

/// A bound on scores that threads share and that only falls.
#[derive(Debug)]
pub(super) struct Bound(AtomicU32);

impl Bound {
    pub(super) fn new(bound: f32) -> Self {
        Self(AtomicU32::new(bound.to_bits()))
    }

    /// Lowers the bound. Threads may see the older, higher one for a while: they then hand on more
    /// than needed, never less.
    pub(super) fn set(&self, bound: f32) {
        self.0.store(bound.to_bits(), Ordering::Relaxed);
    }

    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What one chunk gave.
pub(super) struct Chunk {
    /// Position of its first pair.
    pub(super) start: u64,
    /// Pairs in it.
    pub(super) pairs: u64,
    /// Its entries up to the bound, in order of position.
    pub(super) entries: Vec<Entry>,
    /// Scores of all its pairs.
    pub(super) histogram: Histogram,
}

/// State that the threads of a walk share.
struct Shared<'a> {
    walk: Walk<'a>,
    next: AtomicU64,
    stop: AtomicBool,
}

/// Scores every pair once, one thread for each of `scorers`, and calls `consume` on this thread
/// for each chunk, in no particular order, until it breaks.
pub(super) fn walk<S: PairScorer + Send>(
    scorers: Vec<&mut S>,
    walk: Walk<'_>,
    mut consume: impl FnMut(Chunk) -> ControlFlow<()>,
) -> Result<(), ScoringError> {
    let shared = Shared::new(walk);
    let (sender, receiver) = sync_channel(WAITING_CHUNKS * scorers.len().max(1));
    scope(|scope| {
        let mut threads = Vec::new();
        let mut failure = None;
        for scorer in scorers {
            let (sender, shared) = (sender.clone(), &shared);
            let builder = Builder::new().name("score".to_owned());
            match builder.spawn_scoped(scope, move || shared.run(scorer, &sender)) {
                Ok(thread) => threads.push(thread),
                Err(error) => failure = Some(ScoringError::Thread(error.to_string())),
            }
        }
        drop(sender);
        let broken = failure.is_some() || receiver.iter().any(|chunk| consume(chunk).is_break());
        shared.stop.store(true, Ordering::Relaxed);
        // Unblocks threads that wait for room.
        drop(receiver);
        let ended = join(threads);
        match failure {
            Some(error) => Err(error),
            // What was scored beyond what was wanted is of no interest, and so is its failure.
            None if broken => Ok(()),
            None => ended,
        }
    })
}

/// As [`walk`], on this thread alone. For cards: cuDNN plans every convolution anew for each thread that
/// asks it, which takes longer than a small scan.
pub(super) fn walk_here<S: PairScorer>(
    scorer: &mut S,
    walk: Walk<'_>,
    mut consume: impl FnMut(Chunk) -> ControlFlow<()>,
) -> Result<(), ScoringError> {
    let _inference = InferenceMode::enter();
    let shared = Shared::new(walk);
    while let Some(start) = shared.next::<S>() {
        if consume(shared.chunk(scorer, start)?).is_break() {
            break;
        }
    }
    Ok(())
}

fn add(noise: &Noise, entry: &mut Entry) -> Result<(), ScoringError> {
    let score = noise.on(entry.pair, entry.score.score());
    entry.score = ScoreBits::new(score).ok_or(ScoringError::Diverged { pair: entry.pair.0 })?;
    Ok(())
}

/// Waits for every thread; the first error in order of threads wins.
fn join(threads: Vec<ScopedJoinHandle<'_, Result<(), ScoringError>>>) -> Result<(), ScoringError> {
    let mut ended = Ok(());
    for thread in threads {
        let result = thread
            .join()
            .unwrap_or_else(|_| Err(ScoringError::Thread("a scoring thread panicked".to_owned())));
        ended = ended.and(result);
    }
    ended
}

impl<'a> Shared<'a> {
    fn new(walk: Walk<'a>) -> Self {
        Self {
            walk,
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Where the next chunk begins, until there is none.
    fn next<S: PairScorer>(&self) -> Option<u64> {
        let start = self.next.fetch_add(S::CHUNK_PAIRS, Ordering::Relaxed);
        (start < self.walk.total).then_some(start)
    }

    /// One thread: chunk after chunk. An error stops the others too.
    fn run<S: PairScorer>(&self, scorer: &mut S, sender: &SyncSender<Chunk>) -> Result<(), ScoringError> {
        compute_alone();
        let _inference = InferenceMode::enter();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(start) = self.next::<S>() else { break };
            let chunk = self.chunk(scorer, start).inspect_err(|_| {
                self.stop.store(true, Ordering::Relaxed);
            })?;
            if sender.send(chunk).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn chunk<S: PairScorer>(&self, scorer: &mut S, start: u64) -> Result<Chunk, ScoringError> {
        let end = self.walk.total.min(start + S::CHUNK_PAIRS);
        let pairs: Result<Vec<Pair<'_>>, ScoringError> = (start..end).map(|at| self.pair(at)).collect();
        let mut entries = Vec::with_capacity((end - start) as usize);
        scorer.score(&pairs?, &mut entries)?;
        if let Some(noise) = &self.walk.noise {
            entries.iter_mut().try_for_each(|entry| add(noise, entry))?;
        }
        let mut histogram = Histogram::new(self.walk.range);
        entries.iter().for_each(|entry| histogram.add(entry.score.score()));
        let bound = self.walk.bound.get();
        entries.retain(|entry| entry.score.score() <= bound);
        Ok(Chunk {
            start,
            pairs: end - start,
            entries,
            histogram,
        })
    }

    fn pair(&self, at: u64) -> Result<Pair<'_>, ScoringError> {
        let Walk { sources, pairs, .. } = &self.walk;
        let id = pairs(at);
        match sources.parents(id) {
            Some((first, second)) => Ok(Pair { id, first, second }),
            None => Err(ScoringError::OutsidePool {
                pair: id.0,
                pairs: sources.pool.candidates(),
            }),
        }
    }
}
