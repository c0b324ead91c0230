//! Programs that die often: killed, stopped and started again, with a log that outlives them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Running, wait_for};

/// Before the program takes the shell's place: a write beyond a limit of file sizes fails as on a
/// full disk instead of killing it, it dies with whoever started it, and it appends to its log.
const SCRIPT: &str = r#"trap "" XFSZ; log=$1; shift; exec setpriv --pdeathsig KILL "$@" >>"$log" 2>&1"#;

/// A program with many lives. Dropping it ends the last one.
#[derive(Debug)]
pub struct Mortal {
    command: Command,
    log: PathBuf,
    life: Option<Running>,
}

impl Mortal {
    /// What `command` starts, with everything that it says in `log`. It does not live yet.
    #[must_use]
    pub fn new(command: Command, log: &Path) -> Self {
        Self {
            command,
            log: log.to_owned(),
            life: None,
        }
    }

    /// What it said in all its lives.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it, unless it lives.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self) {
        if self.life.is_none() {
            self.life = Some(Running::start(under_shell(&self.command, &self.log)));
        }
    }

    /// Its process, while it lives.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.life.as_ref().map(Running::id)
    }

    /// SIGKILL to it and to all that it started; whether it lived.
    pub fn kill(&mut self) -> bool {
        match self.life.take() {
            Some(mut life) => {
                life.kill_everything();
                true
            }
            None => false,
        }
    }

    /// SIGSTOP to it alone.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGTERM to it alone, and then how it ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        wait_for("a program to end as it was told", || self.ended())
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself a moment ago.
            let _ = kill_process(id, signal);
        }
    }

    /// How it ended by itself, once.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if !self.life.as_mut()?.has_ended() {
            return None;
        }
        self.life.take().map(|life| life.wait().status)
    }
}

/// `command` behind [`SCRIPT`], with the same environment.
fn under_shell(command: &Command, log: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "sh"]).arg(log);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;
    use crate::processes::is_alive;

    fn sleeper(log: &Path) -> Mortal {
        let mut command = Command::new("sh");
        command.env("WORD", "born").args(["-c", "echo $WORD; sleep 1000"]);
        Mortal::new(command, log)
    }

    fn said(mortal: &Mortal) -> String {
        std::fs::read_to_string(mortal.log()).unwrap_or_default()
    }

    #[test]
    fn it_lives_again_and_its_log_tells_of_every_life() {
        let folder = tempfile::tempdir().unwrap();
        let mut mortal = sleeper(&folder.path().join("log"));
        for lives in 1..=3 {
            mortal.start();
            mortal.start();
            wait_for("its word", || (said(&mortal) == "born\n".repeat(lives)).then_some(()));
            assert!(mortal.ended().is_none());
            assert!(mortal.kill());
            assert!(!mortal.kill());
        }
    }

    #[test]
    fn it_can_be_stopped_and_says_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.05; exit 7"]);
        let mut mortal = Mortal::new(command, &folder.path().join("log"));
        mortal.start();
        mortal.pause();
        let id = mortal.id().unwrap();
        assert!(is_alive(id) && mortal.ended().is_none());
        mortal.resume();
        let status = wait_for("its end", || mortal.ended());
        assert_eq!((status.code(), mortal.id()), (Some(7), None));
    }

    #[test]
    fn it_dies_with_whoever_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo born; exec sleep 1000"]);
        let mut shell = under_shell(&command, &log);
        // A thread counts as whoever started it.
        let starting = std::thread::spawn(move || {
            let child = shell.stdin(Stdio::null()).spawn().unwrap();
            wait_for("its word", || {
                (std::fs::read_to_string(&log).ok()? == "born\n").then_some(())
            });
            child
        });
        let mut child = starting.join().unwrap();
        let status = wait_for("its end", || child.try_wait().unwrap());
        assert_eq!(status.signal(), Some(9));
    }
}
