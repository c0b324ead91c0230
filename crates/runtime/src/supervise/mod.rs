//! Keeps child processes alive, and ends them with their parent.
//!
//! Each child has a task of its own that spawns it, waits for it, and asks the [`policy`] what its
//! death means. A child leads its own process group, so that a Ctrl-C at the terminal reaches the
//! parent alone, which drains in order. It dies when the parent dies, even by SIGKILL (on Linux).

pub mod policy;
mod spawn;
mod stderr;

use std::{
    fmt, io,
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::Arc,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::policy::RestartPolicy;
use self::{
    policy::{Decision, History},
    stderr::Stderr,
};

/// Events that may wait for the owner; children's deaths are rare, and a full queue only delays
/// the restart of the child that it concerns.
const QUEUED_EVENTS: usize = 64;

/// Makes the command of a child's next life; the argument counts them from 0.
pub type CommandFactory = Box<dyn FnMut(u32) -> Command + Send>;

/// A process to keep alive.
pub struct Child {
    /// What events and log lines call it, such as `worker-3`.
    pub name: String,
    /// Makes its command. Standard input is closed and standard error is taken over; standard
    /// output is what the command says.
    pub command: CommandFactory,
    /// File to which its standard error is appended, such as one in the job directory. Without
    /// it, standard error goes to this process's log line by line.
    pub stderr_log: Option<PathBuf>,
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("stderr_log", &self.stderr_log)
            .finish_non_exhaustive()
    }
}

/// Why a life of a child ended.
#[derive(Clone, Debug)]
pub enum Death {
    /// It exited, or a signal ended it.
    Exited(ExitStatus),
    /// It could not be started at all.
    NotStarted(Arc<io::Error>),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exited(status) => write!(f, "{status}"),
            Death::NotStarted(error) => write!(f, "not started: {error}"),
        }
    }
}

/// What happened to the child with index `child` in the list that the supervisor was given.
#[derive(Clone, Debug)]
pub enum Event {
    /// It runs.
    Started {
        /// Which child.
        child: usize,
        /// Its process.
        pid: u32,
        /// How many lives it had before.
        life: u32,
    },
    /// It died, and will be started again.
    Died {
        /// Which child.
        child: usize,
        /// How.
        death: Death,
        /// The pause before its next life.
        restart_in: std::time::Duration,
    },
    /// It exited with status 0, or because the supervisor asked it to. It is left in peace.
    Finished {
        /// Which child.
        child: usize,
        /// How.
        death: Death,
    },
    /// It died too often, or in a way that starting it again does not mend.
    GaveUp {
        /// Which child.
        child: usize,
        /// How it died last.
        death: Death,
        /// Why that was the last time.
        reason: policy::Reason,
        /// The last lines of its standard error.
        stderr_tail: String,
    },
}

/// Keeps children alive until they finish, are given up, or are shut down.
///
/// Dropping it kills all of them at once.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    progress: Vec<watch::Sender<u64>>,
}

impl Supervisor {
    /// Starts `children` and a task for each.
    ///
    /// The receiver must be read, or dropped: a child whose event finds no room waits for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(children: Vec<Child>, policy: RestartPolicy) -> (Supervisor, mpsc::Receiver<Event>) {
        let (events, received) = mpsc::channel(QUEUED_EVENTS);
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor {
            tasks: JoinSet::new(),
            stop: stop.clone(),
            progress: Vec::new(),
        };
        for (index, child) in children.into_iter().enumerate() {
            let (made, progress) = watch::channel(0);
            supervisor.progress.push(made);
            let keeper = Keeper {
                index,
                child,
                policy,
                progress,
                stop: stop.clone(),
                events: events.clone(),
            };
            supervisor.tasks.spawn(keeper.run());
        }
        (supervisor, received)
    }

    /// Says that child `child` did useful work: its earlier deaths no longer count against it.
    pub fn made_progress(&self, child: usize) {
        if let Some(progress) = self.progress.get(child) {
            progress.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Asks every child to end (SIGTERM), kills those that have not after the policy's grace, and
    /// returns when all are gone.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a supervision task ended unexpectedly");
            }
        }
    }
}

/// One child's task.
struct Keeper {
    index: usize,
    child: Child,
    policy: RestartPolicy,
    progress: watch::Receiver<u64>,
    stop: CancellationToken,
    events: mpsc::Sender<Event>,
}

impl Keeper {
    async fn run(mut self) {
        let mut history = History::new(self.policy);
        for life in 0.. {
            let (death, stderr_tail) = self.live(life).await;
            let child = self.index;
            if self.stop.is_cancelled() {
                return self.report(Event::Finished { child, death }).await;
            }
            if self.progress.has_changed().unwrap_or(false) {
                self.progress.mark_unchanged();
                history.forgive();
            }
            match history.decide(Instant::now(), &death) {
                Decision::Restart { after } => {
                    self.report(Event::Died {
                        child,
                        death,
                        restart_in: after,
                    })
                    .await;
                    tokio::select! {
                        () = sleep(after) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
                Decision::Finish => return self.report(Event::Finished { child, death }).await,
                Decision::GiveUp { reason } => {
                    return self
                        .report(Event::GaveUp {
                            child,
                            death,
                            reason,
                            stderr_tail,
                        })
                        .await;
                }
            }
        }
    }

    /// One life, from start to death, with the end of what it said.
    async fn live(&mut self, life: u32) -> (Death, String) {
        let command = (self.child.command)(life);
        let mut process = match spawn::spawn(command).await {
            Ok(process) => process,
            Err(error) => return (Death::NotStarted(Arc::new(error)), String::new()),
        };
        let stderr = Stderr::follow(&self.child.name, process.stderr.take(), self.child.stderr_log.clone());
        if let Some(pid) = process.id() {
            self.report(Event::Started {
                child: self.index,
                pid,
                life,
            })
            .await;
        }
        let status = tokio::select! {
            status = process.wait() => status,
            () = self.stop.cancelled() => self.end(&mut process).await,
        };
        let death = match status {
            Ok(status) => Death::Exited(status),
            Err(error) => Death::NotStarted(Arc::new(error)),
        };
        (death, stderr.tail().await)
    }

    /// SIGTERM, and SIGKILL when the grace is over.
    async fn end(&mut self, process: &mut tokio::process::Child) -> io::Result<ExitStatus> {
        // The process is not reaped before `wait` returns, so the number is still its own.
        if let Some(pid) = process.id().and_then(|id| Pid::from_raw(id.cast_signed()))
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::warn!(child = self.child.name, %error, "failed to ask a child to end");
        }
        match timeout(self.policy.grace, process.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!(child = self.child.name, grace = ?self.policy.grace, "killing a child that did not end");
                process.start_kill()?;
                process.wait().await
            }
        }
    }

    /// Logs an event and hands it to the owner, who may have stopped listening.
    async fn report(&mut self, event: Event) {
        let name = &self.child.name;
        match &event {
            Event::Started { pid, life, .. } => tracing::debug!(child = name, pid, life, "started"),
            Event::Died { death, restart_in, .. } => tracing::warn!(child = name, %death, ?restart_in, "died"),
            Event::Finished { death, .. } => tracing::debug!(child = name, %death, "finished"),
            Event::GaveUp { death, reason, .. } => tracing::error!(child = name, %death, %reason, "gave up"),
        }
        tokio::select! {
            biased;
            _ = self.events.send(event) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
