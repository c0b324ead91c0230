//! One exact query batch from scored shards, by workers that may vanish at any moment.
//!
//! Scoring is stateless: a worker returns everything that matters of a shard at once, so a lost
//! worker loses one shard and nothing else. What crosses the wire stays small because every shard
//! is given a ceiling, estimated from what was scanned before it: all reports together hold little more than the k
//! entries that are wanted. A ceiling that was too low is found out when the scan ends, and what was scanned
//! under it is scanned again. So order, number and size of shards cannot change the batch. A report is
//! capped: where more would be kept, it covers the first part of its shard, and the rest is given out again.
//!
//! Phases: calibrate (compare approximate with exact scores on a sample, which sets the guard
//! width), scan (approximate), rescore (exact, the band only), and, should the band prove too
//! narrow, scan again with a wider one. With an exact scan the scan alone decides. Of a sample of the
//! pool, every pair is scored exactly at once.
//!
//! When nothing of a phase is left to give out, idle workers are given copies of what others have
//! the longest; the first report counts.
//!
//! | module | what it is |
//! |---|---|
//! | `shards` | how a pool is cut, and how large shards are |
//! | `ceiling` | which scores are of interest, as far as can be told |
//! | `scanning` | one scan, and the proof that it missed nothing |
//! | `rescoring` | what is scored one by one, and the band |
//! | `given` | what workers have, and copies of it |
//! | `kept` | a scan as bytes, for a coordinator that is started again |

mod ceiling;
mod given;
mod kept;
mod rescoring;
mod scanning;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use stillhouse_core::pool::{Candidate, PairId};
use stillhouse_core::selection::{Entry, GUARD_FACTOR, Guard, Histogram, check_guard, select};

use self::given::Given;
pub use self::given::WorkId;
use self::rescoring::{Batches, Rescoring};
use self::scanning::Scanning;
pub use self::shards::Cutting;
use self::shards::Pace;
use crate::fault::{Fault, Planted};
use crate::history::{ScanRecord, Selection, Student};
use crate::message::{Command, Report};

/// Pairs on which approximate and exact scores are compared before a scan.
const CALIBRATION_PAIRS: u64 = 2_048;
/// Pairs of that sample that one command compares, at least and at most: all workers wait for it.
const CALIBRATED_AT_ONCE: (u64, u64) = (64, CALIBRATION_PAIRS);
/// Scans after which a selection is given up: each widens the guard by half at least.
const MAX_SCANS: u32 = 8;

/// What is to be selected.
#[derive(Clone, Debug)]
pub struct Problem {
    /// For whose round.
    pub student: Student,
    /// Whose scores count.
    pub scorer: Student,
    /// How many candidates.
    pub k: u64,
    /// Candidates of the pool.
    pub pairs: u64,
    /// Pairs that are not to be chosen again, ascending.
    pub asked: Vec<PairId>,
    /// The pairs among which to choose, none of them asked; all of the pool when absent.
    pub sample: Option<Vec<PairId>>,
    /// Whether scans score exact bytes.
    pub exact: bool,
    /// Lowest and highest score, for the histogram.
    pub range: (f32, f32),
    /// Sizes of what workers are given.
    pub cutting: Cutting,
    /// The sample on which scores are compared; at most [`calibration_size`].
    pub calibration: Vec<PairId>,
    /// A rule that is broken on purpose.
    pub(crate) planted: Planted,
}

/// How many pairs to compare scores on, in a pool of `pairs`.
#[must_use]
pub fn calibration_size(pairs: u64) -> u64 {
    CALIBRATION_PAIRS.min(pairs)
}

/// One thing a worker can do for a selection.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Compare scores on these pairs.
    Calibrate(Vec<PairId>),
    /// Scan pairs `start..end`.
    Scan {
        /// First.
        start: u64,
        /// One past the last.
        end: u64,
        /// Scores above this are most likely of no interest.
        ceiling: f32,
    },
    /// Score exactly.
    Rescore(Vec<PairId>),
}

/// What a report led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Advance {
    /// There is more to do.
    More,
    /// The query batch.
    Selected(Box<Selection>),
}

