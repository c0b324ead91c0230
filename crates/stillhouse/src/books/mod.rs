//! The books of a job that is not running: its ledger, and what its directory says about it.
//!
//! | module | what it is |
//! |---|---|
//! | [`images`] | the images that were asked, from the directory alone |
//! | [`tally`] | charges by what was asked and by state |
//! | [`audit`] | every check of ledger, images and files against each other |
//! | [`invoice`] | the provider's bill |
//! | [`reconcile`] | ledger and bill side by side |

pub mod audit;
pub mod images;
pub mod invoice;
pub mod reconcile;
pub mod tally;

use std::path::{Path, PathBuf};

use stillhouse_core::Job;
use stillhouse_ledger::{Charge, Counts, Entry, Genesis, LedgerError, Reader, State};

use crate::failure::{Failure, Kind};

/// The books of a job, read whole.
#[derive(Debug)]
pub struct Books {
    /// The job directory.
    pub dir: PathBuf,
    /// What the ledger is for.
    pub genesis: Genesis,
    /// Charges by state.
    pub counts: Counts,
    /// Every query, in order of keys.
    pub entries: Vec<Entry>,
    /// The job, when its file is there and this version can read it.
    pub job: Option<Job>,
}

impl Books {
    /// Reads the books of the job in `dir`, and gives the ledger free again.
    ///
    /// # Errors
    /// When there are none, a job is running on them, or they cannot be read.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let reader = Reader::open(dir).map_err(|error| ledger_failure(error, dir))?;
        let entries = reader.entries().map_err(|error| ledger_failure(error, dir))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            genesis: reader.genesis().clone(),
            counts: reader.counts(),
            entries,
            job: read_job(dir),
        })
    }

    /// Name of the job, or of its directory.
    #[must_use]
    pub fn name(&self) -> String {
        let job = self.job.as_ref().map(|job| job.name.clone());
        job.unwrap_or_else(|| self.dir.display().to_string())
    }

    /// Price of one query, when the job names one.
    #[must_use]
    pub fn price(&self) -> Option<f64> {
        self.job.as_ref()?.spec.teacher.price_per_query
    }
}

/// The job in `dir`, when its file is there and this version can read it.
fn read_job(dir: &Path) -> Option<Job> {
    let text = std::fs::read_to_string(dir.join("job.yaml")).ok()?;
    Job::parse(&text).ok()
}

/// The charge that says what became of a query: the one with the label, else the last.
#[must_use]
pub fn decisive(entry: &Entry) -> Option<&Charge> {
    let committed = entry.charges.iter().find(|charge| charge.state == State::Committed);
    committed.or(entry.charges.last())
}

/// Name of a state.
#[must_use]
pub fn state_name(state: &State) -> &'static str {
    match state {
        State::Reserved => "reserved",
        State::Sent => "sent",
        State::Ambiguous(_) => "ambiguous",
        State::Renewed(_) => "renewed",
        State::Spent(_) => "spent",
        State::Committed => "committed",
    }
}

/// Why a charge brought no label.
#[must_use]
pub fn cause(state: &State) -> Option<&str> {
    match state {
        State::Ambiguous(cause) | State::Renewed(cause) | State::Spent(cause) => Some(cause.as_str()),
        State::Sent => Some("the process died after it was sent"),
        State::Reserved | State::Committed => None,
    }
}

/// A failure of the ledger in `dir` as the user sees it.
#[must_use]
pub fn ledger_failure(error: LedgerError, dir: &Path) -> Failure {
    let dir = dir.display();
    let (kind, hint) = match &error {
        LedgerError::Missing { .. } => (
            Kind::Directory,
            Some("a job directory has a ledger once its teacher was reached; is this one?".to_owned()),
        ),
        LedgerError::Locked { .. } => (
            Kind::Directory,
            Some(format!(
                "a job is running on it: stillhouse status {dir} shows it, or stop it first"
            )),
        ),
        LedgerError::OtherJob { .. } => (Kind::Directory, Some("name another --dir for this job".to_owned())),
        LedgerError::BudgetShrunk { .. } => (
            Kind::Budget,
            Some("a budget may only grow: set spec.budget.queries to the old value or more".to_owned()),
        ),
        LedgerError::StorageFull { .. } => (
            Kind::Storage,
            Some("free some space, then run the same command again".to_owned()),
        ),
        _ => (Kind::Storage, None),
    };
    Failure::new(kind, error).maybe_hint(hint)
}
