//! What the library logs, line by line, instead of on standard output.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;

use crate::ffi::set_variables;

/// Where the library logs to; whoever sets it gets the log there.
const FILE: &str = "NCCL_DEBUG_FILE";
/// How much it logs.
const LEVEL: &str = "NCCL_DEBUG";
/// Longest line; what is longer comes in pieces.
const MAX_LINE: u64 = 4096;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Warn,
    /// Anything else.
    Info,
}

/// The library's log, on its way here.
#[derive(Debug)]
pub struct Log {
    from: Option<io::PipeReader>,
}

impl Log {
    /// Makes the library log to this process: warnings, unless `NCCL_DEBUG` says otherwise. Where `NCCL_DEBUG_FILE` is set it
    /// goes there, as before.
    ///
    /// The library is told by the environment, so this comes before it is used and before any thread is started.
    ///
    /// # Errors
    /// There are other threads already, or the system gives no pipe.
    pub fn divert() -> io::Result<Self> {
        if std::env::var_os(FILE).is_some() {
            return Ok(Self { from: None });
        }
        let (from, to) = io::pipe()?;
        // The library opens it by this name, and the pipe has no end while this end is open.
        let name = format!("/proc/self/fd/{}", to.as_raw_fd());
        let level = std::env::var_os(LEVEL).unwrap_or_else(|| "WARN".into());
        set_variables(&[(FILE, OsStr::new(&name)), (LEVEL, &level)])?;
        std::mem::forget(to);
        Ok(Self { from: Some(from) })
    }

    /// Gives every line to `sink`, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn read(self, sink: impl Fn(Level, &str) + Send + 'static) -> io::Result<()> {
        let Some(from) = self.from else { return Ok(()) };
        let thread = std::thread::Builder::new().name("nccl-log".to_owned());
        thread.spawn(move || read(BufReader::new(from), sink)).map(drop)
    }
}

fn read(mut from: impl BufRead, sink: impl Fn(Level, &str)) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            let level = if text.contains("NCCL WARN") {
                Level::Warn
            } else {
                Level::Info
            };
            sink(level, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn lines_come_one_by_one_with_their_level_and_long_ones_in_pieces() {
        let long = "x".repeat(5000);
        let log =
            format!("host:1:1 [0] NCCL INFO Bootstrap\n\n  \nhost:1:1 [0] a.cc:7 NCCL WARN Cuda failure 35\n{long}");
        let lines = RefCell::new(Vec::new());
        read(log.as_bytes(), |level, line| {
            lines.borrow_mut().push((level, line.to_owned()))
        });
        let lines = lines.into_inner();
        assert_eq!(lines[0], (Level::Info, "host:1:1 [0] NCCL INFO Bootstrap".to_owned()));
        assert_eq!(lines[1].0, Level::Warn);
        assert_eq!(
            lines[2..].iter().map(|(_, line)| line.len()).collect::<Vec<_>>(),
            [4096, 904]
        );
    }

    #[test]
    fn it_is_refused_once_there_are_other_threads() {
        // Tests run beside each other.
        if std::env::var_os(FILE).is_none() {
            let refused = Log::divert().expect_err("other threads").to_string();
            assert!(refused.contains("no other thread"), "{refused}");
        }
    }
}
