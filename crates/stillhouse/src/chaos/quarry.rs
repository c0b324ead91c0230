//! The processes of the job, and nobody else's.
//!
//! A process is known by its id, the moment it began and its host, as it said itself: a worker to its coordinator, which has
//! proved to know the job's token, and a coordinator in the job directory. Before it is struck, the system must tell the same
//! of it, that it is one of this user, and that it was started as what it is said to be.

use std::collections::BTreeMap;
use std::path::Path;

use stillhouse_runtime::process::{Handle, Identity, ProcessError};

use super::log::Event;
use crate::failure::{Failure, Kind};
use crate::watch::client::Whereabouts;

/// What every program of ours is called, or begins with.
const PROGRAM: &str = "stillhouse";
/// The roles of a coordinator.
const COORDINATOR: [&str; 2] = ["run", "coordinator"];
/// The role of a worker.
const WORKER: [&str; 1] = ["worker"];

/// The workers of this host that are there, by number: those that joined `coordinator` and were not lost.
#[must_use]
pub fn crew(events: &[Event], coordinator: &Identity) -> BTreeMap<u64, Identity> {
    let begin = events.iter().rposition(|event| event.event == "started").unwrap_or(0);
    let mut crew = BTreeMap::new();
    for event in &events[begin..] {
        let Some(worker) = event.worker else { continue };
        match (event.event.as_str(), event.process, event.started) {
            ("worker-joined", Some(process), Some(started)) => {
                let host = coordinator.host.clone();
                crew.insert(worker, Identity { process, started, host });
            }
            ("worker-lost", ..) => drop(crew.remove(&worker)),
            _ => {}
        }
    }
    crew
}

/// A way to the worker that `identity` names; `None` when it is not there any more.
///
/// # Errors
/// When it is no worker of this host and user.
pub fn worker(identity: &Identity) -> Result<Option<Handle>, Failure> {
    reach(identity, &WORKER)
}

/// A way to the coordinator that `identity` names; `None` when it is not there any more.
///
/// # Errors
/// When it is no coordinator of this host and user.
pub fn coordinator(identity: &Identity) -> Result<Option<Handle>, Failure> {
    reach(identity, &COORDINATOR)
}

/// The coordinator of the job in `dir`; `None` when none runs it on this host.
#[must_use]
pub fn coordinator_of(dir: &Path) -> Option<Identity> {
    let identity = Whereabouts::of(dir)?.process?;
    identity.is_alive().then_some(identity)
}

fn reach(identity: &Identity, roles: &[&str]) -> Result<Option<Handle>, Failure> {
    let handle = match Handle::open(identity) {
        Ok(handle) => handle,
        Err(ProcessError::Gone { .. }) => return Ok(None),
        Err(error) => return Err(Failure::new(Kind::Usage, error).context("it is left alone")),
    };
    let Ok(line) = handle.command_line() else {
        return Ok(None);
    };
    // One that has just begun, or ended, tells nothing.
    if line.is_empty() || plays(&line, roles) {
        return Ok((!line.is_empty()).then_some(handle));
    }
    let (process, found) = (identity.process, line.join(" "));
    let message = format!(
        "process {process} is left alone: expected {PROGRAM} as {}, found {found}",
        roles.join(" or ")
    );
    Err(Failure::message(Kind::Usage, message))
}

/// Whether a process with this command line is one of our programs in one of `roles`.
fn plays(line: &[String], roles: &[&str]) -> bool {
    let [program, role, ..] = line else { return false };
    let name = Path::new(program).file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PROGRAM)) && roles.contains(&role.as_str())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn own() -> Identity {
        Identity::own().expect("a system that tells")
    }

    fn joined(worker: u64, process: u32, started: Option<u64>) -> Event {
        Event {
            event: "worker-joined".into(),
            worker: Some(worker),
            process: Some(process),
            started,
            ..Event::default()
        }
    }

    fn called(event: &str, worker: Option<u64>) -> Event {
        Event {
            event: event.into(),
            worker,
            ..Event::default()
        }
    }

    #[test]
    fn the_crew_is_who_joined_this_coordinator_on_this_host_and_was_not_lost() {
        let events = [
            called("started", None),
            joined(0, 10, Some(1)),
            called("started", None),
            joined(0, 20, Some(2)),
            joined(1, 21, Some(3)),
            joined(2, 22, None),
            called("worker-lost", Some(0)),
        ];
        let crew = crew(&events, &own());
        let host = own().host;
        let left = Identity {
            process: 21,
            started: 3,
            host,
        };
        assert_eq!(crew, BTreeMap::from([(1, left)]));
    }

    #[test]
    fn a_stranger_is_left_alone_whether_it_has_the_id_or_was_never_one_of_ours() {
        let mut stranger = Command::new("sleep").arg("1000").spawn().expect("a program");
        let identity = Identity::of(stranger.id()).expect("alive");
        let earlier = Identity {
            started: identity.started - 1,
            ..identity.clone()
        };
        assert!(
            worker(&earlier).expect("nobody").is_none(),
            "another process has its id"
        );
        // One that has just been started does not tell its command line yet, and is nobody.
        let failure = loop {
            match worker(&identity) {
                Ok(None) => std::thread::yield_now(),
                Ok(Some(_)) => panic!("a stranger was taken for a worker"),
                Err(failure) => break failure.to_string(),
            }
        };
        assert!(
            failure.contains("expected stillhouse as worker, found sleep 1000"),
            "{failure}"
        );
        assert!(stranger.try_wait().expect("our own child").is_none(), "it was struck");
        stranger.kill().expect("our own child");
        stranger.wait().expect("our own child");
        assert!(worker(&identity).expect("nobody").is_none());
    }

    #[test]
    fn a_role_is_told_by_the_program_and_its_first_argument() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(plays(&line("/usr/bin/stillhouse-worker worker --once"), &WORKER));
        assert!(plays(&line("stillhouse run job.yaml"), &COORDINATOR));
        for other in [
            "stillhouse gateway",
            "stillhouse",
            "vi run",
            "/stillhouse/bin/vi worker",
        ] {
            assert!(
                !plays(&line(other), &COORDINATOR) && !plays(&line(other), &WORKER),
                "{other}"
            );
        }
    }
}
