//! Work that workers have: which, since when, and how many have the same.
//!
//! A worker that is slow, or is lost without a word, must not hold the others up. When nothing is left to give out, idle
//! workers are given what others have had the longest; the first report counts, and the other copies are void.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Work;

/// Workers that may have the same work: a copy of a slow worker's may meet a slow one too.
const COPIES: u32 = 3;

/// Names work that was given out, within one selection. Older work has the lower name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkId(u64);

#[derive(Clone, Debug)]
struct Held {
    work: Work,
    since: Duration,
    copies: u32,
}

/// All work that workers have.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    next: u64,
    held: BTreeMap<WorkId, Held>,
    /// The same by number of copies and age, for who is to be helped next.
    by_copies: BTreeSet<(u32, WorkId)>,
}

impl Given {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All of it, once each.
    pub(super) fn works(&self) -> impl Iterator<Item = &Work> {
        self.held.values().map(|held| &held.work)
    }

    /// A worker takes new work.
    pub(super) fn add(&mut self, work: Work, now: Duration) -> WorkId {
        let id = WorkId(self.next);
        self.next += 1;
        let held = Held {
            work,
            since: now,
            copies: 1,
        };
        self.held.insert(id, held);
        self.by_copies.insert((1, id));
        id
    }

    /// Another worker takes the same work as somebody else: what the fewest have, and of that the oldest.
    pub(super) fn copy(&mut self) -> Option<(WorkId, Work)> {
        let (copies, id) = self.by_copies.first().copied().filter(|(copies, _)| *copies < COPIES)?;
        let held = self.held.get_mut(&id)?;
        held.copies += 1;
        self.by_copies.remove(&(copies, id));
        self.by_copies.insert((held.copies, id));
        Some((id, held.work.clone()))
    }

    /// How many workers have this work.
    pub(super) fn copies(&self, id: WorkId) -> u32 {
        self.held.get(&id).map_or(0, |held| held.copies)
    }

    /// A worker has it no longer. The work, when it was the last one.
    pub(super) fn drop_copy(&mut self, id: WorkId) -> Option<Work> {
        let held = self.held.get_mut(&id)?;
        self.by_copies.remove(&(held.copies, id));
        held.copies -= 1;
        if held.copies > 0 {
            self.by_copies.insert((held.copies, id));
            return None;
        }
        self.held.remove(&id).map(|held| held.work)
    }

    /// It is done, whoever has it still; the work, and when it was given out first. `is_kept` plants the fault that the
    /// other copies still count.
    pub(super) fn settle(&mut self, id: WorkId, is_kept: bool) -> Option<(Work, Duration)> {
        if is_kept {
            let held = self.held.get(&id).map(|held| (held.work.clone(), held.since));
            self.drop_copy(id);
            return held;
        }
        let held = self.held.remove(&id)?;
        self.by_copies.remove(&(held.copies, id));
        Some((held.work, held.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(at: u64) -> Work {
        Work::Scan {
            start: at,
            end: at + 1,
            ceiling: f32::INFINITY,
        }
    }

    #[test]
    fn what_the_fewest_have_is_copied_first_and_never_more_than_three_times() {
        let mut given = Given::default();
        let ids = [0, 1].map(|at| given.add(work(at), Duration::ZERO));
        let copied: Vec<WorkId> = std::iter::from_fn(|| given.copy()).map(|(id, _)| id).collect();
        assert_eq!(copied, [ids[0], ids[1], ids[0], ids[1]]);
        assert_eq!(given.copies(ids[0]), COPIES);
        assert_eq!(given.drop_copy(ids[1]), None);
        assert_eq!(given.copy(), Some((ids[1], work(1))));
    }

    #[test]
    fn work_comes_back_with_its_last_copy_and_is_settled_with_the_first_report() {
        let mut given = Given::default();
        let ids = [0, 1].map(|at| given.add(work(at), Duration::from_secs(at)));
        given.copy();
        assert_eq!(given.drop_copy(ids[0]), None);
        assert_eq!(given.drop_copy(ids[0]), Some(work(0)));
        assert_eq!(given.settle(ids[1], false), Some((work(1), Duration::from_secs(1))));
        assert_eq!((given.settle(ids[1], false), given.copies(ids[1])), (None, 0));
        assert!(given.is_empty() && given.copy().is_none());
    }
}
