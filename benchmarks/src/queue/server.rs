//! A Redis server of our own: empty, on a free port, gone when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::cli::Persistence;

/// What Redis logs when it can be used.
const READY: &str = "Ready to accept connections";

/// A running `redis-server`.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    /// What it persists lies there.
    _folder: TempDir,
}

impl Server {
    /// Starts a server whose files lie in `place`, and waits until it can be used.
    ///
    /// # Errors
    /// When there is no `redis-server`, or it ends at once.
    pub(crate) fn start(persistence: Persistence, place: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix_in("redis-", place).context("no folder for Redis")?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        command
            .args(["--maxmemory-policy", "noeviction"])
            .args(flags(persistence));
        command.arg("--dir").arg(folder.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .context("cannot start redis-server; on Debian: apt install redis-server")?;
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        let server = Self {
            child,
            port,
            _folder: folder,
        };
        wait_until_ready(said)?;
        Ok(server)
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its version, as it tells it.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let info = self.ask("INFO server")?;
        let line = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(line.context("Redis tells no version")?.trim().to_owned())
    }

    /// Forgets everything.
    pub(crate) fn wipe(&self) -> anyhow::Result<()> {
        self.ask("FLUSHALL SYNC").map(drop)
    }

    /// Sends an inline command and returns all that comes back until the server hangs up.
    fn ask(&self, command: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("cannot reach Redis")?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with('-') {
            bail!("{command}: {answer}");
        }
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nothing is kept, or every command in an append-only file.
fn flags(persistence: Persistence) -> &'static [&'static str] {
    match persistence {
        Persistence::None => &["--appendonly", "no"],
        Persistence::Everysec => &["--appendonly", "yes", "--appendfsync", "everysec"],
        Persistence::Always => &["--appendonly", "yes", "--appendfsync", "always"],
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Reads the server's log until it says that it can be used; a thread reads on, so that it never waits for us.
fn wait_until_ready(mut said: impl BufRead + Send + 'static) -> anyhow::Result<()> {
    let mut log = String::new();
    while said.read_line(&mut log)? > 0 {
        if log.contains(READY) {
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return Ok(());
        }
    }
    bail!("redis-server ended at once:\n{log}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_before_it_is_ready_is_reported_with_its_log() {
        let error = wait_until_ready("# Fatal error\n".as_bytes()).unwrap_err().to_string();
        assert!(error.contains("Fatal error"), "{error}");
        wait_until_ready("1:M * Server initialized\n1:M * Ready to accept connections tcp\n".as_bytes()).unwrap();
    }

    #[test]
    fn a_server_starts_with_each_persistence_is_wiped_and_ends() {
        let place = tempfile::tempdir().unwrap();
        for persistence in [Persistence::None, Persistence::Everysec, Persistence::Always] {
            let server = match Server::start(persistence, place.path()) {
                Ok(server) => server,
                Err(error) if error.to_string().contains("cannot start") => {
                    println!("skipped: {error:#}");
                    return;
                }
                Err(error) => panic!("{error:#}"),
            };
            assert!(server.url().starts_with("redis://127.0.0.1:"));
            assert!(server.version().unwrap().contains('.'));
            server.ask("SET key value").unwrap();
            server.wipe().unwrap();
            assert!(server.ask("DBSIZE").unwrap().starts_with(":0"));
            assert!(server.ask("NONSENSE").is_err());
            let port = server.port;
            drop(server);
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "it is gone");
        }
    }
}
