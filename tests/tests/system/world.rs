//! What several tests share.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs::{self, CLASSES, SHAPE};
use stillhouse_tests::outcomes::{Essence, Outcome};
use stillhouse_tests::processes::{Running, program, run_job, stillhouse};
use stillhouse_tests::teacher::TestTeacher;
use tempfile::TempDir;

/// The program of the test teacher.
pub(crate) const TEACHER: &str = env!("CARGO_BIN_EXE_test-teacher");

/// Tests that keep every core busy run one after another.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder with a teacher and its bill.
pub(crate) struct World {
    // Stops before its folder goes.
    pub(crate) teacher: TestTeacher,
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let teacher = TestTeacher::start(SHAPE, CLASSES, Some(&folder.path().join("bill"))).unwrap();
        Self { teacher, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        self.teacher.url()
    }

    pub(crate) fn bill(&self) -> Vec<String> {
        self.teacher.billed().unwrap()
    }

    /// Starts `job` in the directory `name`.
    pub(crate) fn start(&self, job: &JobSpec, name: &str, workers: u32) -> (Running, Outcome) {
        let dir = self.path().join(name);
        let file = jobs::write(self.path(), job);
        (Running::start(run_job(&file, &dir, workers)), Outcome::of(&dir))
    }

    /// Runs `job` in the directory `name` to its end.
    pub(crate) fn finish(&self, job: &JobSpec, name: &str, workers: u32) -> Outcome {
        let (running, outcome) = self.start(job, name, workers);
        let _ = running.wait().succeeded();
        outcome
    }

    /// Starts `job` in the directory `name` on two workers, and kills all of it, at each of `moments`.
    pub(crate) fn kill_at(&self, moments: &[(&str, &str)], job: &JobSpec, name: &str) {
        for (event, student) in moments {
            let (mut running, outcome) = self.start(job, name, 2);
            assert!(
                running.lives_until(|| outcome.has_event(event, student)),
                "it ended before {event} {student}"
            );
            running.kill_everything();
        }
    }
}

/// Moments of [`jobs::three_rounds`] at which it is training, scanning, training the control, scanning again.
pub(crate) const MOMENTS: [(&str, &str); 4] = [
    ("asked", "active-000"),
    ("trained", "active-000"),
    ("asked", "control-001"),
    ("trained", "active-001"),
];

/// [`jobs::three_rounds`] as two workers do it when nobody disturbs them.
pub(crate) struct Undisturbed {
    /// Keeps the folder.
    _world: World,
    pub(crate) outcome: Outcome,
    pub(crate) essence: Essence,
    pub(crate) took: Duration,
}

/// That run, made once. Call [`alone`] first.
pub(crate) fn undisturbed() -> &'static Undisturbed {
    static UNDISTURBED: OnceLock<Undisturbed> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let world = World::new();
        let begun = Instant::now();
        let outcome = world.finish(&jobs::three_rounds(&world.url()), "undisturbed", 2);
        let took = begun.elapsed();
        outcome.settle(&world.bill());
        Undisturbed {
            essence: outcome.essence(),
            outcome,
            took,
            _world: world,
        }
    })
}

/// A worker of the coordinator at an address.
pub(crate) fn worker(coordinator: SocketAddr, token: &str) -> Command {
    let mut command = Command::new(program("stillhouse-worker"));
    command.args(["worker", "--threads", "1", "--coordinator", &coordinator.to_string()]);
    command
        .env("STILLHOUSE_TOKEN", token)
        .env_remove("STILLHOUSE_TOKEN_FILE");
    command
}

/// A gateway of the coordinator at an address.
pub(crate) fn gateway(coordinator: SocketAddr, token: &str) -> Command {
    let mut command = stillhouse();
    command.args(["gateway", "--coordinator", &coordinator.to_string()]);
    command.env("STILLHOUSE_TOKEN", token);
    command
}

/// A coordinator of the job in `file` that listens at an address.
pub(crate) fn coordinator(file: &Path, dir: &Path, listen: SocketAddr, token: &str) -> Command {
    let mut command = stillhouse();
    command.arg("coordinator").arg(file).arg("--dir").arg(dir);
    command.args(["--quiet", "--listen", &listen.to_string()]);
    command.env("STILLHOUSE_TOKEN", token);
    command
}

/// Says that a test could not run; a failure where every test must.
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
    assert!(
        std::env::var_os("STILLHOUSE_EXPECT_ALL").is_none_or(|value| value != "1"),
        "skipped: {reason}"
    );
}
