//! Worker processes on this machine, kept alive.

use std::net::SocketAddr;

use serde_json::json;
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::args;
use stillhouse_runtime::supervise::{Child, Event, RestartPolicy, Supervisor};
use tokio::sync::mpsc;

use super::Options;
use super::shell::Shell;
use crate::failure::{Failure, Kind};
use crate::job_dir::JobDir;

pub(super) fn spawn_workers(
    options: &Options,
    dir: &JobDir,
    address: SocketAddr,
    secret: &Secret,
) -> (Supervisor, mpsc::Receiver<Event>) {
    let child = |index: u32| {
        let (program, threads, token) = (options.worker_program.clone(), options.threads, secret.to_hex());
        let make = move |_life: u32| {
            let mut command = std::process::Command::new(&program);
            command.args([
                "worker",
                "--coordinator",
                &address.to_string(),
                "--threads",
                &threads.to_string(),
                "--local-rank",
                &index.to_string(),
                // It is started again with the coordinator.
                "--once",
            ]);
            command
                .env(stillhouse_runtime::secret::TOKEN, &token)
                // That of the gateways, which the coordinator was started with.
                .env_remove(stillhouse_runtime::secret::TOKEN_FILE)
                // This process is reached without TLS on its own machine.
                .env_remove(args::TLS_CA)
                .env_remove(args::TLS_SERVER_NAME)
                // This process listens there.
                .env_remove("STILLHOUSE_METRICS_LISTEN")
                .stdout(std::process::Stdio::null());
            command
        };
        let name = format!("worker-{index}");
        let stderr_log = Some(dir.path().join(format!("{name}.log")));
        Child {
            name,
            command: Box::new(make),
            stderr_log,
        }
    };
    Supervisor::start((0..options.workers).map(child).collect(), RestartPolicy::default())
}

pub(super) fn supervised(shell: &mut Shell, event: Event) -> Result<(), Failure> {
    match event {
        Event::Started { .. } | Event::Finished { .. } => Ok(()),
        Event::Died { child, death, .. } => {
            shell.note("worker-died", json!({ "worker": child, "death": death.to_string() }));
            Ok(())
        }
        Event::GaveUp {
            child,
            death,
            reason,
            stderr_tail,
        } => {
            let last = stderr_tail.lines().last().unwrap_or("it said nothing").to_owned();
            let message = format!("worker-{child} cannot be kept alive ({reason}; {death}): {last}");
            Err(Failure::message(Kind::Workers, message).hint("see worker-*.log in the job directory"))
        }
    }
}
