//! The job as a child: started again when it dies, as whoever runs jobs for good would do it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use stillhouse_runtime::exit_code;
use stillhouse_runtime::process::{Handle, Identity};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::failure::{Failure, Kind};

/// Between a death and the next life.
const PAUSE: Duration = Duration::from_millis(200);
/// Lives in a row in which the job came no further, after which it is not started again.
const BARREN: u32 = 10;
/// How long a job that is asked to end may take: what is sent is settled first.
const GRACE: Duration = Duration::from_secs(60);
/// Where the job prints, in its directory.
pub const LOG: &str = "chaos/coordinator.log";

/// What has become of it since the last look.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It lives, or will soon.
    None,
    /// It died, and is started again.
    Died,
    /// It is done.
    Finished,
}

/// How often it lived and died.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lives {
    /// Starts.
    pub started: u32,
    /// Deaths by a blow.
    pub killed: u32,
    /// Ends of its own before the job was done, in words.
    pub gave_up: Vec<String>,
}

/// `stillhouse run` as a child.
#[derive(Debug)]
pub struct Life {
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<(Child, Identity)>,
    /// When the next life begins.
    due: Instant,
    /// Whether a blow ended this life.
    is_killed: bool,
    barren: u32,
    /// How far the job was at the last death.
    reached: u64,
    /// How often it lived and died.
    pub lives: Lives,
}

impl Life {
    /// What `stillhouse ARGUMENTS` starts in the job directory `dir`. It does not live yet.
    #[must_use]
    pub fn new(arguments: Vec<OsString>, dir: &Path) -> Self {
        Self {
            arguments,
            log: dir.join(LOG),
            child: None,
            due: Instant::now(),
            is_killed: false,
            barren: 0,
            reached: 0,
            lives: Lives::default(),
        }
    }

    /// Its process, while it lives.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.child.as_ref().map(|(_, identity)| identity)
    }

    /// Says that a blow has ended its life.
    pub fn was_killed(&mut self) {
        self.is_killed = true;
    }

    /// Looks after it. `reached` is a number that grows as the job comes further.
    ///
    /// # Errors
    /// When it cannot be started, when starting it again is of no use, or when it came no further for too long.
    pub fn look(&mut self, reached: impl FnOnce() -> Result<u64, Failure>) -> Result<News, Failure> {
        let Some((child, _)) = &mut self.child else {
            if Instant::now() >= self.due {
                self.start()?;
            }
            return Ok(News::None);
        };
        let status = child.try_wait().map_err(|error| Failure::new(Kind::Internal, error))?;
        let Some(status) = status else { return Ok(News::None) };
        self.child = None;
        if status.success() {
            return Ok(News::Finished);
        }
        self.mourn(status, reached()?)?;
        Ok(News::Died)
    }

    fn mourn(&mut self, status: ExitStatus, reached: u64) -> Result<(), Failure> {
        match std::mem::take(&mut self.is_killed) {
            true => self.lives.killed += 1,
            false => self.lives.gave_up.push(status.to_string()),
        }
        if let Some(code) = status.code().filter(|code| exit_code::is_permanent(*code)) {
            let message = format!("the job ended with {status}, and would again");
            return Err(Failure::message(Kind::of_exit_code(code), message).hint(self.hint()));
        }
        self.barren = if reached > self.reached { 0 } else { self.barren + 1 };
        self.reached = reached;
        if self.barren >= BARREN {
            let message = format!("the job came no further in {BARREN} lives; the last ended with {status}");
            let hint = format!(
                "a longer --mtbf lets it come further between two blows; {}",
                self.hint()
            );
            return Err(Failure::message(Kind::Workers, message).hint(hint));
        }
        self.due = Instant::now() + PAUSE;
        Ok(())
    }

    fn hint(&self) -> String {
        format!("see {}", self.log.display())
    }

    fn start(&mut self) -> Result<(), Failure> {
        let start = || -> std::io::Result<(Child, Identity)> {
            let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null());
            // Ctrl-C at the terminal is for whoever looks after it, who lets it drain.
            command.stderr(log).process_group(0).kill_on_drop(true);
            let child = command.spawn()?;
            let id = child.id().expect("nobody has waited for it yet");
            Ok((child, Identity::of(id)?))
        };
        let started = start().map_err(|error| Failure::new(Kind::Internal, error).context("cannot start the job"))?;
        self.child = Some(started);
        self.lives.started += 1;
        Ok(())
    }

    /// Asks it to end, and kills it when it does not.
    pub async fn end(&mut self) {
        let Some((mut child, identity)) = self.child.take() else {
            return;
        };
        let asked = Handle::open(&identity).map(|handle| handle.signal(Signal::TERM));
        if let Err(error) = asked {
            tracing::debug!(%error, "the job has ended already");
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            tracing::warn!("the job did not end in {} s and is killed", GRACE.as_secs());
            // Dropping it kills it.
        }
    }
}
