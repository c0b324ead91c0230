//! One scan of the pool: shards out, entries in, and in the end the proof that no entry is missing.
//!
//! A range was scanned under the ceiling of its day, which is an estimate. Once everything was scanned, the bound (k-th
//! best found plus the guard width) is certain: ranges whose ceiling was at least as high miss nothing, the others are
//! forgotten and scanned again under the bound.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use stillhouse_core::pool::PairId;
use stillhouse_core::selection::{Band, Entry, Histogram};

use super::ceiling::Ceiling;
use super::kept::pairs_in;
use super::shards::{Cutting, Pace, Progress, Shards};
use super::{Problem, Work};

/// A report may hold this part of a worker's share of the entries that are wanted, beside the least that any may hold:
/// most reports hold far less, and all of those on their way fit into memory.
const PART_OF_SHARE: u64 = 4;

/// A range that was scanned, and the ceiling under which it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    range: Range<u64>,
    ceiling: f32,
}

/// A scan between two reports: what was found, and what is left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State<'a> {
    entries: Cow<'a, [Entry]>,
    bound: f32,
    histogram: Cow<'a, Histogram>,
    left: Vec<Range<u64>>,
    parts: Cow<'a, [Part]>,
    cut: Option<f32>,
    scanned: u64,
    is_counted: bool,
}

/// A scan under way.
#[derive(Clone, Debug)]
pub(super) struct Scanning {
    k: usize,
    width: f32,
    cutting: Cutting,
    band: Band,
    histogram: Histogram,
    shards: Shards,
    ceiling: Ceiling,
    parts: Vec<Part>,
    scanned: u64,
    /// Whether every pair is in the histogram, and ranges are scanned again.
    is_counted: bool,
}

impl Scanning {
    /// A scan of the pool of `problem` that keeps entries up to `width` beyond the cut, and none above `ceiling`, which is
    /// certain (`f32::INFINITY` when nothing is known).
    pub(super) fn new(problem: &Problem, width: f32, ceiling: f32) -> Self {
        let Problem {
            k,
            pairs,
            cutting,
            range,
            ..
        } = *problem;
        let count = usize::try_from(k).unwrap_or(usize::MAX);
        Self {
            k: count,
            width,
            cutting,
            band: Band::new(count, width, ceiling),
            histogram: Histogram::new(range),
            shards: Shards::new(pairs, cutting),
            ceiling: Ceiling::new(k, pairs, width),
            parts: Vec::new(),
            // Where the bound is certain, nothing has to be found out by small shards.
            scanned: if ceiling.is_finite() { pairs } else { 0 },
            is_counted: false,
        }
    }

