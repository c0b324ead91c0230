//! Looking on while a job runs: what a coordinator tells watchers, and what they show.
//!
//! | module | what it is |
//! |---|---|
//! | [`serve`] | the coordinator's side: tells every watcher what changed |
//! | [`client`] | the watcher's side of the link |
//! | [`view`] | text for the terminal |
//! | [`standing`] | how far the job is, in a few words, for whoever manages it |
//!
//! What is told is JSON, a [`Sight`] a frame: a coordinator and a watcher of different versions still
//! understand what both know.

pub mod client;
pub mod serve;
pub mod standing;
pub mod view;

use serde::{Deserialize, Serialize};

use stillhouse_core::plan::Arm;
use stillhouse_core::selection::Histogram;

use crate::report::summary::{Hardest, Summary};
use crate::report::terminal::Live;

/// Longest frame: a summary with its pictures' labels is some hundred kilobytes.
pub const MAX_SIGHT_BYTES: usize = 16 << 20;

/// Something that a watcher sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sight {
    /// What is in `summary.json`; told when it changes.
    Summary(Box<Summary>),
    /// What goes on right now; told a few times a second.
    Now(Now),
}

/// What goes on right now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Now {
    /// The stage under way, once something of it is done.
    pub live: Option<Live>,
    /// The scan of the pool under way.
    pub scan: Option<ScanSight>,
    /// The batch that is being asked.
    pub batch: Option<BatchSight>,
    /// Connected workers, in order of arrival.
    pub workers: Vec<WorkerSight>,
    /// Workers that were lost since the coordinator started.
    pub lost: u64,
    /// The latest events, oldest first, as the event log has them.
    pub events: Vec<String>,
}

/// A scan of the pool under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanSight {
    /// How many pairs have which score so far.
    pub histogram: Histogram,
    /// About the score of the last candidate that will be chosen, as far as what was scanned can tell.
    pub cut: Option<f32>,
}

/// A query batch that is being asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchSight {
    /// For whom.
    pub arm: Arm,
    /// In which round.
    pub round: u32,
    /// The candidates that were chosen first, with the answers that are there.
    pub hardest: Vec<Hardest>,
}

/// A worker as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSight {
    /// Its number.
    pub worker: u64,
    /// Where its ring listens.
    pub address: String,
    /// Process id on its host.
    pub process: u32,
    /// Threads it computes with.
    pub threads: u32,
    /// Kind of device it computes on.
    pub device: String,
    /// What it does.
    pub does: String,
}
