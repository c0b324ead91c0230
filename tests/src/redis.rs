//! A Redis server as a process, with data that can be lost in every way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::mortal::Mortal;
use crate::ports::free_address;
use crate::processes::{on_path, wait_for};

/// The server answers at once or is not up.
const ANSWER: Duration = Duration::from_secs(2);

/// How much of what it was told a server still knows after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    Nothing,
    /// What was there when it last wrote a snapshot, every second if something changed.
    Snapshots,
    /// Everything, by an append-only file that is written to disk every second.
    EverySecond,
    /// Everything, by an append-only file that is on disk before the answer.
    Always,
}

impl Persistence {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Snapshots, Self::EverySecond, Self::Always];

    fn settings(self) -> [&'static str; 6] {
        let (save, appendonly, fsync) = match self {
            Self::Nothing => ("", "no", "no"),
            Self::Snapshots => ("1 1", "no", "no"),
            Self::EverySecond => ("", "yes", "everysec"),
            Self::Always => ("", "yes", "always"),
        };
        ["--save", save, "--appendonly", appendonly, "--appendfsync", fsync]
    }
}

/// `redis-server`, if it is installed.
#[must_use]
pub fn program() -> Option<PathBuf> {
    on_path("redis-server")
}

/// A server on a port that it keeps over its lives. Stops when dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Mortal,
    address: SocketAddr,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts `program` with its data and log in the folder `home`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(program: &Path, home: &Path, persistence: Persistence) -> io::Result<Self> {
        let (address, folder) = (free_address(), home.join("data"));
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.arg("--dir").arg(&folder).args(persistence.settings());
        let mut server = Self {
            process: Mortal::new(command, &home.join("log")),
            address,
            folder,
        };
        server.revive();
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, to be stopped.
    #[must_use]
    pub fn process(&self) -> &Mortal {
        &self.process
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it, unless it lives, and waits until it has read its data.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn revive(&mut self) {
        if self.process.id().is_none() {
            self.process.start();
            wait_for("Redis to answer", || {
                if let Some(status) = self.process.ended() {
                    panic!("Redis ended: {status}, see {}", self.process.log().display());
                }
                (self.say("PING").ok()? == "+PONG").then_some(())
            });
        }
    }

    /// Deletes every key.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn flush(&self) -> io::Result<()> {
        match self.say("FLUSHALL")?.as_str() {
            "+OK" => Ok(()),
            other => Err(io::Error::other(other.to_owned())),
        }
    }

    /// Deletes its files. Kill it before.
    ///
    /// # Errors
    /// When they cannot be deleted.
    pub fn forget(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.folder)?;
        std::fs::create_dir(&self.folder)
    }

    /// Copies its files, as they are at this moment, into the folder `copy`, which is replaced.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub fn copy_files(&self, copy: &Path) -> io::Result<()> {
        replace(&self.folder, copy)
    }

    /// Puts copied files in the place of its own. Kill it before.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub fn restore_files(&self, copy: &Path) -> io::Result<()> {
        replace(copy, &self.folder)
    }

    /// One inline command and the first line of its answer.
    fn say(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = vec![];
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// Replaces the folder `to` with a copy of `from`. A file that vanishes meanwhile is left out.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    copy(from, to)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let copied = match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target),
            false => std::fs::copy(entry.path(), target).map(drop),
        };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(home: &Path, persistence: Persistence) -> Option<RedisServer> {
        let Some(program) = program() else {
            println!("skipped: redis-server is not installed");
            return None;
        };
        Some(RedisServer::start(&program, home, persistence).unwrap())
    }

    fn keys(server: &RedisServer) -> String {
        server.say("DBSIZE").unwrap()
    }

    #[test]
    fn a_kill_costs_what_the_persistence_says() {
        for (persistence, left) in [(Persistence::Nothing, ":0"), (Persistence::Always, ":1")] {
            let home = tempfile::tempdir().unwrap();
            let Some(mut server) = start(home.path(), persistence) else {
                return;
            };
            assert_eq!(server.say("SET a 1").unwrap(), "+OK");
            server.kill();
            assert!(server.say("PING").is_err());
            server.revive();
            assert_eq!(keys(&server), left, "{persistence:?}");
        }
    }

    #[test]
    fn data_is_flushed_forgotten_and_rolled_back() {
        let home = tempfile::tempdir().unwrap();
        let Some(mut server) = start(home.path(), Persistence::EverySecond) else {
            return;
        };
        let older = home.path().join("older");
        assert_eq!(server.say("SET a 1").unwrap(), "+OK");
        server.copy_files(&older).unwrap();
        assert_eq!(server.say("SET b 1").unwrap(), "+OK");
        server.kill();
        server.restore_files(&older).unwrap();
        server.revive();
        assert_eq!(keys(&server), ":1");
        server.flush().unwrap();
        assert_eq!(keys(&server), ":0");
        server.kill();
        server.restore_files(&older).unwrap();
        server.revive();
        assert_eq!(keys(&server), ":1");
        server.kill();
        server.forget().unwrap();
        server.revive();
        assert_eq!(keys(&server), ":0");
    }
}
