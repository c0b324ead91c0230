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
//! narrow, scan again with a wider one. With an exact scan the scan alone decides. Of a sample of the
//! pool, every pair is scored exactly at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use stillhouse_core::pool::{Candidate, PairId};
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
    /// Candidates of the pool.
    pub pairs: u64,
    /// Pairs that are not to be chosen again.
    pub asked: HashSet<PairId>,
    /// The pairs among which to choose, none of them asked; all of the pool when absent.
    pub sample: Option<Vec<PairId>>,
    /// Whether scans score exact bytes.
    pub exact: bool,
    /// Lowest and highest score, for the histogram.
    pub range: (f32, f32),
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
    Scanning {
        band: Box<Band>,
        histogram: Histogram,
    },
    Rescoring(Box<Rescoring>),
    /// Exact scores of a sample so far.
    Sampling {
        exact: Vec<Entry>,
    },
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
        if let Some(sample) = selecting.problem.sample.take() {
            selecting.score_sample(&sample);
        } else if selecting.problem.exact {
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

    /// The scan under way: how many pairs have which score so far, and the score of the last candidate that would be
    /// chosen if the rest were worse.
    #[must_use]
    pub fn scan(&self) -> Option<(&Histogram, Option<f32>)> {
        match &self.phase {
            Phase::Scanning { band, histogram } => Some((histogram, band.cut())),
            Phase::Calibrating | Phase::Rescoring(_) | Phase::Sampling { .. } => None,
        }
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
                    Phase::Calibrating | Phase::Rescoring(_) | Phase::Sampling { .. } => f32::INFINITY,
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

    fn score_sample(&mut self, sample: &[PairId]) {
        self.rescore(sample);
        self.scans = 1;
        self.phase = Phase::Sampling {
            exact: Vec::with_capacity(sample.len()),
        };
    }

    fn rescore(&mut self, pairs: &[PairId]) {
        self.todo = pairs.chunks(RESCORE_PAIRS).map(|c| Work::Rescore(c.to_vec())).collect();
    }

    fn begin_scan(&mut self, ceiling: f32) {
        let Problem { k, pairs, workers, .. } = self.problem;
        let range = self.problem.range;
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
        self.rescore(&pairs);
        self.phase = Phase::Rescoring(Box::new(rescoring));
        Ok(Advance::More)
    }

    fn merge_exact(&mut self, pairs: &[PairId], entries: Vec<Entry>) -> Result<(), String> {
        let exact = match &mut self.phase {
            Phase::Rescoring(rescoring) => &mut rescoring.exact,
            Phase::Sampling { exact } => exact,
            Phase::Calibrating | Phase::Scanning { .. } => return Err("pairs were rescored outside a rescore".into()),
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
        if self.given > 0 || !self.todo.is_empty() {
            return Ok(Advance::More);
        }
        let rescoring = match std::mem::replace(&mut self.phase, Phase::Calibrating) {
            Phase::Rescoring(rescoring) => rescoring,
            Phase::Sampling { exact } => {
                self.scan_time += now.saturating_sub(self.phase_since);
                return Ok(self.finish_sample(exact));
            }
            Phase::Calibrating | Phase::Scanning { .. } => return Err("a rescore ended that had not begun".into()),
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

    fn finish_sample(&mut self, exact: Vec<Entry>) -> Advance {
        let mut histogram = Histogram::new(self.problem.range);
        exact.iter().for_each(|entry| histogram.add(entry.score.score()));
        let whole = Rescoring {
            approximate: HashMap::new(),
            histogram,
            cut: f32::INFINITY,
            bound: f32::INFINITY,
            exact,
        };
        // What was scanned was scored exactly.
        self.problem.exact = true;
        self.finish(whole, 0.0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stillhouse_core::Lambda;
    use stillhouse_core::plan::Arm;
    use stillhouse_core::score::{Acquisition, ScoreBits};

    fn entry(pair: PairId) -> Entry {
        Entry {
            // Few values, so that ties are common.
            score: ScoreBits::new((pair.0 * 31 % 50) as f32 / 50.0).expect("a number"),
            pair,
            lambda: Lambda::from_hundredths(50).expect("valid"),
        }
    }

    fn sampled(pairs: &[PairId], k: u64) -> Selecting {
        let student = Student::new(Arm::Active, 1);
        let problem = Problem {
            student,
            scorer: Student::new(Arm::Active, 0),
            k,
            pairs: 1_000_000,
            asked: HashSet::new(),
            sample: Some(pairs.to_vec()),
            exact: false,
            range: Acquisition::LeastConfidence.range(10),
            workers: 3,
            calibration: Vec::new(),
        };
        Selecting::new(problem, Duration::ZERO)
    }

    proptest! {
        #[test]
        fn the_best_of_a_sample_are_chosen_in_whatever_order_it_is_scored(
            pairs in prop::collection::hash_set(0_u64..1_000_000, 5_000..9_000), k in 1_u64..4_000,
            order in prop::collection::vec((any::<bool>(), 0_usize..8), 0..40),
        ) {
            let pairs: Vec<PairId> = pairs.into_iter().map(PairId).collect();
            let mut selecting = sampled(&pairs, k);
            let (mut held, mut turns, mut found) = (Vec::new(), order.into_iter(), None);
            while found.is_none() {
                let (give_back, which) = turns.next().unwrap_or_default();
                held.extend(selecting.next_work());
                let work: Work = held.swap_remove(which % held.len());
                if give_back {
                    selecting.give_back(work);
                    continue;
                }
                let Work::Rescore(pairs) = &work else { panic!("{work:?}") };
                let report = Report::Rescored { entries: pairs.iter().map(|pair| entry(*pair)).collect() };
                if let Advance::Selected(selection) = selecting.accept(&work, report, Duration::from_secs(2)).expect("fits") {
                    found = Some(selection);
                }
            }
            let found = found.expect("the loop ended");
            let want = select(pairs.iter().map(|pair| entry(*pair)).collect(), k as usize);
            let want: Vec<PairId> = want.iter().map(|entry| entry.pair).collect();
            prop_assert_eq!(found.batch.iter().map(|c| c.pair).collect::<Vec<_>>(), want);
            let scan = found.scan.expect("it was scored");
            prop_assert_eq!((scan.histogram.total(), scan.scans, scan.rescored), (pairs.len() as u64, 1, 0));
            prop_assert_eq!(scan.cut, *found.scores.last().expect("k is at least 1"));
        }
    }
}
