//! A scan as far as it got, as bytes: what a restarted coordinator goes on with.
//!
//! Of a pool of 10^12 pairs a scan takes days, and the coordinator that dies meanwhile must not begin again. What is kept
//! is what was reported, and what is yet to be scanned, what workers have among it: a restart loses their shards alone.
//! It is bound to its problem, and so to the round: anything else is no use, and the scan begins anew.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rescoring::Batches;
use super::scanning::{Scanning, State};
use super::{Phase, Problem, Selecting, Work};
use crate::codec;
use crate::fault::Fault;

/// What the digest behind the bytes is of; another version of them has another.
const CONTEXT: &str = "stillhouse.dev kept scan 1";
const PROBLEM_CONTEXT: &str = "stillhouse.dev problem of a kept scan 1";

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<'a> {
    /// Digest of what is selected.
    problem: [u8; 32],
    width: f32,
    scans: u32,
    scan_time: Duration,
    rescore_time: Duration,
    state: State<'a>,
}

impl Selecting {
    /// The scan under way as bytes; `None` while there is none, or before its first shard is there.
    #[must_use]
    pub fn keep(&self, now: Duration) -> Option<Vec<u8>> {
        let Phase::Scanning(scanning) = &self.phase else {
            return None;
        };
        let given = self.given.works().filter_map(|work| match work {
            Work::Scan { start, end, .. } => Some(*start..*end),
            Work::Calibrate(_) | Work::Rescore(_) => None,
        });
        let mut state = scanning.state(given)?;
        if self.problem.planted.is(Fault::KeepGiven) {
            state.count_what_is_left();
        }
        let kept = Kept {
            problem: digest(&self.problem),
            width: self.width,
            scans: self.scans,
            scan_time: self.scan_time + now.saturating_sub(self.phase_since),
            rescore_time: self.rescore_time,
            state,
        };
        let mut bytes = codec::encode(&kept).ok()?;
        bytes.extend(blake3::derive_key(CONTEXT, &bytes));
        Some(bytes)
    }

    /// Goes on with a scan that an earlier life of the coordinator [kept](Self::keep), if `bytes` are one of this
    /// problem; whether they are. To be called before anything was given out.
    pub fn take_up(&mut self, bytes: &[u8]) -> bool {
        let Some(kept) = decode(bytes).filter(|kept| kept.problem == digest(&self.problem)) else {
            return false;
        };
        let Some(scanning) = Scanning::restored(&self.problem, kept.width, kept.state) else {
            return false;
        };
        self.batches = Batches::default();
        self.phase = Phase::Scanning(Box::new(scanning));
        self.width = kept.width;
        self.scans = kept.scans;
        self.scan_time = kept.scan_time;
        self.rescore_time = kept.rescore_time;
        true
    }
}

fn decode(bytes: &[u8]) -> Option<Kept<'static>> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    (blake3::derive_key(CONTEXT, body) == *digest).then(|| codec::decode(body).ok())?
}

/// What a scan must agree in with the problem that it is for. A student's weights are those of its round.
fn digest(problem: &Problem) -> [u8; 32] {
    let Problem {
        student,
        scorer,
        k,
        pairs,
        asked,
        sample: _,
        exact,
        range,
        cutting: _,
        calibration: _,
        planted: _,
    } = problem;
    let mut hasher = blake3::Hasher::new_derive_key(PROBLEM_CONTEXT);
    let facts = codec::encode(&(student, scorer, k, pairs, exact, range));
    hasher.update(&facts.expect("a few numbers are no longer than a message"));
    for pair in asked {
        hasher.update(&pair.0.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// How many pairs are in `ranges`.
pub(super) fn pairs_in<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> u64 {
    ranges.map(|range| range.end.saturating_sub(range.start)).sum()
}
