//! Workers on hosts of their own: network namespaces behind a bridge, whose cables can be pulled.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use stillhouse_tests::jobs;
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Running, program, stillhouse};

use crate::world::{World, alone, skipped, undisturbed};

const TOKEN: &str = "7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e7e";
const HOSTS: u8 = 3;

/// A bridge with this machine at `10.213.77.1` and one namespace for each host after it. All of it
/// goes when this is dropped.
struct Network {
    prefix: String,
}

impl Network {
    /// `None` where none can be made.
    fn new() -> Option<Self> {
        let network = Self {
            prefix: format!("sh{}", std::process::id() % 100_000),
        };
        let made = network.make();
        if !made {
            skipped("network namespaces cannot be made (they need root and iproute2)");
        }
        made.then_some(network)
    }

    fn make(&self) -> bool {
        let bridge = format!("{}b", self.prefix);
        let whole = ip(&["link", "add", &bridge, "type", "bridge"])
            && ip(&["addr", "add", &format!("{}/24", address(1)), "dev", &bridge])
            && ip(&["link", "set", &bridge, "up"]);
        whole && (0..HOSTS).all(|host| self.make_host(&bridge, host))
    }

    fn make_host(&self, bridge: &str, host: u8) -> bool {
        let (space, near, far) = (self.space(host), self.cable(host), format!("{}f{host}", self.prefix));
        let own = format!("{}/24", address(2 + host));
        ip(&["netns", "add", &space])
            && ip(&["link", "add", &near, "type", "veth", "peer", "name", &far])
            && ip(&["link", "set", &far, "netns", &space])
            && ip(&["link", "set", &near, "master", bridge, "up"])
            && ip(&["-n", &space, "addr", "add", &own, "dev", &far])
            && ip(&["-n", &space, "link", "set", &far, "up"])
            && ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    fn space(&self, host: u8) -> String {
        format!("{}n{host}", self.prefix)
    }

    /// This machine's end of a host's cable.
    fn cable(&self, host: u8) -> String {
        format!("{}c{host}", self.prefix)
    }

    /// Pulls a host's cable, or puts it back.
    fn plug(&self, host: u8, is_in: bool) {
        assert!(ip(&[
            "link",
            "set",
            &self.cable(host),
            if is_in { "up" } else { "down" }
        ]));
    }

    fn worker(&self, host: u8, coordinator: SocketAddr) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(host)])
            .arg(program("stillhouse-worker"));
        command.args(["worker", "--threads", "1", "--coordinator", &coordinator.to_string()]);
        command
            .env("STILLHOUSE_TOKEN", TOKEN)
            .env_remove("STILLHOUSE_TOKEN_FILE");
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..HOSTS {
            ip(&["link", "del", &self.cable(host)]);
            ip(&["netns", "del", &self.space(host)]);
        }
        ip(&["link", "del", &format!("{}b", self.prefix)]);
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 77, host)
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn workers_on_hosts_of_their_own_do_the_same_job_also_when_one_is_cut_off_and_comes_back() {
    let _alone = alone();
    let reference = undisturbed();
    let Some(network) = Network::new() else { return };
    let world = World::new();
    let coordinator = SocketAddr::from((address(1), 17_700));
    let log = |host: u8| world.path().join(format!("worker-{host}.log"));
    let start = |host: u8| {
        let mut worker = Mortal::new(network.worker(host, coordinator), &log(host));
        worker.start();
        worker
    };
    let mut workers: Vec<Mortal> = (0..HOSTS).map(start).collect();
    let mut job = jobs::three_rounds(&world.url());
    job.spec.workers.min = HOSTS.into();
    let file = jobs::write(world.path(), &job);
    let outcome = Outcome::of(&world.path().join("job"));
    let mut command = stillhouse();
    command.arg("coordinator").arg(file).arg("--dir").arg(outcome.file(""));
    command
        .args(["--quiet", "--listen", &coordinator.to_string()])
        .env("STILLHOUSE_TOKEN", TOKEN);
    let mut running = Running::start(command);
    assert!(running.lives_until(|| outcome.has_event("asked", "active-001")));
    network.plug(1, false);
    assert!(running.lives_until(|| outcome.events_called("worker-lost") == 1));
    network.plug(1, true);
    let _ = running.wait().succeeded();
    assert_eq!(outcome.essence(), reference.essence);
    outcome.settle(&world.bill());
    for worker in &mut workers {
        // One that comes back after the end waits for the next coordinator.
        worker.kill();
    }
}
