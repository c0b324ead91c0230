//! A coordinator and workers that are started on their own, in any order, and outlive each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use stillhouse_core::job::{Determinism, Device, JobSpec};
use stillhouse_tests::jobs;
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, stillhouse, wait_for};

use crate::world::{MOMENTS, World, alone, coordinator, undisturbed, worker};

pub(crate) const TOKEN: &str = "5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c";
const OTHER_TOKEN: &str = "6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d";

/// A job whose processes are started one by one.
struct Cluster {
    // End before the folder goes.
    workers: Vec<Mortal>,
    world: World,
    job: JobSpec,
    address: SocketAddr,
}

impl Cluster {
    fn new(workers: u32) -> Self {
        let (world, address) = (World::new(), free_address());
        let mut job = jobs::three_rounds(&world.url());
        job.spec.workers.min = workers;
        let log = |number: u32| world.path().join(format!("worker-{number}.log"));
        let workers = (0..workers)
            .map(|number| Mortal::new(worker(address, TOKEN), &log(number)))
            .collect();
        Self {
            workers,
            world,
            job,
            address,
        }
    }

    fn start(&self) -> (Running, Outcome) {
        let dir = self.world.path().join("job");
        let file = jobs::write(self.world.path(), &self.job);
        let command = coordinator(&file, &dir, self.address, TOKEN);
        (Running::start(command), Outcome::of(&dir))
    }

    /// The job ends as if nothing had happened, and lets its workers go.
    fn expect_undisturbed(&mut self, running: Running, outcome: &Outcome) {
        let _ = running.wait().succeeded();
        assert_eq!(outcome.essence(), undisturbed().essence);
        outcome.settle(&self.world.bill());
        self.expect_farewell();
    }

    /// The workers end with the job, in peace.
    fn expect_farewell(&mut self) {
        for worker in &mut self.workers {
            let status = wait_for("a worker to end with the job", || worker.ended());
            assert!(status.success(), "{status}");
        }
    }
}

#[test]
fn workers_that_were_there_first_do_the_job_of_a_coordinator_that_comes_later() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    cluster.workers.iter_mut().for_each(Mortal::start);
    let (running, outcome) = cluster.start();
    cluster.expect_undisturbed(running, &outcome);
}

#[test]
fn nothing_is_asked_before_as_many_workers_are_there_as_the_job_wants() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    let (mut running, outcome) = cluster.start();
    cluster.workers[0].start();
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 1));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(cluster.world.bill().len(), 0, "one worker is not two");
    cluster.workers[1].start();
    cluster.expect_undisturbed(running, &outcome);
}

#[test]
fn workers_outlive_their_coordinator_and_go_on_with_the_next_one() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    cluster.workers.iter_mut().for_each(Mortal::start);
    for (event, student) in MOMENTS {
        let (mut running, outcome) = cluster.start();
        assert!(
            running.lives_until(|| outcome.has_event(event, student)),
            "it ended before {event} {student}"
        );
        running.kill_everything();
        assert!(
            cluster.workers.iter_mut().all(|worker| worker.ended().is_none()),
            "a worker left"
        );
    }
    let (running, outcome) = cluster.start();
    cluster.expect_undisturbed(running, &outcome);
}

#[test]
fn a_job_goes_on_without_a_worker_that_is_stopped_and_takes_it_back_when_it_goes_on() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    cluster.workers.iter_mut().for_each(Mortal::start);
    let (mut running, outcome) = cluster.start();
    assert!(running.lives_until(|| outcome.has_event("asked", "active-001")));
    cluster.workers[0].pause();
    let is_lost = || outcome.events_called("worker-lost") == 1;
    assert!(running.lives_until(is_lost), "nobody missed a worker that was stopped");
    let is_further = || {
        let events = outcome.events();
        let mut later = events.iter().skip_while(|event| event["event"] != "worker-lost");
        later.any(|event| event["event"] == "trained" || event["event"] == "selected")
    };
    assert!(running.lives_until(is_further), "the job ended without the worker");
    cluster.workers[0].resume();
    assert!(
        running.lives_until(|| outcome.events_called("worker-joined") == 3),
        "it was not taken back"
    );
    let process = |event: &serde_json::Value| event["process"].as_u64();
    let joined = outcome.events();
    let joined: Vec<_> = joined
        .iter()
        .filter(|event| event["event"] == "worker-joined")
        .collect();
    assert!(
        joined[..2].iter().any(|event| process(event) == process(joined[2])),
        "{joined:?}"
    );
    cluster.expect_undisturbed(running, &outcome);
}

