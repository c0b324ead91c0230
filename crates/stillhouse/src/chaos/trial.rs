//! Blow after blow, until the job ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use stillhouse_ledger::{Counts, Sight, Witness};
use stillhouse_runtime::process::{Handle, Identity};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cost::Fallen;
use super::life::{Life, Lives, News};
use super::log::Log;
use super::order::{self, Order, OrderError};
use super::quarry;
use super::schedule::{Blow, Planned, Schedule, Victim};
use super::undo::{Stopped, Undo};
use crate::coordinate::results;
use crate::coordinate::shell::unix_ms;
use crate::failure::{Failure, Kind};
use crate::report::summary::State;
use crate::watch::client::coordinator_of;

/// Where a job keeps what is of its trial, in its directory.
pub const FOLDER: &str = "chaos";
/// How often the job is looked at, and somebody to hit is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a coordinator that somebody else keeps may take to be there again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for a coordinator to do something to a link.
const ORDER: Duration = Duration::from_secs(5);

/// A trial to be made.
#[derive(Debug)]
pub struct Options {
    /// The job directory.
    pub dir: PathBuf,
    /// Which blows fall when.
    pub schedule: Schedule,
    /// For how long; until the job ends without it.
    pub time: Option<Duration>,
    /// What runs the job, when this trial is to: arguments of `stillhouse`.
    pub arguments: Option<Vec<OsString>>,
}

/// What came of a trial whose job has ended.
#[derive(Debug)]
pub struct Outcome {
    /// The blows, in order.
    pub fallen: Vec<Fallen>,
    /// How often the job was started, when the trial did it.
    pub lives: Option<Lives>,
    /// What the job said of itself.
    pub log: Log,
    /// What the ledger showed.
    pub seen: Seen,
    /// From the beginning of the trial to the end of the job.
    pub took: Duration,
    /// Why the job did not finish.
    pub obstacle: Option<Failure>,
}

/// What the ledger showed at the beginning, whenever a coordinator was dead, and at the end.
#[derive(Debug)]
pub struct Seen {
    witness: Witness,
    /// Labels at the beginning.
    pub before: u64,
    /// The last look; none when there was no ledger.
    pub last: Option<(Counts, u64)>,
    /// Labels that were there once and then not, or others.
    pub lost: u64,
    /// Queries beyond the budget, at most.
    pub beyond: u64,
    /// Whatever else was wrong.
    pub findings: Vec<String>,
}

impl Seen {
    /// Looks at the job in `dir` for the first time.
    fn first(dir: &Path) -> Result<Self, Failure> {
        let mut seen = Self {
            witness: Witness::new(dir, &dir.join(FOLDER)),
            before: 0,
            last: None,
            lost: 0,
            beyond: 0,
            findings: Vec::new(),
        };
        seen.look()?;
        seen.before = seen.last.map_or(0, |(_, labels)| labels);
        Ok(seen)
    }

    /// Looks again.
    fn look(&mut self) -> Result<(), Failure> {
        let looked = self
            .witness
            .look()
            .map_err(|error| Failure::new(Kind::Storage, error).context("cannot copy the ledger to look into it"))?;
        match looked {
            Ok(sight) => self.take(sight),
            // None yet, or a process died while it made the file.
            Err(_) if self.last.is_none() => {}
            Err(error) => self
                .findings
                .push(format!("the ledger cannot be read any more: {error}")),
        }
        Ok(())
    }

    fn take(&mut self, sight: Sight) {
        let Sight {
            counts,
            labels,
            lost,
            findings,
        } = sight;
        self.lost += lost;
        self.beyond = self.beyond.max(counts.billed().saturating_sub(counts.budget));
        self.findings.extend(findings);
        self.last = Some((counts, labels));
    }
}

/// Who keeps the job running.
enum Keeper {
    /// This trial.
    Us(Box<Life>),
    /// Somebody else.
    Others {
        /// The coordinator that was there last.
        coordinator: Identity,
        /// Since when it is not.
        away: Option<Instant>,
    },
}

struct Trial {
    dir: PathBuf,
    keeper: Keeper,
    begun: Instant,
    until: Option<Instant>,
    schedule: Schedule,
    /// The next blow, and when it is due at the earliest; none once no more fall.
    next: Option<(Instant, Planned)>,
    fallen: Vec<Fallen>,
    /// Before [`Undo`]: what is stopped goes on before that is let go.
    stopped: Vec<Stopped>,
    undo: Undo,
    log: Log,
    seen: Seen,
}

