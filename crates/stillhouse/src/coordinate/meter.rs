//! How far scoring and training are, from what workers say of their commands.

use std::collections::HashMap;

use stillhouse_protocol::{Fence, WorkerId};

use crate::report::ProgressBars;

/// Progress of the stage under way.
#[derive(Debug)]
pub struct Meter {
    pairs: u64,
    scanned: u64,
    shards: HashMap<Fence, Shard>,
    training: Option<(WorkerId, Fence)>,
    generation: Option<Fence>,
}

#[derive(Clone, Copy, Debug)]
struct Shard {
    worker: WorkerId,
    size: u64,
    done: u64,
}

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nothing new.
    Nothing,
    /// Pairs scanned.
    Scoring(u64, u64),
    /// Optimiser steps of a generator done.
    Generating(u64, u64),
    /// Optimiser steps done.
    Training(u64, u64),
}

impl Reading {
    /// Shows it.
    pub fn show(self, bars: &ProgressBars) {
        match self {
            Reading::Nothing => {}
            Reading::Scoring(done, total) => bars.scoring(done, total),
            Reading::Generating(done, total) => bars.generating(done, total),
            Reading::Training(done, total) => bars.training(done, total),
        }
    }
}

impl Meter {
    /// For a pool of `pairs` pairs.
    #[must_use]
    pub fn new(pairs: u64) -> Self {
        Self {
            pairs,
            scanned: 0,
            shards: HashMap::new(),
            training: None,
            generation: None,
        }
    }

    /// A new stage begins.
    pub fn reset(&mut self) {
        *self = Self::new(self.pairs);
    }

    /// A worker was given `size` pairs to scan.
    pub fn scan(&mut self, worker: WorkerId, fence: Fence, size: u64) {
        if self.scanned >= self.pairs {
            // The pool is scanned once more, with a wider guard.
            self.reset();
        }
        self.shards.insert(fence, Shard { worker, size, done: 0 });
    }

    /// The rank whose steps are shown.
    pub fn train(&mut self, worker: WorkerId, fence: Fence) {
        self.training = Some((worker, fence));
    }

    /// The generation whose steps are shown.
    pub fn generate(&mut self, fence: Fence) {
        self.generation = Some(fence);
    }

    /// A worker said how far a command is.
    pub fn progress(&mut self, fence: Fence, done: u64, total: u64) -> Reading {
        if self.training.is_some_and(|(_, training)| training == fence) {
            return Reading::Training(done, total);
        }
        if self.generation == Some(fence) {
            return Reading::Generating(done, total);
        }
        match self.shards.get_mut(&fence) {
            Some(shard) => {
                shard.done = done.min(shard.size);
                self.scoring()
            }
            None => Reading::Nothing,
        }
    }

    /// A command is done.
    pub fn done(&mut self, fence: Fence) -> Reading {
        match self.shards.remove(&fence) {
            Some(shard) => {
                self.scanned += shard.size;
                self.scoring()
            }
            None => Reading::Nothing,
        }
    }

    /// A worker was lost, and its shard with it.
    pub fn lose(&mut self, worker: WorkerId) {
        self.shards.retain(|_, shard| shard.worker != worker);
    }

    fn scoring(&self) -> Reading {
        let live: u64 = self.shards.values().map(|shard| shard.done).sum();
        Reading::Scoring((self.scanned + live).min(self.pairs), self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_finished_and_running_shards_and_forgets_lost_ones() {
        let mut meter = Meter::new(100);
        meter.scan(WorkerId(1), Fence(1), 50);
        meter.scan(WorkerId(2), Fence(2), 50);
        assert_eq!(meter.progress(Fence(1), 20, 50), Reading::Scoring(20, 100));
        assert_eq!(meter.done(Fence(2)), Reading::Scoring(70, 100));
        meter.lose(WorkerId(1));
        assert_eq!(meter.progress(Fence(1), 30, 50), Reading::Nothing);
        meter.scan(WorkerId(2), Fence(3), 50);
        assert_eq!(meter.done(Fence(3)), Reading::Scoring(100, 100));
        meter.train(WorkerId(2), Fence(9));
        assert_eq!(meter.progress(Fence(9), 3, 10), Reading::Training(3, 10));
        meter.generate(Fence(11));
        assert_eq!(meter.progress(Fence(11), 4, 10), Reading::Generating(4, 10));
    }
}