    /// What stands so far, `given` being what workers have; `None` as long as that is nothing.
    pub(super) fn state(&self, given: impl Iterator<Item = Range<u64>>) -> Option<State<'_>> {
        (!self.parts.is_empty()).then(|| State {
            entries: self.band.entries().into(),
            bound: self.band.bound(),
            histogram: Cow::Borrowed(&self.histogram),
            left: self.shards.ranges().cloned().chain(given).collect(),
            parts: self.parts.as_slice().into(),
            cut: self.ceiling.cut(),
            scanned: self.scanned,
            is_counted: self.is_counted,
        })
    }

    /// The scan that `state` is of, if it can be one of the pool of `problem`.
    pub(super) fn restored(problem: &Problem, width: f32, state: State<'_>) -> Option<Self> {
        let State {
            entries,
            bound,
            histogram,
            left,
            parts,
            cut,
            scanned,
            is_counted,
        } = state;
        let mut scanning = Self::new(problem, width, bound);
        let all = left.iter().chain(parts.iter().map(|part| &part.range));
        if pairs_in(all) != problem.pairs || histogram.counts.len() != scanning.histogram.counts.len() {
            return None;
        }
        entries.iter().for_each(|entry| scanning.band.insert(*entry));
        scanning.histogram = histogram.into_owned();
        scanning.shards = Shards::of(left.into(), problem.cutting);
        scanning.ceiling.recall(cut);
        scanning.parts = parts.into_owned();
        scanning.scanned = scanned;
        scanning.is_counted = is_counted;
        Some(scanning)
    }

    /// How many pairs have which score so far, and about where the cut will be.
    pub(super) fn view(&self) -> (&Histogram, Option<f32>) {
        (&self.histogram, self.band.cut().or(self.ceiling.cut()))
    }

    pub(super) fn is_cut_up(&self) -> bool {
        self.shards.is_empty()
    }

    /// The next shard for one of `workers`.
    pub(super) fn cut(&mut self, workers: u64, pace: Pace) -> Option<Work> {
        let scanned = self.scanned;
        let Range { start, end } = self.shards.cut(Progress { workers, scanned, pace })?;
        let ceiling = self.band.bound().min(self.ceiling.value());
        Some(Work::Scan { start, end, ceiling })
    }

    pub(super) fn put_back(&mut self, range: Range<u64>) {
        self.shards.put_back(range);
    }

    /// Entries that a report of one of `workers` may hold, more or less.
    pub(super) fn cap(&self, workers: u64) -> u64 {
        let wanted = self.band.held().max(self.k) as u64;
        self.cutting.cap + wanted / (PART_OF_SHARE * workers)
    }

    /// Takes in what was found in `range`, the first part of the shard that ends at `end`, under `ceiling`.
    ///
    /// # Errors
    /// A sentence, when that cannot be.
    pub(super) fn merge(
        &mut self,
        (range, end, ceiling): (Range<u64>, u64, f32),
        entries: impl Iterator<Item = Entry>,
        counts: &Histogram,
    ) -> Result<(), String> {
        if range.is_empty() || range.end > end {
            return Err(format!("a worker scanned {range:?} of a shard that ends at {end}"));
        }
        if counts.total() != range.end - range.start || counts.counts.len() != self.histogram.counts.len() {
            return Err(format!("a worker counted {} pairs in shard {range:?}", counts.total()));
        }
        if !self.is_counted {
            self.histogram.merge(counts);
            self.scanned += range.end - range.start;
        }
        entries.for_each(|entry| self.band.insert(entry));
        self.ceiling.update(&self.band, self.scanned);
        self.shards.put_back(range.end..end);
        self.parts.push(Part { range, ceiling });
        Ok(())
    }

    /// Forgets what was scanned under a ceiling below the bound, to scan it again. Whether there was such.
    pub(super) fn mend(&mut self) -> bool {
        let bound = self.band.bound();
        let (low, kept): (Vec<Part>, Vec<Part>) = std::mem::take(&mut self.parts)
            .into_iter()
            .partition(|part| part.ceiling < bound);
        self.parts = kept;
        if low.is_empty() {
            return false;
        }
        self.ceiling.forget();
        let mut ranges: Vec<Range<u64>> = low.into_iter().map(|part| part.range).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        self.forget(&ranges, bound);
        self.shards = Shards::of(ranges.into(), self.cutting);
        self.is_counted = true;
        true
    }

    /// Takes the entries of `ranges`, which are in order, out of the band. The bound stays: it was found.
    fn forget(&mut self, ranges: &[Range<u64>], bound: f32) {
        let is_in = |pair: PairId| {
            let after = ranges.partition_point(|range| range.start <= pair.0);
            after > 0 && ranges[after - 1].contains(&pair.0)
        };
        let empty = Band::new(self.k, self.width, bound);
        let found = std::mem::replace(&mut self.band, empty).into_sorted();
        let kept = found.into_iter().filter(|entry| !is_in(entry.pair));
        kept.for_each(|entry| self.band.insert(entry));
    }

    /// Everything up to the bound in order, the bound, the cut, and the histogram.
    pub(super) fn end(self) -> (Vec<Entry>, f32, Option<f32>, Histogram) {
        let (bound, cut) = (self.band.bound(), self.band.cut());
        (self.band.into_sorted(), bound, cut, self.histogram)
    }

    /// Plants the fault of losing a shard.
    pub(super) fn forget_one_shard(&mut self) {
        self.shards.forget_one();
    }
}

impl State<'_> {
    /// Plants the fault that what workers had when it was kept counts as scanned.
    pub(super) fn count_what_is_left(&mut self) {
        let ceiling = f32::INFINITY;
        let left = self.left.pop().map(|range| Part { range, ceiling });
        self.parts.to_mut().extend(left);
    }
}