#[derive(Clone, Debug)]
enum Phase {
    /// The largest difference so far.
    Calibrating(f32),
    Scanning(Box<Scanning>),
    Rescoring(Box<Rescoring>),
    /// Exact scores of a sample so far.
    Sampling(Vec<Entry>),
}

/// A selection under way.
#[derive(Clone, Debug)]
pub struct Selecting {
    problem: Problem,
    phase: Phase,
    /// Pairs that are to be scored one by one in this phase.
    batches: Batches,
    given: Given,
    pace: Pace,
    /// Workers that were there when something was last given out.
    workers: u64,
    width: f32,
    scans: u32,
    phase_since: Duration,
    scan_time: Duration,
    rescore_time: Duration,
}

impl Selecting {
    /// Begins at time `now`.
    #[must_use]
    pub fn new(mut problem: Problem, now: Duration) -> Self {
        let sample = problem.sample.take();
        let calibration = std::mem::take(&mut problem.calibration);
        let is_exact = problem.exact;
        let mut selecting = Self {
            phase: Phase::Calibrating(0.0),
            batches: Batches::default(),
            given: Given::default(),
            pace: Pace::default(),
            workers: 1,
            width: 0.0,
            scans: 0,
            phase_since: now,
            scan_time: Duration::ZERO,
            rescore_time: Duration::ZERO,
            problem,
        };
        if let Some(sample) = sample {
            selecting.scans = 1;
            selecting.phase = Phase::Sampling(Vec::with_capacity(sample.len()));
            selecting.batches = Batches::new(sample);
        } else if is_exact {
            selecting.begin_scan(f32::INFINITY);
        } else {
            selecting.batches = Batches::new(calibration);
        }
        selecting
    }

    /// What is being selected.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The scan under way: how many pairs have which score so far, and about where the cut will be, as far as what was
    /// scanned can tell.
    #[must_use]
    pub fn scan(&self) -> Option<(&Histogram, Option<f32>)> {
        match &self.phase {
            Phase::Scanning(scanning) => Some(scanning.view()),
            Phase::Calibrating(_) | Phase::Rescoring(_) | Phase::Sampling(_) => None,
        }
    }

    /// Something for an idle worker, one of `workers`, if there is: new work, or what another has already.
    pub fn next_work(&mut self, now: Duration, workers: u64) -> Option<(WorkId, Work)> {
        self.workers = workers.max(1);
        match self.cut() {
            Some(work) => Some((self.given.add(work.clone(), now), work)),
            None => self.given.copy(),
        }
    }

    fn cut(&mut self) -> Option<Work> {
        let (workers, exact) = (self.workers, self.problem.cutting.exact);
        match &mut self.phase {
            Phase::Calibrating(_) => self.batches.cut(workers, CALIBRATED_AT_ONCE).map(Work::Calibrate),
            Phase::Rescoring(_) | Phase::Sampling(_) => self.batches.cut(workers, exact).map(Work::Rescore),
            Phase::Scanning(scanning) => scanning.cut(workers, self.pace),
        }
    }

    /// How many workers have this work; none, once it is done.
    #[must_use]
    pub fn copies(&self, id: WorkId) -> u32 {
        self.given.copies(id)
    }

    /// Takes back what a worker will not do.
    pub fn give_back(&mut self, id: WorkId) {
        match (self.given.drop_copy(id), &mut self.phase) {
            (Some(Work::Scan { start, end, .. }), Phase::Scanning(scanning)) => scanning.put_back(start..end),
            (Some(Work::Calibrate(pairs) | Work::Rescore(pairs)), _) => self.batches.put_back(pairs),
            (Some(Work::Scan { .. }) | None, _) => {}
        }
    }

    /// Plants the fault of losing a shard.
    pub(crate) fn forget_one_scan(&mut self) {
        if let Phase::Scanning(scanning) = &mut self.phase {
            scanning.forget_one_shard();
        }
    }

