//! What a child says on standard error: to a file or the log, and its end kept for the report.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::ChildStderr,
    task::JoinHandle,
    time::timeout,
};

/// Longest line taken in one piece; the rest of a longer one counts as a new line.
const MAX_LINE_BYTES: u64 = 8 << 10;
/// What is kept for the report: enough for a panic with its backtrace.
const TAIL_LINES: usize = 40;
/// How long the last words of a dead child may take to arrive. A grandchild may hold the pipe open
/// for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Follows one child's standard error.
pub(super) struct Stderr {
    task: Option<JoinHandle<()>>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Stderr {
    pub(super) fn follow(child: &str, pipe: Option<ChildStderr>, log: Option<PathBuf>) -> Stderr {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let task = pipe.map(|pipe| {
            let (child, tail) = (child.to_owned(), Arc::clone(&tail));
            tokio::spawn(async move {
                if let Err(error) = copy(&child, pipe, log, &tail).await {
                    tracing::warn!(child, %error, "lost the standard error of a child");
                }
            })
        });
        Stderr { task, tail }
    }

    /// Returns the last lines, once the child has died.
    pub(super) async fn tail(self) -> String {
        if let Some(mut task) = self.task
            && timeout(LAST_WORDS, &mut task).await.is_err()
        {
            task.abort();
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

async fn copy(child: &str, pipe: ChildStderr, log: Option<PathBuf>, tail: &Mutex<VecDeque<String>>) -> io::Result<()> {
    let mut log = open(child, log).await;
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut pipe).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        match &mut log {
            Some(file) => append(child, file, &line).await,
            None => tracing::info!(child, "{text}"),
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// Opens the log file; a child without one is better than no child.
async fn open(child: &str, path: Option<PathBuf>) -> Option<File> {
    let path = path?;
    match OpenOptions::new().create(true).append(true).open(&path).await {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!(child, path = %path.display(), %error, "failed to open a log file");
            None
        }
    }
}

/// Appends a line. A pipe that nobody reads would stop the child, so a full disk loses lines only.
async fn append(child: &str, file: &mut File, line: &[u8]) {
    let appended = async {
        file.write_all(line).await?;
        file.flush().await
    };
    if let Err(error) = appended.await {
        tracing::debug!(child, %error, "lost a line of a log file");
    }
}
