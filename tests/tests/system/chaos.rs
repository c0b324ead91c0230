//! `stillhouse chaos`: a job that is disturbed comes out the same, and nobody else is touched.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stillhouse_core::job::{JobSpec, OnAmbiguous};
use stillhouse_runtime::process::Identity;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Running, interrupt, is_alive, is_stopped, run_job, stillhouse, wait_for};

use crate::world::{World, alone, undisturbed};

/// A seed by which every kind of blow falls on every kind of target early.
const SEED: &str = "3";

/// A job of several seconds whose queries are never in doubt, since each is sent again under its own key.
fn job(world: &World) -> JobSpec {
    let mut job = jobs::three_rounds(&world.url());
    job.spec.budget.on_ambiguous = OnAmbiguous::IdempotencyKey(10);
    job.spec.teacher.batch = Some(1);
    job.spec.teacher.rate_per_second = Some(60.0);
    job
}

/// `stillhouse chaos JOB` with these options.
fn chaos(job: &Path, options: &[&str]) -> Command {
    let mut command = stillhouse();
    command.arg("chaos").arg(job).args(options);
    command
}

/// Starts `job` in the directory `name`, with two workers.
fn started(world: &World, name: &str, options: &[&str]) -> (Running, Outcome) {
    let dir = world.path().join(name);
    let mut command = run_job(&jobs::write(world.path(), &job(world)), &dir, 2);
    command.args(options);
    let (mut running, outcome) = (Running::start(command), Outcome::of(&dir));
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 2));
    (running, outcome)
}

/// Process ids of the workers that joined.
fn workers(outcome: &Outcome) -> Vec<u32> {
    let events = outcome.events();
    let joined = events.iter().filter(|event| event["event"] == "worker-joined");
    joined.map(|event| event["process"].as_u64().unwrap() as u32).collect()
}

#[test]
fn a_job_under_chaos_keeps_its_budget_and_its_labels_and_its_student_is_the_same() {
    let _alone = alone();
    let world = World::new();
    let file = jobs::write(world.path(), &job(&world));
    let [dir, twin, bill] = ["job", "twin", "bill"].map(|name| world.path().join(name));
    let mut command = chaos(
        &file,
        &["--mtbf", "1s", "--for", "8s", "--seed", SEED, "--yes", "--json"],
    );
    command
        .arg("--dir")
        .arg(&dir)
        .arg("--twin")
        .arg(&twin)
        .arg("--bill")
        .arg(&bill);
    command.args(["--", "--workers", "2"]);
    let finished = Running::start(command).wait().succeeded();
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    println!("{report:#}");

    let fallen = report["blows"].as_array().unwrap();
    let kinds: BTreeSet<(&str, &str)> = fallen
        .iter()
        .map(|blow| (blow["kind"].as_str().unwrap(), blow["target"].as_str().unwrap()))
        .collect();
    for wanted in [
        ("kill", "worker"),
        ("stop", "worker"),
        ("cut", "link"),
        ("slow", "link"),
        ("kill", "coordinator"),
    ] {
        assert!(kinds.contains(&wanted), "{wanted:?} is not among {kinds:?}");
    }
    let killed = fallen
        .iter()
        .filter(|blow| blow["kind"] == "kill" && blow["target"] == "coordinator");
    assert_eq!(report["lives"]["killed"], killed.clone().count());
    assert!(
        killed.clone().all(|blow| blow["noticedAfterMs"].is_u64()),
        "a coordinator was not started again"
    );

    let outcome = Outcome::of(&dir);
    outcome.settle(&world.bill());
    assert_eq!(outcome.count("/budget/ambiguous"), 0);
    assert_eq!(outcome.essence(), undisturbed().essence);
    assert_eq!((&report["holds"], &report["violations"]), (&json!(true), &json!([])));
    let queries = world.bill().len();
    assert_eq!(
        report["spent"],
        json!({ "budget": 530, "billed": queries, "inDoubt": 0, "bill": queries })
    );
    assert_eq!(report["labels"], json!({ "before": 0, "after": queries, "lost": 0 }));
    let [batches, students, queries] = ["sameBatches", "sameStudents", "queries"].map(|key| &report["twin"][key]);
    assert_eq!((batches, students, queries), (&json!(true), &json!(true), &json!(0)));
    assert_eq!(Outcome::of(&twin).essence().students, undisturbed().essence.students);
    let disturbed = outcome.events_called("disturbed");
    let links = fallen.iter().filter(|blow| blow["target"] == "link").count();
    assert!(
        disturbed >= links,
        "{disturbed} of {links} blows on links are in the event log"
    );
    assert!(
        fallen
            .iter()
            .all(|blow| blow["process"].as_u64().is_none_or(|id| !is_stopped(id as u32)))
    );
}

