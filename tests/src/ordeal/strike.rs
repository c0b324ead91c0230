//! Blows on the stage, and what ends them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::blow::{Blow, Line, Victim};
use super::stage::Stage;
use crate::proxy::{Cut, Which};
use crate::teacher::set_fault;

/// A teacher that did not answer is told again after so long.
const AGAIN: Duration = Duration::from_millis(200);

/// What ends a blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relief {
    /// A program lives again.
    Start(Victim),
    /// A stopped program goes on.
    Continue(Victim),
    /// A line that was stalled moves.
    Move(Line),
    /// A line takes connections.
    Open(Line),
    /// The teacher is sound.
    Sound,
    /// The disk has room.
    Room,
}

impl Stage {
    /// Lets `blow` fall now.
    pub(super) fn strike(&mut self, blow: &Blow, now: Instant) -> anyhow::Result<()> {
        match *blow {
            Blow::Kill(victim, dead) => {
                if victim == Victim::Redis {
                    self.keep_a_copy()?;
                }
                self.kill(victim);
                self.later(now + dead, Relief::Start(victim));
            }
            Blow::Stop(victim, time) => {
                self.program(victim).pause();
                self.later(now + time, Relief::Continue(victim));
            }
            Blow::Flush => {
                self.keep_a_copy()?;
                // One that is dead or stopped loses its content another time.
                if let Err(error) = self.redis.flush() {
                    tracing::debug!(%error, "Redis was not flushed");
                }
            }
            Blow::Wipe(dead) => {
                self.kill(Victim::Redis);
                self.redis.forget()?;
                self.later(now + dead, Relief::Start(Victim::Redis));
            }
            Blow::RollBack(dead) => {
                self.kill(Victim::Redis);
                self.roll_back()?;
                self.later(now + dead, Relief::Start(Victim::Redis));
            }
            Blow::Cut(line, which, cut) => drop(self.line(line).cut(which, cut)),
            Blow::Stall(line, time) => {
                self.line(line).stall();
                self.later(now + time, Relief::Move(line));
            }
            Blow::Refuse(line, time) => {
                self.line(line).shut();
                self.line(line).cut(Which::All, Cut::Now);
                self.later(now + time, Relief::Open(line));
            }
            Blow::Misbehave(ref fault, time) => {
                // One that is dead or stopped is spared.
                self.misbehave(fault);
                self.later(now + time, Relief::Sound);
            }
            Blow::FillDisk(percent, time) => {
                self.disk_limit = Some(self.ledger_bytes() * percent / 100);
                self.limit_disk();
                self.later(now + time, Relief::Room);
            }
        }
        Ok(())
    }

    /// Ends the blows whose time is over.
    pub(super) fn relieve(&mut self, now: Instant) -> anyhow::Result<()> {
        let reliefs = std::mem::take(&mut self.reliefs);
        let (due, waiting): (Vec<_>, Vec<_>) = reliefs.into_iter().partition(|(when, _)| *when <= now);
        self.reliefs = waiting;
        due.into_iter().try_for_each(|(_, relief)| self.give(relief))
    }

    /// Ends every blow.
    pub(super) fn relieve_all(&mut self) -> anyhow::Result<()> {
        let reliefs = std::mem::take(&mut self.reliefs);
        reliefs.into_iter().try_for_each(|(_, relief)| self.give(relief))
    }

    fn give(&mut self, relief: Relief) -> anyhow::Result<()> {
        match relief {
            Relief::Start(victim) => self.start(victim)?,
            Relief::Continue(victim) => self.program(victim).resume(),
            Relief::Move(line) => self.line(line).resume(),
            // That of a dead teacher opens when it lives again.
            Relief::Open(Line::Teacher) if self.teacher.id().is_none() => {}
            Relief::Open(line) => self.line(line).open()?,
            // One that is stopped hears of it when it goes on.
            Relief::Sound if !self.misbehave("none") => self.later(Instant::now() + AGAIN, Relief::Sound),
            Relief::Sound => {}
            Relief::Room => {
                self.disk_limit = None;
                self.limit_disk();
            }
        }
        Ok(())
    }

    /// Whether the teacher, which may be dead or stopped, took a fault.
    fn misbehave(&self, fault: &str) -> bool {
        let taken = set_fault(self.teacher_address, fault);
        taken
            .inspect_err(|error| tracing::debug!(%error, fault, "the teacher did not answer"))
            .is_ok()
    }

    /// Where an older copy of Redis's files is.
    fn copy(&self) -> PathBuf {
        self.folder.join("redis/older")
    }

    fn keep_a_copy(&self) -> anyhow::Result<()> {
        Ok(self.redis.copy_files(&self.copy())?)
    }

    /// Puts the older copy in place of the files, which become the older copy in turn.
    fn roll_back(&self) -> anyhow::Result<()> {
        let newer = self.folder.join("redis/newer");
        self.redis.copy_files(&newer)?;
        if self.copy().exists() {
            self.redis.restore_files(&self.copy())?;
            std::fs::remove_dir_all(self.copy())?;
        }
        std::fs::rename(newer, self.copy())?;
        Ok(())
    }

    /// Size of the ledger's file; 0 before there is one.
    fn ledger_bytes(&self) -> u64 {
        let metadata = std::fs::metadata(stillhouse_ledger::file(&self.dir()));
        metadata.map_or(0, |metadata| metadata.len())
    }

    /// Gives the coordinator the limit of the moment. Its workers keep theirs.
    pub(super) fn limit_disk(&self) {
        let limit = Rlimit {
            current: self.disk_limit,
            maximum: getrlimit(Resource::Fsize).maximum,
        };
        if let Some(id) = self.coordinator.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself a moment ago.
            let _ = prlimit(Some(id), Resource::Fsize, limit);
        }
    }
}