    /// The command for `work` as things stand.
    #[must_use]
    pub fn command(&self, work: &Work) -> Command {
        let student = self.problem.scorer;
        match work {
            Work::Calibrate(pairs) => Command::Calibrate {
                student,
                pairs: pairs.clone(),
            },
            Work::Rescore(pairs) => Command::Rescore {
                student,
                pairs: pairs.clone(),
            },
            Work::Scan { start, end, ceiling } => Command::Scan {
                student,
                start: *start,
                end: *end,
                // A shard's own cut may fall on pairs that were asked already.
                k: self.problem.k + self.problem.asked.len() as u64,
                width: self.width,
                ceiling: *ceiling,
                cap: match &self.phase {
                    Phase::Scanning(scanning) => scanning.cap(self.workers),
                    Phase::Calibrating(_) | Phase::Rescoring(_) | Phase::Sampling(_) => 0,
                },
            },
        }
    }

    /// Takes in a report on work that [`next_work`](Self::next_work) gave out; copies of it are void from then on. A
    /// report on what is done already changes nothing.
    ///
    /// # Errors
    /// A sentence, when the report does not answer the work, or no guard is wide enough.
    pub fn accept(&mut self, id: WorkId, report: Report, now: Duration) -> Result<Advance, String> {
        let is_kept = self.problem.planted.is(Fault::CountCopies) && self.given.copies(id) > 1;
        let Some((work, since)) = self.given.settle(id, is_kept) else {
            return Ok(Advance::More);
        };
        match (work, report) {
            (Work::Calibrate(_), Report::Calibrated { deviation }) if deviation >= 0.0 => {
                self.merge_deviation(deviation);
                Ok(Advance::More)
            }
            (
                Work::Scan { start, end, ceiling },
                Report::Scanned {
                    end: reached,
                    entries,
                    histogram,
                },
            ) => {
                self.pace.add(reached.saturating_sub(start), now.saturating_sub(since));
                self.merge_shard((start..reached, end, ceiling), entries, &histogram)?;
                self.end_scan_when_done(now)
            }
            (Work::Rescore(pairs), Report::Rescored { entries }) => {
                self.merge_exact(&pairs, entries)?;
                self.end_rescore_when_done(now)
            }
            (work, _) => Err(format!("a worker answered something else than {}", name(&work))),
        }
    }

    fn merge_deviation(&mut self, deviation: f32) {
        let Phase::Calibrating(largest) = &mut self.phase else {
            return;
        };
        *largest = largest.max(deviation);
        if self.given.is_empty() && self.batches.is_empty() {
            self.width = GUARD_FACTOR * *largest;
            self.begin_scan(f32::INFINITY);
        }
    }

    fn begin_scan(&mut self, ceiling: f32) {
        self.scans += 1;
        self.batches = Batches::default();
        self.phase = Phase::Scanning(Box::new(Scanning::new(&self.problem, self.width, ceiling)));
    }

    fn merge_shard(
        &mut self,
        (range, end, ceiling): (std::ops::Range<u64>, u64, f32),
        entries: Vec<Entry>,
        counts: &Histogram,
    ) -> Result<(), String> {
        let Phase::Scanning(scanning) = &mut self.phase else {
            return Err("a shard was reported outside a scan".into());
        };
        if entries.iter().any(|entry| !range.contains(&entry.pair.0)) {
            return Err(format!("a worker reported pairs outside its shard {range:?}"));
        }
        let asked = &self.problem.asked;
        let new = entries
            .into_iter()
            .filter(|entry| asked.binary_search(&entry.pair).is_err());
        let end = if self.problem.planted.is(Fault::DropRest) {
            range.end
        } else {
            end
        };
        scanning.merge((range, end, ceiling), new, counts)
    }

    fn end_scan_when_done(&mut self, now: Duration) -> Result<Advance, String> {
        let Phase::Scanning(scanning) = &mut self.phase else {
            return Err("a scan ended that had not begun".into());
        };
        let trusts = self.problem.planted.is(Fault::TrustCeilings);
        if !self.given.is_empty() || !scanning.is_cut_up() || (!trusts && scanning.mend()) {
            return Ok(Advance::More);
        }
        let Phase::Scanning(scanning) = std::mem::replace(&mut self.phase, Phase::Calibrating(0.0)) else {
            return Err("a scan ended that had not begun".into());
        };
        self.scan_time += now.saturating_sub(self.phase_since);
        self.phase_since = now;
        let (entries, bound, cut, histogram) = scanning.end();
        if self.problem.exact {
            return Ok(self.finish(Rescoring::known(entries, cut, histogram), 0.0));
        }
        self.batches = Batches::new(entries.iter().map(|entry| entry.pair).collect());
        self.phase = Phase::Rescoring(Box::new(Rescoring::new(&entries, bound, cut, histogram)));
        Ok(Advance::More)
    }

