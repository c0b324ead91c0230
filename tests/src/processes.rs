//! Programs as child processes: started, watched, waited for, killed with all they started.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::jobs::{CLASSES, SHAPE, root};

/// Longest wait for anything: far above what the slowest machine needs.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a thing is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until `look` finds something.
///
/// # Panics
/// When it does not within three minutes.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A program that `make build` makes: in `STILLHOUSE_BIN_DIR`, or `target/release` of this repository.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("STILLHOUSE_BIN_DIR").map_or_else(|| root().join("target/release"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "there is no {}: run make build first", path.display());
    path
}

/// A program of the system, if it is installed.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.into_iter().find(|program| program.is_file())
}

/// `stillhouse run JOB --dir DIR --workers N`, without progress bars.
#[must_use]
pub fn run_job(job: &Path, dir: &Path, workers: u32) -> Command {
    let mut command = stillhouse();
    command.arg("run").arg(job).arg("--dir").arg(dir);
    command.args(["--quiet", "--workers", &workers.to_string()]);
    command
}

/// `stillhouse`, with the settings of the environment taken away.
#[must_use]
pub fn stillhouse() -> Command {
    let mut command = Command::new(program("stillhouse"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STILLHOUSE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running program. Dropping it kills it and all it started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts `command`; what it prints is kept for later.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().map(keep);
        let stderr = child.stderr.take().map(keep);
        Self { child, stdout, stderr }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Lets it live until `moment` comes or it ends by itself; whether it still lives.
    pub fn lives_until(&mut self, mut moment: impl FnMut() -> bool) -> bool {
        wait_for("a moment in the life of a program", || {
            if self.has_ended() {
                return Some(false);
            }
            moment().then_some(true)
        })
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within three minutes; it is killed then.
    #[must_use]
    pub fn wait(mut self) -> Finished {
        let status = wait_for("the end of a program", || self.child.try_wait().expect("our own child"));
        Finished {
            status,
            stdout: said(self.stdout.take()),
            stderr: said(self.stderr.take()),
        }
    }

    /// SIGKILL to it and to every process it started, whatever group they are in.
    ///
    /// # Panics
    /// When the system does not say how it ended.
    pub fn kill_everything(&mut self) {
        let family = family(self.id());
        family.iter().for_each(|id| kill(*id));
        self.child.wait().expect("our own child");
        wait_for("the end of every child", || {
            family.iter().all(|id| !is_alive(*id)).then_some(())
        });
    }

    /// SIGKILL to it alone; returns the processes it had started.
    ///
    /// # Panics
    /// When the system does not say how it ended.
    pub fn kill_alone(&mut self) -> Vec<u32> {
        let children = family(self.id()).split_off(1);
        kill(self.id());
        self.child.wait().expect("our own child");
        children
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill_everything();
        }
    }
}

/// Reads a pipe to its end, so that the program never waits for us.
fn keep(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said all it will say.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn said(reader: Option<JoinHandle<String>>) -> String {
    reader
        .map(|reader| reader.join().expect("reading does not panic"))
        .unwrap_or_default()
}

/// SIGKILL to one process, if it is still there.
pub fn kill(id: u32) {
    send(id, Signal::KILL);
}

/// SIGINT to one process, as Ctrl-C sends it.
pub fn interrupt(id: u32) {
    send(id, Signal::INT);
}

fn send(id: u32, signal: Signal) {
    if let Some(id) = Pid::from_raw(id.cast_signed()) {
        // It may have ended by itself a moment ago.
        let _ = kill_process(id, signal);
    }
}

/// Whether a process is stopped by a signal.
#[must_use]
pub fn is_stopped(id: u32) -> bool {
    stat(id).is_some_and(|(_, state)| state == 'T')
}

/// Whether a process runs: a dead one that nobody has waited for yet does not.
#[must_use]
pub fn is_alive(id: u32) -> bool {
    stat(id).is_some_and(|(_, state)| !matches!(state, 'Z' | 'X'))
}

/// Parent and state of a process.
fn stat(id: u32) -> Option<(u32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, so count from its closing bracket.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// `id` and its descendants, parents first.
fn family(id: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: HashMap<u32, u32> = ids.filter_map(|id| Some((id, stat(id)?.0))).collect();
    let (mut known, mut family) = (HashSet::from([id]), vec![id]);
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        let children = parents.iter().filter(|(_, of)| **of == parent).map(|(child, _)| *child);
        family.extend(children.filter(|child| known.insert(*child)));
    }
    family
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: String,
    /// What it logged and complained of.
    pub stderr: String,
}

/// What a program said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The `error:` line.
    pub error: String,
    /// The `hint:` line.
    pub hint: Option<String>,
}

impl Finished {
    /// Checks that it succeeded.
    ///
    /// # Panics
    /// When it did not, with what it said.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert!(
            self.status.success(),
            "{}\n{}\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Checks that it ended with `code` and one `error:` line, followed by nothing but a `hint:`.
    ///
    /// # Panics
    /// When it ended otherwise, with what it said.
    #[must_use]
    pub fn refused(&self, code: i32) -> Complaint {
        let said = format!("{:?} {:?}\n{}", self.status, self.status.signal(), self.stderr);
        assert_eq!(self.status.code(), Some(code), "{said}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let begin = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        assert_eq!(begin("error:"), 1, "{said}");
        assert!(!self.stderr.contains("panicked at"), "{said}");
        let at = lines
            .iter()
            .position(|line| line.starts_with("error:"))
            .expect("counted above");
        let hint = match &lines[at + 1..] {
            [] => None,
            [hint] if hint.starts_with("hint: ") => Some((*hint).to_owned()),
            more => panic!("after the error: {more:?}"),
        };
        Complaint {
            error: lines[at].to_owned(),
            hint,
        }
    }
}

/// The test teacher as a process of its own, on a port that survives it.
#[derive(Debug)]
pub struct TeacherProcess {
    program: PathBuf,
    bill: PathBuf,
    address: SocketAddr,
    life: Option<Child>,
}

impl TeacherProcess {
    /// Starts `program` (`test-teacher`) with its bill at `bill`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(program: &Path, bill: &Path) -> Self {
        let mut teacher = Self {
            program: program.to_owned(),
            bill: bill.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            life: None,
        };
        teacher.revive("none");
        teacher
    }

    /// Its base address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts it again where it was, with `fault` as the program takes it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn revive(&mut self, fault: &str) {
        self.kill();
        let shape = format!("{}x{}x{}", SHAPE.channels, SHAPE.height, SHAPE.width);
        let mut command = Command::new(&self.program);
        command.args(["--listen", &self.address.to_string(), "--shape", &shape]);
        command.args(["--classes", &CLASSES.to_string(), "--fault", fault]);
        command
            .arg("--bill")
            .arg(&self.bill)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a readable pipe");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|address| address.parse().ok());
        self.address = address.unwrap_or_else(|| panic!("the teacher said {line:?}"));
        self.life = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.life.take() {
            // A teacher that is dead already is just as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The lines of its bill.
    ///
    /// # Panics
    /// When the bill cannot be read.
    #[must_use]
    pub fn billed(&self) -> Vec<String> {
        stillhouse_teacher::BillFile::read(&self.bill).expect("a readable bill")
    }
}

impl Drop for TeacherProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