#[test]
fn links_of_a_job_that_was_not_started_for_it_or_whose_token_is_another_are_left_alone() {
    let _alone = alone();
    let world = World::new();
    let cut = ["--kinds", "cut", "--targets", "link", "--mtbf", "20ms", "--yes"];
    let (mut running, outcome) = started(&world, "closed", &[]);
    let complaint = Running::start(chaos(&outcome.file(""), &cut)).wait().refused(2);
    assert!(
        complaint.error.contains("it was started without --chaos"),
        "{complaint:?}"
    );
    assert!(complaint.hint.unwrap().contains("start the job with --chaos"));
    running.kill_everything();

    let (running, outcome) = started(&world, "open", &["--chaos"]);
    let other = world.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(outcome.file("coordinator.json"), other.join("coordinator.json")).unwrap();
    std::fs::write(other.join("token"), "ab".repeat(32)).unwrap();
    let complaint = Running::start(chaos(&other, &cut)).wait().refused(2);
    assert!(
        complaint.error.contains("it does not know the job's secret"),
        "{complaint:?}"
    );
    let _ = running.wait().succeeded();
    assert_eq!(outcome.events_called("disturbed"), 0);
    assert_eq!(outcome.events_called("worker-lost"), 0, "a link was cut");
}

#[test]
fn a_stranger_that_is_named_as_the_coordinator_is_not_struck() {
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let identity = Identity::of(stranger.id()).unwrap();
    let address = "127.0.0.1:1";
    let refused = |started: u64| {
        let Identity { process, host, .. } = &identity;
        let named = json!({ "address": address, "process": process, "started": started, "host": host });
        std::fs::write(folder.path().join("coordinator.json"), named.to_string()).unwrap();
        let kill = ["--kinds", "kill", "--targets", "coordinator", "--mtbf", "1ms", "--yes"];
        Running::start(chaos(folder.path(), &kill)).wait()
    };
    let another = refused(identity.started + 1).refused(6);
    assert!(another.error.contains("no coordinator runs the job in"), "{another:?}");
    let same = refused(identity.started).refused(2);
    assert!(
        same.error
            .contains("expected stillhouse as run or coordinator, found sleep"),
        "{same:?}"
    );
    assert!(is_alive(stranger.id()) && stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_stopped_worker_goes_on_when_chaos_is_interrupted_and_when_it_is_killed() {
    let _alone = alone();
    let world = World::new();
    let (mut running, outcome) = started(&world, "job", &["--chaos"]);
    let workers = workers(&outcome);
    // The first stop of this seed is a long one.
    let stop = [
        "--kinds",
        "stop",
        "--targets",
        "worker",
        "--mtbf",
        "10ms",
        "--seed",
        "0",
        "--yes",
    ];
    for is_killed in [false, true] {
        let mut chaos = Running::start(chaos(&outcome.file(""), &stop));
        assert!(
            chaos.lives_until(|| workers.iter().any(|id| is_stopped(*id))),
            "nobody was stopped"
        );
        if is_killed {
            let _undo = chaos.kill_alone();
        } else {
            interrupt(chaos.id());
            let complaint = chaos.wait().refused(130);
            assert!(
                complaint.error.contains("whatever was stopped goes on"),
                "{complaint:?}"
            );
        }
        wait_for("every worker to go on", || {
            workers.iter().all(|id| !is_stopped(*id)).then_some(())
        });
        assert!(workers.iter().all(|id| is_alive(*id)));
    }
    assert!(!running.has_ended());
    running.kill_everything();
}

#[test]
fn a_dry_run_lists_the_blows_of_a_seed_and_nobody_is_hurt_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let list = |seed: &str| {
        let options = ["--dry-run", "--for", "5m", "--mtbf", "10s", "--seed", seed];
        Running::start(chaos(folder.path(), &options)).wait().succeeded().stdout
    };
    assert_eq!(list("3"), list("3"));
    assert_ne!(list("3"), list("4"));
    assert!(
        list("3").contains("a worker killed") && list("3").contains("slowed by"),
        "{}",
        list("3")
    );
    let unasked = Running::start(chaos(folder.path(), &[])).wait().refused(2);
    assert!(unasked.error.contains("nobody is there to be asked"), "{unasked:?}");
    let pointless = ["--kinds", "cut", "--targets", "worker", "--yes"];
    let complaint = Running::start(chaos(folder.path(), &pointless)).wait().refused(2);
    assert!(
        complaint
            .error
            .contains("expected a kind that one of the targets can suffer"),
        "{complaint:?}"
    );
}
