//! What a job says of itself: its event log, read as it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Events after which a job has come further for good.
const STEPS: [&str; 6] = ["selected", "asked", "generated", "trained", "compared", "finished"];
/// Longest part of the log that is read at a time.
const READ_BYTES: u64 = 16 << 20;

/// One line of the log, as far as blows and their cost go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// When.
    pub unix_ms: u64,
    /// What.
    pub event: String,
    /// Which worker.
    pub worker: Option<u64>,
    /// Which gateway.
    pub gateway: Option<String>,
    /// Its process id.
    pub process: Option<u32>,
    /// When that process began, where it is one of the coordinator's host.
    pub started: Option<u64>,
}

impl Event {
    /// Whether the job has come further for good.
    #[must_use]
    pub fn is_step(&self) -> bool {
        STEPS.contains(&self.event.as_str())
    }
}

/// The event log of a job directory.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    read: u64,
    events: Vec<Event>,
}

impl Log {
    /// The log of the job in `dir`, which need not be there yet.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self {
            path: dir.join("events.jsonl"),
            read: 0,
            events: Vec::new(),
        }
    }

    /// Reads what was written since; a line that is being written is left for the next time.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn follow(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.take(READ_BYTES).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        // A disk that was full may have left half a line.
        self.events
            .extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
        Ok(())
    }

    /// Everything that was read.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// A number that grows whenever the job has come further for good, or is known to have trained for a while.
    #[must_use]
    pub fn progress(&self) -> u64 {
        let counts = |event: &&Event| event.is_step() || event.event == "checkpoint";
        self.events.iter().filter(counts).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_is_followed_line_by_line() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let mut log = Log::of(folder.path());
        log.follow().expect("none yet");
        assert!(log.events().is_empty());
        let mut file = File::create(folder.path().join("events.jsonl")).expect("writable");
        let mut say = |text: &str| file.write_all(text.as_bytes()).expect("writable");
        say("{\"event\":\"started\",\"unixMs\":5,\"process\":7}\n{\"event\":\"trai");
        log.follow().expect("readable");
        assert_eq!(log.events().len(), 1);
        say("ned\",\"unixMs\":9,\"student\":\"active-000\"}\nnonsense\n");
        log.follow().expect("readable");
        let events = log.events();
        assert_eq!(
            (events.len(), events[1].event.as_str(), events[1].unix_ms),
            (2, "trained", 9)
        );
        assert_eq!(log.progress(), 1);
    }
}
