//! One exact query batch from scored shards, by workers that may vanish at any moment.
//!
//! Scoring is stateless: a worker returns everything that matters of a shard at once, so a lost
//! worker loses one shard and nothing else. What crosses the wire stays small because every shard
//! is given the running bound (k-th best so far plus the guard width): the first shards return
//! about k entries, later ones ever fewer, about `k ln(shards)` together. The bound only drops
//! what the final bound drops too, so order and number of shards cannot change the batch.
//!
//! Phases: calibrate (compare approximate with exact scores on a sample, which sets the guard
//! width), scan (approximate), rescore (exact, the band only), and, should the band prove too
//! narrow, scan again with a wider one. With an exact scan the scan alone decides.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use stillhouse_core::pool::{Candidate, PairId};
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::{Band, Entry, GUARD_FACTOR, Guard, Histogram, check_guard, select};

use crate::history::{ScanRecord, Selection, Student};
use crate::message::{Command, Report};

/// Pairs on which approximate and exact scores are compared before a scan.
const CALIBRATION_PAIRS: u64 = 2_048;
/// Shards a worker gets on average: enough that a slow one delays nobody for long.
const SHARDS_A_WORKER: u64 = 12;
/// Shards are not cut smaller than this many pairs, nor larger than the second number.
const SHARD_PAIRS: (u64, u64) = (1_024, 1 << 18);
/// Pairs rescored by one command.
const RESCORE_PAIRS: usize = 2_048;
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
    /// Pairs of the pool.
    pub pairs: u64,
    /// Pairs that are not to be chosen again.
    pub asked: HashSet<PairId>,
    /// Whether scans score exact bytes.
    pub exact: bool,
    /// The score, for the histogram's range.
    pub acquisition: Acquisition,
    /// Number of classes.
    pub classes: usize,
    /// Workers that will share the work, roughly.
    pub workers: u64,
    /// The sample on which scores are compared; at most [`calibration_size`].
    pub calibration: Vec<PairId>,
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
    Calibrating,
    Scanning { band: Box<Band>, histogram: Histogram },
    Rescoring(Box<Rescoring>),
}

#[derive(Clone, Debug)]
struct Rescoring {
    approximate: HashMap<PairId, f32>,
    histogram: Histogram,
    cut: f32,
    bound: f32,
    exact: Vec<Entry>,
}

/// A selection under way.
#[derive(Clone, Debug)]
pub struct Selecting {
    problem: Problem,
    phase: Phase,
    todo: VecDeque<Work>,
    /// Work given to workers and not reported yet.
    given: usize,
    width: f32,
    scans: u32,
    phase_since: Duration,
    scan_time: Duration,
    rescore_time: Duration,
}

impl Selecting {
    /// Begins at time `now`.
    #[must_use]
    pub fn new(problem: Problem, now: Duration) -> Self {
        let mut selecting = Self {
            phase: Phase::Calibrating,
            todo: VecDeque::new(),
            given: 0,
            width: 0.0,
            scans: 0,
            phase_since: now,
            scan_time: Duration::ZERO,
            rescore_time: Duration::ZERO,
            problem,
        };
        if selecting.problem.exact {
            selecting.begin_scan(f32::INFINITY);
        } else {
            let sample = selecting.problem.calibration.clone();
            selecting.todo.push_back(Work::Calibrate(sample));
        }
        selecting
    }

    /// What is being selected.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Something for an idle worker, if there is.
    pub fn next_work(&mut self) -> Option<Work> {
        let work = self.todo.pop_front()?;
        self.given += 1;
        Some(work)
    }

    /// Takes back what a worker will not do.
    pub fn give_back(&mut self, work: Work) {
        self.given -= 1;
        self.todo.push_front(work);
    }

    /// Plants the fault of losing a shard.
    pub(crate) fn forget_one_scan(&mut self) {
        if matches!(self.todo.front(), Some(Work::Scan { .. })) && self.todo.len() > 1 {
            self.todo.pop_front();
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
            Work::Scan { start, end } => Command::Scan {
                student,
                start: *start,
                end: *end,
                // A shard's own cut may fall on pairs that were asked already.
                k: self.problem.k + self.problem.asked.len() as u64,
                width: self.width,
                ceiling: match &self.phase {
                    Phase::Scanning { band, .. } => band.bound(),
                    Phase::Calibrating | Phase::Rescoring(_) => f32::INFINITY,
                },
            },
        }
    }

    /// Takes in the report on `work`, which [`next_work`](Self::next_work) gave out.
    ///
    /// # Errors
    /// A sentence, when the report does not answer the work, or no guard is wide enough.
    pub fn accept(&mut self, work: &Work, report: Report, now: Duration) -> Result<Advance, String> {
        self.given -= 1;
        match (work, report) {
            (Work::Calibrate(_), Report::Calibrated { deviation }) if deviation >= 0.0 => {
                self.width = GUARD_FACTOR * deviation;
                self.begin_scan(f32::INFINITY);
                Ok(Advance::More)
            }
            (Work::Scan { start, end }, Report::Scanned { entries, histogram }) => {
                self.merge_shard(*start..*end, entries, &histogram)?;
                self.end_scan_when_done(now)
            }
            (Work::Rescore(pairs), Report::Rescored { entries }) => {
                self.merge_exact(pairs, entries)?;
                self.end_rescore_when_done(now)
            }
            (work, _) => Err(format!("a worker answered something else than {}", name(work))),
        }
    }