/// Disturbs a job until it ends, or `shutdown` is cancelled. Whatever is stopped then goes on, and a job that the trial runs
/// drains.
///
/// # Errors
/// When the trial cannot be made, or is interrupted. A job that does not finish is an [`Outcome`].
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<Outcome, Failure> {
    let mut trial = Trial::begin(options)?;
    let obstacle = loop {
        match trial.turn().await {
            Ok(false) => {}
            Ok(true) => break None,
            Err(failure) => break Some(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => break Some(interrupted(trial.fallen.len())),
        }
    };
    trial.end(obstacle).await
}

fn interrupted(blows: usize) -> Failure {
    let message = format!("interrupted after {blows} blows; whatever was stopped goes on");
    Failure::message(Kind::Interrupted, message).hint("the job can go on, too: stillhouse run on its directory")
}

impl Trial {
    fn begin(options: Options) -> Result<Self, Failure> {
        let Options {
            dir,
            mut schedule,
            time,
            arguments,
        } = options;
        let folder = dir.join(FOLDER);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot make {}", folder.display())))?;
        let keeper = match arguments {
            Some(arguments) => Keeper::Us(Box::new(Life::new(arguments, &dir))),
            None => Keeper::Others {
                coordinator: find(&dir)?,
                away: None,
            },
        };
        let begun = Instant::now();
        Ok(Self {
            keeper,
            begun,
            until: time.map(|time| begun + time),
            next: schedule.next().map(|planned| (begun + planned.after, planned)),
            schedule,
            fallen: Vec::new(),
            stopped: Vec::new(),
            undo: Undo::start()?,
            log: Log::of(&dir),
            seen: Seen::first(&dir)?,
            dir,
        })
    }

    /// Looks after everything once; `true` when the job is finished.
    async fn turn(&mut self) -> Result<bool, Failure> {
        let now = Instant::now();
        self.stopped.retain(|stopped| stopped.until > now);
        if self.watch()? {
            return Ok(true);
        }
        if self.until.is_some_and(|until| now > until) {
            self.next = None;
        }
        if let Some((_, planned)) = self.next.filter(|(due, _)| *due <= now) {
            self.strike(planned).await?;
        }
        Ok(false)
    }

    /// Sees to the job; `true` when it is finished.
    fn watch(&mut self) -> Result<bool, Failure> {
        match &mut self.keeper {
            Keeper::Us(life) => {
                let reached = || {
                    self.seen.look()?;
                    follow(&mut self.log)?;
                    Ok(self.log.progress() + self.seen.last.map_or(0, |(_, labels)| labels))
                };
                Ok(life.look(reached)? == News::Finished)
            }
            Keeper::Others { coordinator, away } => {
                if coordinator.is_alive() {
                    return Ok(false);
                }
                if over(&self.dir)? {
                    return Ok(true);
                }
                if let Some(next) = quarry::coordinator_of(&self.dir) {
                    (*coordinator, *away) = (next, None);
                    return self.seen.look().map(|()| false);
                }
                let since = *away.get_or_insert_with(Instant::now);
                match since.elapsed() > PATIENCE {
                    false => Ok(false),
                    true => Err(nobody_restarts()),
                }
            }
        }
    }

    async fn strike(&mut self, planned: Planned) -> Result<(), Failure> {
        let (now, unix_ms) = (Instant::now(), unix_ms());
        // Nobody to hit: the blow waits.
        let Some((name, process)) = self.hit(planned).await? else {
            return Ok(());
        };
        let what = planned.blow.words(&name);
        tracing::info!(blow = self.fallen.len(), "{what}");
        self.fallen.push(Fallen {
            at: now - self.begun,
            unix_ms,
            blow: planned.blow,
            name,
            process,
        });
        self.next = self.schedule.next().map(|planned| (now + planned.after, planned));
        Ok(())
    }

    /// Lets a blow fall; on whom it did, if there was anybody.
    async fn hit(&mut self, planned: Planned) -> Result<Option<(String, Option<u32>)>, Failure> {
        let Planned { blow, pick, .. } = planned;
        match blow {
            Blow::Kill(victim) => {
                let Some((name, handle)) = self.find(victim, pick, &[])? else {
                    return Ok(None);
                };
                let is_hit = handle.signal(Signal::KILL);
                let is_hit = is_hit.map_err(|error| Failure::new(Kind::Internal, error).context("cannot kill"))?;
                if let (true, Victim::Coordinator, Keeper::Us(life)) = (is_hit, victim, &mut self.keeper) {
                    life.was_killed();
                }
                Ok(is_hit.then(|| (name, Some(handle.identity().process))))
            }
            Blow::Stop(victim, time) => {
                // One that is stopped already would go on too early.
                let stopped: Vec<Identity> = self.stopped.iter().map(|stopped| stopped.identity().clone()).collect();
                let Some((name, handle)) = self.find(victim, pick, &stopped)? else {
                    return Ok(None);
                };
                let process = handle.identity().process;
                let stopped = Stopped::stop(handle, Instant::now() + time, &mut self.undo)?;
                let is_hit = stopped.is_some();
                self.stopped.extend(stopped);
                Ok(is_hit.then_some((name, Some(process))))
            }
            Blow::Cut => self.order(Order::Cut { pick }).await,
            Blow::Slow { pause, time } => {
                let [pause_ms, time_ms] = [pause, time].map(|time| time.as_millis() as u64);
                let order = Order::Slow {
                    pick,
                    pause_ms,
                    time_ms,
                };
                self.order(order).await
            }
        }
    }

    /// A way to one of the processes that may be hit, and are none of `spared`.
    fn find(&mut self, victim: Victim, pick: u64, spared: &[Identity]) -> Result<Option<(String, Handle)>, Failure> {
        let coordinator = match &self.keeper {
            Keeper::Us(life) => life.identity().cloned(),
            Keeper::Others { coordinator, .. } => Some(coordinator.clone()),
        };
        let Some(coordinator) = coordinator else {
            return Ok(None);
        };
        match victim {
            Victim::Coordinator if spared.contains(&coordinator) => Ok(None),
            Victim::Coordinator => {
                let handle = quarry::coordinator(&coordinator)?;
                Ok(handle.map(|handle| ("coordinator".to_owned(), handle)))
            }
            Victim::Worker => {
                follow(&mut self.log)?;
                let mut crew = quarry::crew(self.log.events(), &coordinator);
                crew.retain(|_, identity| !spared.contains(identity));
                let Some(at) = pick.checked_rem(crew.len() as u64) else {
                    return Ok(None);
                };
                let (number, identity) = crew.iter().nth(at as usize).expect("below their number");
                let handle = quarry::worker(identity)?;
                Ok(handle.map(|handle| (format!("worker {number}"), handle)))
            }
        }
    }

    /// Has the coordinator do something to a link, unless it is away. Nobody stays stopped for longer because of that.
    async fn order(&self, order: Order) -> Result<Option<(String, Option<u32>)>, Failure> {
        let Some(target) = coordinator_of(&self.dir) else {
            return Ok(None);
        };
        let patience = self.stopped.iter().map(|stopped| stopped.until);
        let patience = patience
            .min()
            .map_or(Instant::now() + ORDER, |until| until.min(Instant::now() + ORDER));
        match tokio::time::timeout_at(patience, order::give(&target, order)).await {
            Ok(Ok(of)) => Ok(of.map(|of| (of, None))),
            Err(_) | Ok(Err(OrderError::Away)) => Ok(None),
            Ok(Err(refused)) => Err(refused.into()),
        }
    }

    /// Lets everything go on, and takes the last look.
    async fn end(mut self, obstacle: Option<Failure>) -> Result<Outcome, Failure> {
        let took = self.begun.elapsed();
        self.stopped.clear();
        let lives = match &mut self.keeper {
            Keeper::Us(life) => {
                life.end().await;
                Some(life.lives.clone())
            }
            Keeper::Others { .. } => None,
        };
        let obstacle = match obstacle {
            Some(failure) if failure.kind() == Kind::Interrupted => return Err(failure),
            other => other,
        };
        follow(&mut self.log)?;
        self.seen.look()?;
        // The copy that was looked at; it is of no use to anybody.
        let _gone = std::fs::remove_dir_all(self.dir.join(FOLDER).join("ledger"));
        Ok(Outcome {
            fallen: self.fallen,
            lives,
            log: self.log,
            seen: self.seen,
            took,
            obstacle,
        })
    }
}

/// The coordinator that runs the job in `dir` now, on this host and for this user.
fn find(dir: &Path) -> Result<Identity, Failure> {
    let nobody = || {
        Failure::message(
            Kind::Directory,
            format!("no coordinator runs the job in {} on this machine", dir.display()),
        )
        .hint("start it first, or name its job file: stillhouse chaos job.yaml runs it, and starts it again")
    };
    let identity = quarry::coordinator_of(dir).ok_or_else(nobody)?;
    quarry::coordinator(&identity)?.ok_or_else(nobody)?;
    Ok(identity)
}

/// Whether the job in `dir`, whose coordinator is gone, is finished.
fn over(dir: &Path) -> Result<bool, Failure> {
    match results::read_summary(dir).map(|summary| summary.state) {
        Ok(State::Finished) => Ok(true),
        Ok(State::Stopped { reason }) => Err(Failure::message(Kind::Workers, format!("the job stopped: {reason}"))),
        Ok(State::Running | State::Paused { .. }) | Err(_) => Ok(false),
    }
}

fn nobody_restarts() -> Failure {
    let message = format!(
        "the coordinator is gone, and nobody started it again in {} s",
        PATIENCE.as_secs()
    );
    Failure::message(Kind::Workers, message)
        .hint("stillhouse chaos job.yaml runs the job itself, and starts its coordinator again")
}

fn follow(log: &mut Log) -> Result<(), Failure> {
    log.follow()
        .map_err(|error| Failure::new(Kind::Storage, error).context("cannot read the event log"))
}
