//! How far scoring and training are, from what workers say of their commands.

use std::collections::HashMap;

use stillhouse_protocol::{Fence, WorkerId};

use crate::report::ProgressBars;

/// Progress of the stage under way.
#[derive(Debug)]
pub struct Meter {
    pairs: u64,
    scanned: u64,
    /// What each worker scans; it may be a copy of what another has.
    shards: HashMap<WorkerId, Shard>,
    /// Pairs of those that are done, copies and all.
    live: u64,
    /// What was shown; it does not fall when a shard is lost or was a copy.
    shown: u64,
    training: Option<(WorkerId, Fence)>,
    generation: Option<Fence>,
}

#[derive(Clone, Copy, Debug)]
struct Shard {
    fence: Fence,
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
            live: 0,
            shown: 0,
            training: None,
            generation: None,
        }
    }

    /// A new stage begins.
    pub fn reset(&mut self) {
        *self = Self::new(self.pairs);
    }

    /// So many pairs were scanned in an earlier life of the job.
    pub fn resume(&mut self, pairs: u64) {
        self.scanned = pairs;
    }

    /// A worker was given `size` pairs to scan; what it had before is void.
    pub fn scan(&mut self, worker: WorkerId, fence: Fence, size: u64) {
        if self.scanned >= self.pairs {
            // The pool is scanned once more, with a wider guard.
            self.reset();
        }
        self.lose(worker);
        self.shards.insert(worker, Shard { fence, size, done: 0 });
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
    pub fn progress(&mut self, worker: WorkerId, fence: Fence, done: u64, total: u64) -> Reading {
        if self.training.is_some_and(|(_, training)| training == fence) {
            return Reading::Training(done, total);
        }
        if self.generation == Some(fence) {
            return Reading::Generating(done, total);
        }
        match self.shards.get_mut(&worker) {
            Some(shard) if shard.fence == fence => {
                let done = done.min(shard.size);
                self.live = self.live - shard.done + done;
                shard.done = done;
                self.scoring()
            }
            _ => Reading::Nothing,
        }
    }

    /// A command is done, and came to `pairs`: a capped scan ends before its shard does, and the report on a copy comes to
    /// nothing.
    pub fn done(&mut self, worker: WorkerId, fence: Fence, pairs: u64) -> Reading {
        if self.shards.get(&worker).is_none_or(|shard| shard.fence != fence) {
            return Reading::Nothing;
        }
        self.lose(worker);
        self.scanned += pairs;
        self.scoring()
    }

    /// A worker was lost, and its shard with it.
    pub fn lose(&mut self, worker: WorkerId) {
        self.live -= self.shards.remove(&worker).map_or(0, |shard| shard.done);
    }

    fn scoring(&mut self) -> Reading {
        self.shown = self.shown.max((self.scanned + self.live).min(self.pairs));
        Reading::Scoring(self.shown, self.pairs)
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
        assert_eq!(meter.progress(WorkerId(1), Fence(1), 20, 50), Reading::Scoring(20, 100));
        assert_eq!(meter.done(WorkerId(2), Fence(2), 50), Reading::Scoring(70, 100));
        meter.lose(WorkerId(1));
        assert_eq!(meter.progress(WorkerId(1), Fence(1), 30, 50), Reading::Nothing);
        meter.scan(WorkerId(2), Fence(3), 50);
        assert_eq!(meter.done(WorkerId(2), Fence(3), 50), Reading::Scoring(100, 100));
        meter.train(WorkerId(2), Fence(9));
        assert_eq!(meter.progress(WorkerId(2), Fence(9), 3, 10), Reading::Training(3, 10));
        meter.generate(Fence(11));
        assert_eq!(
            meter.progress(WorkerId(2), Fence(11), 4, 10),
            Reading::Generating(4, 10)
        );
    }

    #[test]
    fn what_an_earlier_life_scanned_counts() {
        let mut meter = Meter::new(100);
        meter.resume(60);
        meter.scan(WorkerId(1), Fence(1), 40);
        assert_eq!(meter.progress(WorkerId(1), Fence(1), 10, 40), Reading::Scoring(70, 100));
    }

    #[test]
    fn capped_scans_and_copies_count_for_what_they_come_to() {
        let mut meter = Meter::new(100);
        meter.scan(WorkerId(1), Fence(1), 60);
        meter.scan(WorkerId(2), Fence(2), 40);
        assert_eq!(meter.done(WorkerId(2), Fence(2), 25), Reading::Scoring(25, 100));
        // The other one's shard too, which ends first.
        meter.scan(WorkerId(2), Fence(3), 60);
        assert_eq!(meter.progress(WorkerId(2), Fence(3), 10, 60), Reading::Scoring(35, 100));
        assert_eq!(meter.done(WorkerId(1), Fence(1), 60), Reading::Scoring(95, 100));
        assert_eq!(meter.done(WorkerId(2), Fence(3), 0), Reading::Scoring(95, 100));
        // The rest, of which the worker is told while it still has something older.
        meter.scan(WorkerId(1), Fence(4), 15);
        meter.scan(WorkerId(1), Fence(5), 15);
        assert_eq!(meter.progress(WorkerId(1), Fence(4), 9, 15), Reading::Nothing);
        assert_eq!(meter.done(WorkerId(1), Fence(5), 15), Reading::Scoring(100, 100));
    }
}
