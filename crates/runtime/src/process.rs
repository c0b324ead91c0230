//! Processes that are never taken for another one.
//!
//! A process id is given out again once its process is gone. The moment at which a process began is not, on one machine
//! between two starts of it, and within one space of process ids.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, geteuid};
use serde::{Deserialize, Serialize};

/// Longest name of a host, for whoever reads one from a stranger.
pub const MAX_HOST_BYTES: usize = 96;

/// A process, by what no other process ever has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Process id on its host.
    pub process: u32,
    /// When it began: clock ticks after the start of the system.
    pub started: u64,
    /// Where that means something: this start of the system, and the space of process ids.
    pub host: String,
}

/// Why there is no way to a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It runs elsewhere.
    #[error("process {process} is one of another host or container")]
    OtherHost {
        /// Its id there.
        process: u32,
    },
    /// It has ended, and another may have its id.
    #[error("process {process} has ended")]
    Gone {
        /// The id that it had.
        process: u32,
    },
    /// Somebody else started it.
    #[error("process {process} is one of another user")]
    OtherUser {
        /// Its id.
        process: u32,
    },
    /// The system refused.
    #[error("failed to reach process {process}")]
    Io {
        /// Its id.
        process: u32,
        /// What the system said.
        source: io::Error,
    },
}

impl Identity {
    /// This process.
    ///
    /// # Errors
    /// Where the system tells nothing of processes below `/proc`.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// The process of this host that has the id `process` now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(process: u32) -> io::Result<Self> {
        let (_, started) = stat(process)?;
        let host = host()?;
        Ok(Self { process, started, host })
    }

    /// Whether it runs: one that has ended and that nobody has waited for yet does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let is_here = host().is_ok_and(|host| host == self.host);
        is_here && stat(self.process).is_ok_and(|(state, started)| started == self.started && !"ZX".contains(state))
    }
}

/// A way to a process of this host and user that stays its own even when the process ends.
#[derive(Debug)]
pub struct Handle {
    identity: Identity,
    process: OwnedFd,
}

impl Handle {
    /// The way to `identity`, once it is certain that the system means the same process.
    ///
    /// # Errors
    /// When it has ended, or is no process of this host and user.
    pub fn open(identity: &Identity) -> Result<Self, ProcessError> {
        let process = identity.process;
        let failed = |source: io::Error| ProcessError::Io { process, source };
        if host().map_err(failed)? != identity.host {
            return Err(ProcessError::OtherHost { process });
        }
        let fd = open(process).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => ProcessError::Gone { process },
            _ => failed(source),
        })?;
        // What is read from now on is of the process that `fd` leads to, or of one that came after it.
        if !identity.is_alive() {
            return Err(ProcessError::Gone { process });
        }
        if owner(process).map_err(failed)? != geteuid().as_raw() {
            return Err(ProcessError::OtherUser { process });
        }
        Ok(Self {
            identity: identity.clone(),
            process: fd,
        })
    }

    /// Whose.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The program and its arguments, as the process tells them; nothing while it is just being started.
    ///
    /// # Errors
    /// When it has ended.
    pub fn command_line(&self) -> io::Result<Vec<String>> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.identity.process))?;
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    /// Sends `signal`; `false` when the process has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match send(&self.process, signal) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(target_os = "linux")]
fn open(process: u32) -> io::Result<OwnedFd> {
    let id = Pid::from_raw(process.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty())?)
}

#[cfg(target_os = "linux")]
fn send(process: &OwnedFd, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(process, signal)?)
}

/// Other systems have no such way.
#[cfg(not(target_os = "linux"))]
fn open(process: u32) -> io::Result<OwnedFd> {
    let _: Option<Pid> = Pid::from_raw(process.cast_signed());
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn send(_process: &OwnedFd, _signal: Signal) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// This start of the system, and the space of process ids that this process lives in.
fn host() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let space = fs::read_link("/proc/self/ns/pid")?;
    Ok(format!("{} {}", boot.trim(), space.display()))
}

fn owner(process: u32) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(format!("/proc/{process}"))?.uid())
}

/// State and start of a process: fields 3 and 22 of `/proc/ID/stat`, proc_pid_stat(5).
fn stat(process: u32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, field 2, may hold anything, so count from its closing bracket.
    let fields = || text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let state = fields().and_then(|mut fields| fields.next()?.chars().next());
    let started = fields().and_then(|mut fields| fields.nth(19)?.parse().ok());
    state.zip(started).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn state(process: u32) -> char {
        stat(process).unwrap().0
    }

    #[test]
    fn a_process_is_stopped_continued_and_killed_by_its_identity() {
        let mut child = sleeper();
        let identity = Identity::of(child.id()).unwrap();
        let handle = Handle::open(&identity).unwrap();
        assert!(handle.signal(Signal::STOP).unwrap());
        while state(child.id()) != 'T' {
            std::thread::yield_now();
        }
        assert!(identity.is_alive(), "a stopped process has not ended");
        assert!(handle.signal(Signal::CONT).unwrap() && handle.signal(Signal::KILL).unwrap());
        while identity.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!handle.signal(Signal::KILL).unwrap(), "it has ended");
        assert!(matches!(Handle::open(&identity), Err(ProcessError::Gone { .. })));
    }

    #[test]
    fn a_process_that_only_has_the_id_is_not_reached() {
        let mut stranger = sleeper();
        let identity = Identity::of(stranger.id()).unwrap();
        let earlier = Identity {
            started: identity.started - 1,
            ..identity.clone()
        };
        assert!(matches!(Handle::open(&earlier), Err(ProcessError::Gone { .. })));
        let elsewhere = Identity {
            host: "another".into(),
            ..identity.clone()
        };
        assert!(!elsewhere.is_alive());
        assert!(matches!(Handle::open(&elsewhere), Err(ProcessError::OtherHost { .. })));
        let handle = Handle::open(&identity).unwrap();
        let command_line = loop {
            let told = handle.command_line().unwrap();
            if !told.is_empty() {
                break told;
            }
        };
        assert_eq!(command_line, ["sleep", "1000"]);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_process_of_another_user_is_not_reached() {
        // The first process of the system is root's, and so may be this one: then there is nobody else's to look at.
        if geteuid().is_root() {
            return;
        }
        let first = Identity::of(1).unwrap();
        assert!(matches!(Handle::open(&first), Err(ProcessError::OtherUser { .. })));
    }

    #[test]
    fn the_name_of_a_host_is_within_its_bound() {
        let own = Identity::own().unwrap();
        assert!(!own.host.is_empty() && own.host.len() <= MAX_HOST_BYTES, "{}", own.host);
        assert_eq!(own, Identity::own().unwrap());
    }
}
