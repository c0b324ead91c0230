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

/// The worker processes of this machine.
pub(super) struct Family {
    supervisor: Supervisor,
    events: mpsc::Receiver<Event>,
    /// Process id of each one's life.
    processes: Vec<Option<u32>>,
}

impl Family {
    /// Starts as many as `options` say, for the coordinator at `address`.
    pub(super) fn start(options: &Options, dir: &JobDir, address: SocketAddr, secret: &Secret) -> Self {
        let children: Vec<Child> = (0..options.workers)
            .map(|index| child(options, dir, (address, secret), index))
            .collect();
        let processes = vec![None; children.len()];
        let (supervisor, events) = Supervisor::start(children, RestartPolicy::default());
        Self {
            supervisor,
            events,
            processes,
        }
    }

    /// Waits for something to happen to one of them; for ever without any. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// What a death means for the job.
    pub(super) fn take(&mut self, shell: &mut Shell, event: Event) -> Result<(), Failure> {
        match event {
            Event::Started { child, pid, .. } => {
                self.processes[child] = Some(pid);
                Ok(())
            }
            Event::Finished { .. } => Ok(()),
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

    /// Forgives the deaths of whoever of them finished some work: what kills it is not the work.
    pub(super) fn forgive(&self, useful: impl IntoIterator<Item = u32>) {
        for process in useful {
            if let Some(child) = self.processes.iter().position(|id| *id == Some(process)) {
                self.supervisor.made_progress(child);
            }
        }
    }

    /// Ends all of them.
    pub(super) async fn shutdown(self) {
        drop(self.events);
        self.supervisor.shutdown().await;
    }
}

fn child(options: &Options, dir: &JobDir, (address, secret): (SocketAddr, &Secret), index: u32) -> Child {
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
}
