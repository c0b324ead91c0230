//! Running a program: for what it prints, for its time, for its memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use wait4::Wait4;

/// Lines of a failed program's own account that an error repeats.
const TAIL_LINES: usize = 12;

/// What a program that ended well left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Everything on standard output.
    pub(crate) stdout: String,
    /// From before it was started to after it ended.
    pub(crate) wall: Duration,
    /// Processor time of the program and of what it started and waited for.
    pub(crate) processor: Duration,
    /// Highest resident memory, by the kernel's account of the process.
    pub(crate) peak_bytes: u64,
}

impl Ended {
    /// The last line, which our measurements print as one JSON object.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("expected a JSON object on the last line, found {line:?}"))
    }
}

/// A program that runs beside this one; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program that nobody listens to.
    pub(crate) fn silent(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self::start(command)
    }

    /// Starts a program.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = name(command);
        command
            .spawn()
            .map(Self)
            .with_context(|| format!("cannot start {name}"))
    }

    /// Its standard output, once, where it is piped.
    pub(crate) fn stdout(&mut self) -> anyhow::Result<BufReader<ChildStdout>> {
        self.0
            .stdout
            .take()
            .map(BufReader::new)
            .context("the output is not piped")
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended on its own; nothing is left to do then.
        let _killed = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bytes of memory that the kernel gives for a process under `field` of its status, such as `VmHWM`.
pub(crate) fn memory(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let found = fields
        .filter(|(name, _)| *name == field)
        .find_map(|(_, value)| value.split_whitespace().next()?.parse().ok());
    let kib: u64 = found.with_context(|| format!("expected {field} of process {process}, found none"))?;
    Ok(kib << 10)
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started or fails; then the last lines of what it said are in the message.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Ended> {
    let name = name(command);
    let begun = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut errors = child.stderr.take().expect("it is piped");
    // Both pipes are emptied at once, so that neither fills up and stalls the program.
    let reader = std::thread::spawn(move || read_lossy(&mut errors));
    let stdout = read_lossy(&mut child.stdout.take().expect("it is piped"));
    let used = child.wait4().with_context(|| format!("cannot wait for {name}"))?;
    let wall = begun.elapsed();
    let stderr = reader.join().expect("reading does not panic");
    check(&name, used.status, &stderr)?;
    Ok(Ended {
        stdout,
        wall,
        processor: used.rusage.utime + used.rusage.stime,
        peak_bytes: used.rusage.maxrss,
    })
}

/// Runs a program that takes long; what it prints goes to `log`.
///
/// # Errors
/// When it cannot be started or fails; then the last lines of the log are in the message.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> anyhow::Result<()> {
    let name = name(command);
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    check(&name, status, &read(log)?)
}

/// Reads a small text file.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let arguments = command.get_args().take(2).map(|argument| argument.to_string_lossy());
    std::iter::once(program.to_string_lossy())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_lossy(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // What could be read before a broken pipe is still worth showing.
    let _read = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check(name: &str, status: ExitStatus, said: &str) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
    bail!("{name}: {status}\n  {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_last_line_is_read_as_json_and_time_and_memory_are_known() {
        let ended = run(&mut shell("echo chatter >&2; echo first; echo '{\"a\": 2}'")).unwrap();
        let value: serde_json::Value = ended.json().unwrap();
        assert_eq!(value["a"], 2);
        assert!(
            ended.peak_bytes > 100_000,
            "a shell needs more than {} bytes",
            ended.peak_bytes
        );
        assert!(!ended.wall.is_zero());
        let error = run(&mut shell("echo nonsense"))
            .unwrap()
            .json::<serde_json::Value>()
            .unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
    }

    #[test]
    fn a_program_that_fails_says_so_in_its_own_words() {
        let error = run(&mut shell("echo broken >&2; exit 3")).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error = run_logged(&mut shell("echo broken >&2; exit 3"), &log)
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
        assert!(run(&mut Command::new("./no-such-program")).is_err());
    }

    #[test]
    fn more_memory_used_is_more_memory_reported() {
        let small = run(&mut shell("true")).unwrap().peak_bytes;
        // More than this process has, which a child is born with.
        let large = run(&mut shell("head -c 600000000 /dev/zero | tail -c 600000000 | wc -c"))
            .unwrap()
            .peak_bytes;
        assert!(large > small + 40_000_000, "{small} and {large}");
    }
}
