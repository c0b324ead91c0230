//! Gateways as processes of their own, and a queue that vanishes: the same job as in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, run_job, wait_for};
use stillhouse_tests::redis::{Persistence, RedisServer, program};

use crate::world::{World, alone, gateway, skipped, undisturbed};

/// The secret of the jobs here.
const TOKEN: &str = "5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed";

/// A job whose only gateways are processes, two of them.
pub(crate) struct Cluster {
    pub(crate) world: World,
    redis: RedisServer,
    gateways: Vec<Mortal>,
    desk: SocketAddr,
    job: JobSpec,
}

impl Cluster {
    /// Of three rounds; `None` when there is no Redis on this machine.
    fn new() -> Option<Self> {
        Self::of(jobs::three_rounds)
    }

    /// Of the job for a teacher at some URL; `None` when there is no Redis on this machine.
    pub(crate) fn of(job: impl FnOnce(&str) -> JobSpec) -> Option<Self> {
        let Some(redis) = program() else {
            skipped("redis-server is not installed");
            return None;
        };
        let world = World::new();
        let redis = RedisServer::start(&redis, &world.path().join("redis"), Persistence::Nothing).unwrap();
        let desk = free_address();
        let mut job = job(&world.url());
        job.spec.queue = Some(jobs::queue_at(redis.address()));
        let gateway = |number: u32| {
            Mortal::new(
                gateway(desk, TOKEN),
                &world.path().join(format!("gateway-{number}.log")),
            )
        };
        let mut gateways: Vec<Mortal> = (0..2).map(gateway).collect();
        // Before there is a coordinator: the order does not matter.
        gateways.iter_mut().for_each(Mortal::start);
        Some(Self {
            world,
            redis,
            gateways,
            desk,
            job,
        })
    }

    pub(crate) fn start(&self) -> (Running, Outcome) {
        let dir = self.world.path().join("job");
        let file = jobs::write(self.world.path(), &self.job);
        (Running::start(self.coordinator(&file, &dir)), Outcome::of(&dir))
    }

    fn coordinator(&self, file: &Path, dir: &Path) -> Command {
        let mut command = run_job(file, dir, 2);
        command.args(["--no-gateway", "--listen", &self.desk.to_string()]);
        command.env("STILLHOUSE_TOKEN", TOKEN);
        command
    }
}

#[test]
fn gateways_of_other_processes_buy_the_same_labels_for_the_same_students() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::new() else { return };
    let (running, outcome) = cluster.start();
    let _ = running.wait().succeeded();
    outcome.settle(&cluster.world.bill());
    assert_eq!(outcome.essence(), undisturbed().essence);
    assert_eq!(outcome.events_called("gateway-joined"), 2);
    for gateway in &mut cluster.gateways {
        let status = wait_for("a gateway to end with the job", || gateway.ended());
        assert!(status.success(), "{status}");
    }
}

#[test]
fn a_queue_that_is_wiped_again_and_again_or_restarted_empty_costs_no_query() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::new() else { return };
    // Slow enough that the queue is never empty while it is wiped.
    cluster.job.spec.teacher.rate_per_second = Some(150.0);
    cluster.job.spec.teacher.batch = Some(4);
    let (mut running, outcome) = cluster.start();
    for wiped in 0..3 {
        let billed = cluster.world.bill().len();
        assert!(
            running.lives_until(|| cluster.world.bill().len() > billed + 10),
            "it ended before it was wiped {wiped} times"
        );
        cluster.redis.flush().unwrap();
    }
    assert!(running.lives_until(|| outcome.has_event("asked", "active-001")));
    cluster.redis.kill();
    cluster.redis.forget().unwrap();
    cluster.redis.revive();
    let _ = running.wait().succeeded();
    outcome.settle(&cluster.world.bill());
    assert_eq!(outcome.count("/budget/held"), 0);
    assert_eq!(outcome.essence(), undisturbed().essence);
}

#[test]
fn a_gateway_without_the_token_is_refused_and_the_job_goes_on() {
    let _alone = alone();
    let Some(cluster) = Cluster::new() else { return };
    let (running, outcome) = cluster.start();
    let stranger = gateway(cluster.desk, &TOKEN.replace('5', "6"));
    let refused = Running::start(stranger).wait();
    let complaint = refused.refused(2);
    assert!(
        complaint.error.contains("cannot reach the coordinator"),
        "{complaint:?}"
    );
    let _ = running.wait().succeeded();
    outcome.settle(&cluster.world.bill());
}

#[test]
fn a_queue_that_does_not_answer_is_an_error_before_anything_is_asked() {
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    job.spec.queue = Some(serde_json::from_str("{\"url\": \"redis://127.0.0.1:1/0\"}").unwrap());
    let (running, _) = world.start(&job, "job", 1);
    let complaint = running.wait().refused(2);
    assert!(complaint.error.contains("queue"), "{complaint:?}");
    assert!(world.bill().is_empty());
}
