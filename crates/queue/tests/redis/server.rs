//! A server of a test's own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::{Client, Cmd, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use stillhouse_queue::{QueueError, RedisConfig, RedisQueue};
use tempfile::TempDir;

/// Names another server program than the one that is installed.
const PROGRAM: &str = "STILLHOUSE_REDIS_SERVER";
/// Somebody else may take a free port before the server does.
const ATTEMPTS: usize = 10;

/// A running server with a port and a folder of its own; ends with the value.
pub(crate) struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    folder: TempDir,
    child: Child,
}

/// Where a program is, if it is installed.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found.into_iter().find(|path| path.is_file())
}

/// Says that a test could not run; a failure where every test must.
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
    assert!(
        std::env::var_os("STILLHOUSE_EXPECT_ALL").is_none_or(|value| value != "1"),
        "skipped: {reason}"
    );
}

impl Server {
    /// A server without persistence; `None`, and a line about it, where there is no program.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// A server with more arguments. `FOLDER` in them stands for its folder.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        let program = std::env::var_os(PROGRAM).map(PathBuf::from);
        let Some(program) = program.or_else(|| installed("redis-server")) else {
            skipped("redis-server is not installed");
            return None;
        };
        Some(Self::start_program(&program, tempfile::tempdir().unwrap(), arguments))
    }

    /// A server of this kind in this folder.
    pub(crate) fn start_program(program: &Path, folder: TempDir, arguments: &[&str]) -> Self {
        let place = folder.path().to_str().unwrap();
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| argument.replace("FOLDER", place))
            .collect();
        for _ in 0..ATTEMPTS {
            let port = free_port();
            if let Some(child) = launch(program, folder.path(), port, &arguments) {
                return Self {
                    program: program.to_owned(),
                    arguments,
                    port,
                    folder,
                    child,
                };
            }
        }
        panic!("{} does not start", program.display());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A queue on this server.
    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("redis://127.0.0.1:{}", self.port), "test")
    }

    pub(crate) async fn dispatcher(&self) -> RedisQueue {
        RedisQueue::open_as_dispatcher(self.config(), 1).await.unwrap()
    }

    pub(crate) async fn consumer(&self) -> RedisQueue {
        RedisQueue::open(self.config()).await.unwrap()
    }

    /// The answer to a command of a stranger.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[impl AsRef<[u8]>]) -> T {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Deletes all its files.
    pub(crate) fn wipe(&self) {
        for entry in std::fs::read_dir(self.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// Starts it where it was, after [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        let started = launch(&self.program, self.folder.path(), self.port, &self.arguments);
        self.child = started.expect("its port is free still");
    }

    /// `SIGSTOP` or `SIGCONT`.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a server and waits until it says that it is ready; `None` when it ends instead.
fn launch(program: &Path, folder: &Path, port: u16, arguments: &[String]) -> Option<Child> {
    let mut command = Command::new(program);
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
        .arg(folder);
    command.args(["--save", "", "--daemonize", "no"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    if lines.any(|line| line.contains("Ready to accept connections")) {
        // It must not stop because nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        return Some(child);
    }
    let _ = child.kill();
    child.wait().unwrap();
    None
}

/// What `call` answers once the server can be reached.
pub(crate) async fn reached<T>(mut call: impl AsyncFnMut() -> Result<T, QueueError>) -> Result<T, QueueError> {
    loop {
        match call().await {
            Err(QueueError::Unavailable { .. }) => {}
            answer => return answer,
        }
    }
}