#[test]
fn a_worker_with_another_token_is_refused_with_a_sentence_and_learns_nothing() {
    let _alone = alone();
    let mut cluster = Cluster::new(1);
    let (running, outcome) = cluster.start();
    let refused = wait_for("the coordinator to listen", || {
        let output = worker(cluster.address, OTHER_TOKEN).arg("--once").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (!said.contains("refused (os error")).then_some((output.status, said))
    });
    let (status, said) = refused;
    assert_eq!(status.code(), Some(8), "{said}");
    assert!(said.contains("it does not know the job's secret"), "{said}");
    cluster.workers[0].start();
    let _ = running.wait().succeeded();
    assert_eq!(outcome.events_called("worker-joined"), 1);
    cluster.expect_farewell();
}

/// A worker whose libtorch uses the processor's basic instructions alone, which give other bits.
fn plain_worker(coordinator: SocketAddr) -> Command {
    let mut command = worker(coordinator, TOKEN);
    command.env("ATEN_CPU_CAPABILITY", "default");
    command
}

#[test]
fn a_worker_whose_bits_would_differ_is_refused_with_a_sentence_and_the_job_goes_on() {
    let _alone = alone();
    let mut cluster = Cluster::new(1);
    cluster.workers[0].start();
    let (mut running, outcome) = cluster.start();
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 1));
    let refused = plain_worker(cluster.address).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(8), "{said}");
    assert!(
        said.contains("this one on cpu DEFAULT, which gives other bits"),
        "{said}"
    );
    cluster.expect_undisturbed(running, &outcome);
    assert_eq!(outcome.events_called("worker-joined"), 1);
}

#[test]
fn workers_of_any_kind_may_join_where_bits_do_not_count() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    cluster.job.spec.training.determinism = Determinism::Fast;
    let log = cluster.workers[1].log().to_owned();
    cluster.workers[1] = Mortal::new(plain_worker(cluster.address), &log);
    cluster.workers.iter_mut().for_each(Mortal::start);
    let (running, outcome) = cluster.start();
    let _ = running.wait().succeeded();
    let events = outcome.events();
    let devices: BTreeSet<&str> = events.iter().filter_map(|event| event["device"].as_str()).collect();
    assert!(devices.contains("cpu DEFAULT"), "{devices:?}");
    cluster.expect_farewell();
}

#[test]
fn a_job_for_cards_is_refused_by_a_worker_without_one_before_anything_is_paid_for() {
    let _alone = alone();
    let mut cluster = Cluster::new(1);
    cluster.job.spec.workers.device = Device::Cuda;
    // Whatever this machine has.
    let mut blind = worker(cluster.address, TOKEN);
    blind.env("CUDA_VISIBLE_DEVICES", "");
    let log = cluster.workers[0].log().to_owned();
    cluster.workers[0] = Mortal::new(blind, &log);
    cluster.workers[0].start();
    let (running, _) = cluster.start();
    let complaint = running.wait().refused(2);
    assert!(
        complaint.error.contains("this worker finds no card"),
        "{}",
        complaint.error
    );
    assert_eq!(cluster.world.bill().len(), 0);
}

/// What `stillhouse ARGS` prints, and whether it ended well.
pub(crate) fn say(args: &[&str], token: Option<&str>) -> (bool, String) {
    let mut command = stillhouse();
    command.args(args);
    if let Some(token) = token {
        command.env("STILLHOUSE_TOKEN", token);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_job_can_be_looked_at_from_its_directory_and_from_elsewhere_by_those_who_know_the_token() {
    let _alone = alone();
    let mut cluster = Cluster::new(2);
    cluster.job.spec.training.epochs = 100;
    cluster.workers.iter_mut().for_each(Mortal::start);
    let (mut running, outcome) = cluster.start();
    let (dir, address) = (outcome.file(""), cluster.address.to_string());
    let dir = dir.to_str().unwrap();
    let shows = |words: &[&str]| {
        let (well, seen) = say(&["status", "--coordinator", &address], Some(TOKEN));
        well && words.iter().all(|word| seen.contains(word))
    };
    assert!(running.lives_until(|| shows(&["running for", "training", "steps", "rank 0", "rank 1"])));
    let (well, seen) = say(&["watch", "--coordinator", &address], Some(OTHER_TOKEN));
    assert!(!well && seen.contains("does not know the job's secret"), "{seen}");
    // To its end, over a coordinator that is killed and started again.
    let watcher = {
        let address = address.clone();
        std::thread::spawn(move || say(&["watch", "--coordinator", &address], Some(TOKEN)))
    };
    assert!(running.lives_until(|| outcome.has_event("trained", "active-002")));
    running.kill_everything();
    let (running, _) = cluster.start();
    let _ = running.wait().succeeded();
    let (well, seen) = watcher.join().unwrap();
    assert!(well && seen.contains("finished after"), "{seen}");
    assert!(seen.lines().any(|line| line.contains(" of 530 queries, ")), "{seen}");
    let (well, seen) = say(&["watch", dir], None);
    assert!(!well && seen.contains("no coordinator runs this job now"), "{seen}");
    let (well, seen) = say(&["status", dir], None);
    assert!(well && seen.contains("finished after"), "{seen}");
    assert!(!outcome.file("coordinator.json").exists());
    cluster.expect_farewell();
}
