//! Whatever was stopped goes on: when its time is over, when whoever stopped it gives up or is interrupted (a guard), and when
//! they are killed (a process that outlives them, and reads from them until their end).

use std::collections::HashSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use stillhouse_runtime::process::{Handle, Identity};
use tokio::time::Instant;

use crate::failure::{Failure, Kind};

/// The hidden command that [`Undo`] runs.
pub const COMMAND: &str = "chaos-undo";

/// A process that is stopped. Dropping this makes it go on.
#[derive(Debug)]
pub struct Stopped {
    handle: Handle,
    /// When its time is over.
    pub until: Instant,
}

impl Stopped {
    /// Stops the process that `handle` leads to, once `undo` knows of it; `None` when it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(handle: Handle, until: Instant, undo: &mut Undo) -> Result<Option<Self>, Failure> {
        undo.remember(handle.identity())?;
        // From here on it goes on, whatever happens.
        let stopped = Self { handle, until };
        let is_there = stopped.handle.signal(Signal::STOP);
        let is_there =
            is_there.map_err(|error| Failure::new(Kind::Internal, error).context("cannot stop a process"))?;
        Ok(is_there.then_some(stopped))
    }

    /// The process.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.handle.identity()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = self.handle.signal(Signal::CONT) {
            let process = self.handle.identity().process;
            tracing::warn!(process, %error, "a process that was stopped cannot be continued");
        }
    }
}

/// A process that makes everything go on that was stopped, once this one has ended in whatever way. A process that runs
/// already does not mind.
#[derive(Debug)]
pub struct Undo {
    child: Child,
}

impl Undo {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started; then nothing may be stopped.
    pub fn start() -> Result<Self, Failure> {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::null());
            // Ctrl-C at the terminal is not for it.
            command.process_group(0).spawn()
        };
        let child = start().map_err(|error| {
            Failure::new(Kind::Internal, error).context("cannot start the process that continues what is stopped")
        })?;
        Ok(Self { child })
    }

    /// Tells it of a process before that is stopped.
    fn remember(&mut self, identity: &Identity) -> Result<(), Failure> {
        let line = serde_json::to_string(identity).expect("plain data");
        let mut pipe = self.child.stdin.as_ref().expect("piped at the start");
        writeln!(pipe, "{line}").map_err(|error| {
            Failure::new(Kind::Internal, error).context("the process that continues what is stopped is gone")
        })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The end of its input is its sign.
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "cannot wait for the process that continues what was stopped");
        }
    }
}

/// What the hidden command does: reads identities, a line each, until the end of `input`, then makes all of them go on.
///
/// # Errors
/// When the input cannot be read to its end; what was read goes on all the same.
pub fn undo(input: impl BufRead) -> Result<(), Failure> {
    let mut known: HashSet<Identity> = HashSet::new();
    let mut broken = None;
    for line in input.lines() {
        match line {
            Ok(line) => known.extend(serde_json::from_str::<Identity>(&line)),
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    // One that has ended, or is another by now, is left alone.
    for handle in known.iter().filter_map(|identity| Handle::open(identity).ok()) {
        if let Err(error) = handle.signal(Signal::CONT) {
            let process = handle.identity().process;
            tracing::warn!(process, %error, "a process that was stopped cannot be continued");
        }
    }
    broken.map_or(Ok(()), |error| Err(Failure::new(Kind::Internal, error)))
}