    fn merge_exact(&mut self, pairs: &[PairId], entries: Vec<Entry>) -> Result<(), String> {
        let exact = match &mut self.phase {
            Phase::Rescoring(rescoring) => &mut rescoring.exact,
            Phase::Sampling(exact) => exact,
            Phase::Calibrating(_) | Phase::Scanning(_) => return Err("pairs were rescored outside a rescore".into()),
        };
        let answered: HashSet<PairId> = entries.iter().map(|e| e.pair).collect();
        if entries.len() != pairs.len() || !pairs.iter().all(|pair| answered.contains(pair)) {
            return Err(format!(
                "a worker rescored other pairs than the {} it was given",
                pairs.len()
            ));
        }
        exact.extend(entries);
        Ok(())
    }

    fn end_rescore_when_done(&mut self, now: Duration) -> Result<Advance, String> {
        if !self.given.is_empty() || !self.batches.is_empty() {
            return Ok(Advance::More);
        }
        let mut rescoring = match std::mem::replace(&mut self.phase, Phase::Calibrating(0.0)) {
            Phase::Rescoring(rescoring) => rescoring,
            Phase::Sampling(exact) => {
                self.scan_time += now.saturating_sub(self.phase_since);
                return Ok(self.finish_sample(exact));
            }
            Phase::Calibrating(_) | Phase::Scanning(_) => return Err("a rescore ended that had not begun".into()),
        };
        self.rescore_time += now.saturating_sub(self.phase_since);
        self.phase_since = now;
        let deviation = rescoring.deviation();
        let cut = rescoring.exact_cut(self.problem.k);
        match check_guard(rescoring.bound, rescoring.cut, cut, deviation) {
            Guard::Wide => Ok(self.finish(*rescoring, deviation)),
            Guard::TooNarrow(_) if self.scans >= MAX_SCANS => Err(format!(
                "approximate scores stray by {deviation}, and {MAX_SCANS} scans found no guard wide enough; use acquisition.scan: exact"
            )),
            Guard::TooNarrow(width) => {
                self.width = width;
                self.begin_scan(rescoring.cut + width);
                Ok(Advance::More)
            }
        }
    }

    fn finish_sample(&mut self, exact: Vec<Entry>) -> Advance {
        let mut histogram = Histogram::new(self.problem.range);
        exact.iter().for_each(|entry| histogram.add(entry.score.score()));
        // What was scanned was scored exactly.
        self.problem.exact = true;
        self.finish(Rescoring::known(exact, None, histogram), 0.0)
    }

    fn finish(&mut self, rescoring: Rescoring, deviation: f32) -> Advance {
        let rescored = if self.problem.exact {
            0
        } else {
            rescoring.exact.len() as u64
        };
        let k = usize::try_from(self.problem.k).unwrap_or(usize::MAX);
        let winners = select(rescoring.exact, k);
        let candidate = |e: &Entry| Candidate {
            pair: e.pair,
            lambda: e.lambda,
        };
        let scores: Vec<f32> = winners.iter().map(|e| e.score.score()).collect();
        let cut = scores.last().copied().unwrap_or(0.0);
        Advance::Selected(Box::new(Selection {
            batch: winners.iter().map(candidate).collect(),
            drawn: 0,
            scan: Some(ScanRecord {
                cut,
                approximate_cut: if rescoring.cut.is_finite() { rescoring.cut } else { cut },
                width: self.width,
                deviation,
                rescored,
                scans: self.scans,
                histogram: rescoring.histogram,
                scan_ms: millis(self.scan_time),
                rescore_ms: millis(self.rescore_time),
            }),
            scores,
        }))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn name(work: &Work) -> &'static str {
    match work {
        Work::Calibrate(_) => "a calibration",
        Work::Scan { .. } => "a scan",
        Work::Rescore(_) => "a rescore",
    }
}
