//! Real child processes, most of them `sh`.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process, test_kill_process},
};
use stillhouse_runtime::supervise::{Child, Death, Event, RestartPolicy, Supervisor, policy::Reason};
use tokio::sync::mpsc::Receiver;

/// Restarts at once; reaching the grace means that a child ignored SIGTERM.
const POLICY: RestartPolicy = RestartPolicy {
    first_backoff: Duration::from_millis(1),
    max_backoff: Duration::from_millis(5),
    max_deaths: 3,
    window: Duration::from_secs(600),
    grace: Duration::from_secs(60),
};

fn shell(script: &str) -> Child {
    let script = script.to_owned();
    let command = move |life: u32| {
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("LIFE", life.to_string())
            .stdout(Stdio::null());
        command
    };
    Child {
        name: "shell".to_owned(),
        command: Box::new(command),
        stderr_log: None,
    }
}

fn fifo(path: &Path) -> PathBuf {
    let made = Command::new("mkfifo")
        .arg(path)
        .status()
        .expect("coreutils are installed");
    assert!(made.success());
    path.to_owned()
}

async fn next(events: &mut Receiver<Event>) -> Event {
    events
        .recv()
        .await
        .expect("the supervisor reports until its children are gone")
}

async fn started(events: &mut Receiver<Event>) -> Pid {
    match next(events).await {
        Event::Started { pid, .. } => Pid::from_raw(pid as i32).expect("a process has a number above 0"),
        other => panic!("expected a start, found {other:?}"),
    }
}

#[tokio::test]
async fn a_child_that_dies_is_started_again_until_it_finishes() {
    let (supervisor, mut events) = Supervisor::start(vec![shell("test $LIFE = 2")], POLICY);
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(match event {
            Event::Started { life, .. } => format!("started {life}"),
            Event::Died { death, .. } => format!("died {death}"),
            Event::Finished { death, .. } => format!("finished {death}"),
            Event::GaveUp { .. } => "gave up".to_owned(),
        });
    }
    assert_eq!(
        seen,
        [
            "started 0",
            "died exit status: 1",
            "started 1",
            "died exit status: 1",
            "started 2",
            "finished exit status: 0"
        ]
    );
    supervisor.shutdown().await;
}

#[tokio::test]
async fn a_child_that_dies_too_often_is_given_up_with_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("worker.log");
    let mut child = shell("echo life $LIFE >&2; echo no such device >&2; exit 1");
    child.stderr_log = Some(log.clone());
    let (_supervisor, mut events) = Supervisor::start(vec![child], POLICY);
    let last = loop {
        if let event @ Event::GaveUp { .. } = next(&mut events).await {
            break event;
        }
    };
    let Event::GaveUp {
        child: 0,
        death: Death::Exited(status),
        reason,
        stderr_tail,
    } = last
    else {
        panic!("expected the end of child 0, found {last:?}");
    };
    assert_eq!(status.code(), Some(1));
    assert_eq!(
        reason,
        Reason::TooManyDeaths {
            deaths: 3,
            window: POLICY.window
        }
    );
    assert_eq!(stderr_tail, "life 2\nno such device");
    let logged = fs::read_to_string(log).unwrap();
    assert_eq!(
        logged.lines().filter(|line| line.starts_with("life")).count(),
        3,
        "{logged}"
    );
}

#[tokio::test]
async fn progress_keeps_a_child_from_being_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let go = fifo(&directory.path().join("go"));
    // Dies only when told to, so that the progress of each life comes before its death.
    let script = format!("read word < {}; kill -9 $$", go.display());
    let (supervisor, mut events) = Supervisor::start(vec![shell(&script)], POLICY);
    for _ in 0..3 * POLICY.max_deaths {
        started(&mut events).await;
        supervisor.made_progress(0);
        let go = go.clone();
        tokio::task::spawn_blocking(move || fs::write(go, "die\n").unwrap())
            .await
            .unwrap();
        let event = next(&mut events).await;
        assert!(matches!(event, Event::Died { .. }), "{event:?}");
    }
    supervisor.shutdown().await;
}