    fn begin_scan(&mut self, ceiling: f32) {
        let Problem { k, pairs, workers, .. } = self.problem;
        let range = self.problem.acquisition.range(self.problem.classes);
        let k = usize::try_from(k).unwrap_or(usize::MAX);
        self.phase = Phase::Scanning {
            band: Box::new(Band::new(k, self.width, ceiling)),
            histogram: Histogram::new(range),
        };
        self.scans += 1;
        let size = (pairs / (SHARDS_A_WORKER * workers.max(1))).clamp(SHARD_PAIRS.0, SHARD_PAIRS.1);
        let starts = (0..pairs).step_by(usize::try_from(size).unwrap_or(usize::MAX));
        self.todo = starts
            .map(|start| Work::Scan {
                start,
                end: (start + size).min(pairs),
            })
            .collect();
    }

    fn merge_shard(
        &mut self,
        range: std::ops::Range<u64>,
        entries: Vec<Entry>,
        counts: &Histogram,
    ) -> Result<(), String> {
        let Phase::Scanning { band, histogram } = &mut self.phase else {
            return Err("a shard was reported outside a scan".into());
        };
        if entries.iter().any(|entry| !range.contains(&entry.pair.0)) {
            return Err(format!("a worker reported pairs outside its shard {range:?}"));
        }
        if counts.total() != range.end - range.start || counts.counts.len() != histogram.counts.len() {
            return Err(format!("a worker counted {} pairs in shard {range:?}", counts.total()));
        }
        histogram.merge(counts);
        let asked = &self.problem.asked;
        let new = entries.into_iter().filter(|entry| !asked.contains(&entry.pair));
        new.for_each(|entry| band.insert(entry));
        Ok(())
    }

    fn end_scan_when_done(&mut self, now: Duration) -> Result<Advance, String> {
        if self.given > 0 || !self.todo.is_empty() {
            return Ok(Advance::More);
        }
        let Phase::Scanning { band, histogram } = std::mem::replace(&mut self.phase, Phase::Calibrating) else {
            return Err("a scan ended that had not begun".into());
        };
        self.scan_time += now.saturating_sub(self.phase_since);
        self.phase_since = now;
        let (bound, cut) = (band.bound(), band.cut().unwrap_or(f32::INFINITY));
        let entries = band.into_sorted();
        let mut rescoring = Rescoring {
            approximate: entries.iter().map(|e| (e.pair, e.score.score())).collect(),
            histogram,
            cut,
            bound,
            exact: Vec::new(),
        };
        if self.problem.exact {
            rescoring.exact = entries;
            return Ok(self.finish(rescoring, 0.0));
        }
        let pairs: Vec<PairId> = entries.iter().map(|e| e.pair).collect();
        self.todo = pairs.chunks(RESCORE_PAIRS).map(|c| Work::Rescore(c.to_vec())).collect();
        self.phase = Phase::Rescoring(Box::new(rescoring));
        Ok(Advance::More)
    }

    fn merge_exact(&mut self, pairs: &[PairId], entries: Vec<Entry>) -> Result<(), String> {
        let Phase::Rescoring(rescoring) = &mut self.phase else {
            return Err("pairs were rescored outside a rescore".into());
        };
        let answered: HashSet<PairId> = entries.iter().map(|e| e.pair).collect();
        if entries.len() != pairs.len() || !pairs.iter().all(|pair| answered.contains(pair)) {
            return Err(format!(
                "a worker rescored other pairs than the {} it was given",
                pairs.len()
            ));
        }
        rescoring.exact.extend(entries);
        Ok(())
    }

    fn end_rescore_when_done(&mut self, now: Duration) -> Result<Advance, String> {
        if self.given > 0 || !self.todo.is_empty() {
            return Ok(Advance::More);
        }
        let Phase::Rescoring(rescoring) = std::mem::replace(&mut self.phase, Phase::Calibrating) else {
            return Err("a rescore ended that had not begun".into());
        };
        self.rescore_time += now.saturating_sub(self.phase_since);
        self.phase_since = now;
        let difference = |entry: &Entry| (rescoring.approximate[&entry.pair] - entry.score.score()).abs();
        let deviation = rescoring.exact.iter().map(difference).fold(0.0, f32::max);
        let cut = kth_score(rescoring.exact.clone(), self.problem.k);
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

fn kth_score(entries: Vec<Entry>, k: u64) -> f32 {
    let winners = select(entries, usize::try_from(k).unwrap_or(usize::MAX));
    winners.last().map_or(0.0, |e| e.score.score())
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