#[tokio::test]
async fn a_permanent_failure_is_given_up_at_once() {
    let (_supervisor, mut events) = Supervisor::start(vec![shell("exit 2")], POLICY);
    started(&mut events).await;
    let event = next(&mut events).await;
    assert!(
        matches!(
            event,
            Event::GaveUp {
                reason: Reason::Permanent { code: 2 },
                ..
            }
        ),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_a_death() {
    let missing = Child {
        name: "missing".to_owned(),
        command: Box::new(|_| Command::new("/no/such/program")),
        stderr_log: None,
    };
    let (_supervisor, mut events) = Supervisor::start(vec![missing], POLICY);
    let event = next(&mut events).await;
    assert!(
        matches!(
            event,
            Event::Died {
                death: Death::NotStarted(_),
                ..
            }
        ),
        "{event:?}"
    );
}

#[tokio::test]
async fn shutdown_asks_first_and_returns_when_all_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (ready, said) = (fifo(&directory.path().join("ready")), directory.path().join("said"));
    let script = format!(
        "trap 'echo drained > {}; exit 0' TERM; echo > {}; while :; do sleep 0.01; done",
        said.display(),
        ready.display()
    );
    let (supervisor, mut events) = Supervisor::start(vec![shell(&script)], POLICY);
    let pid = started(&mut events).await;
    tokio::task::spawn_blocking(move || fs::read(ready).unwrap())
        .await
        .unwrap();
    supervisor.shutdown().await;
    assert_eq!(fs::read_to_string(said).unwrap(), "drained\n");
    assert_eq!(test_kill_process(pid), Err(Errno::SRCH));
}

#[tokio::test]
async fn a_child_that_ignores_the_request_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let ready = fifo(&directory.path().join("ready"));
    let policy = RestartPolicy {
        grace: Duration::from_millis(20),
        ..POLICY
    };
    let script = format!("trap '' TERM; echo > {}; while :; do sleep 0.01; done", ready.display());
    let (supervisor, mut events) = Supervisor::start(vec![shell(&script)], policy);
    started(&mut events).await;
    tokio::task::spawn_blocking(move || fs::read(ready).unwrap())
        .await
        .unwrap();
    supervisor.shutdown().await;
    let event = next(&mut events).await;
    let Event::Finished {
        death: Death::Exited(status),
        ..
    } = event
    else {
        panic!("expected the end of a child, found {event:?}");
    };
    assert_eq!(status.signal(), Some(9));
}

#[tokio::test]
async fn dropping_the_supervisor_kills_its_children() {
    let (supervisor, mut events) = Supervisor::start(vec![shell("trap '' TERM; while :; do sleep 0.01; done")], POLICY);
    let pid = started(&mut events).await;
    drop(supervisor);
    assert!(events.recv().await.is_none(), "a child that was dropped is reported");
    while is_running(pid) {
        tokio::task::yield_now().await;
    }
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test]
#[ignore = "runs as a process of another test"]
async fn parent_to_be_killed() {
    let Ok(outlived) = std::env::var("STILLHOUSE_TEST_OUTLIVED") else {
        return;
    };
    // Long enough to be killed in, and no longer, so that a failure is seen and leaves nothing.
    let script = format!("i=0; while test $i -lt 500; do sleep 0.01; i=$((i+1)); done; echo > {outlived}");
    let (_supervisor, mut events) = Supervisor::start(vec![shell(&script)], POLICY);
    let pid = started(&mut events).await;
    println!("\nchild {}", pid.as_raw_nonzero());
    std::future::pending::<()>().await;
}

#[test]
fn a_child_dies_with_a_parent_that_is_killed() {
    if !cfg!(target_os = "linux") {
        println!("skipped: only Linux signals the death of a parent");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let outlived = directory.path().join("outlived");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_to_be_killed", "--ignored", "--nocapture"])
        .env("STILLHOUSE_TEST_OUTLIVED", &outlived)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(parent.stdout.take().unwrap());
    let child = output
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("child ").and_then(|pid| pid.parse().ok()))
        .and_then(Pid::from_raw)
        .expect("the parent names its child");
    assert_eq!(test_kill_process(child), Ok(()));
    kill_process(Pid::from_child(&parent), Signal::KILL).unwrap();
    parent.wait().unwrap();
    while is_running(child) {
        std::thread::yield_now();
    }
    assert!(!outlived.exists(), "the child ran on without its parent");
}

/// Whether a process runs; one that is dead but not yet reaped does not.
fn is_running(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => false,
    }
}
