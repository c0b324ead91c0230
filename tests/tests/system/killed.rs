//! `kill -9` of anything at any moment, then the same command again.

use std::time::{Duration, Instant};

use stillhouse_core::job::{JobSpec, Scan};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Running, TeacherProcess, is_alive, kill, run_job, wait_for};
use tempfile::TempDir;

use crate::world::{MOMENTS, TEACHER, World, alone, undisturbed};

/// Times that a job is killed before it may finish.
const KILLS: u64 = 8;

/// A job and its teacher, both of which may die.
struct Mortal {
    folder: TempDir,
    teacher: TeacherProcess,
    job: JobSpec,
}

impl Mortal {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let teacher = TeacherProcess::start(TEACHER.as_ref(), &folder.path().join("bill"));
        let mut job = jobs::three_rounds(&teacher.url());
        // Few images at stake at a time, and long enough a batch to be killed within.
        job.spec.teacher.batch = Some(4);
        job.spec.teacher.rate_per_second = Some(300.0);
        Self { folder, teacher, job }
    }

    fn start(&self) -> Running {
        let file = jobs::write(self.folder.path(), &self.job);
        Running::start(run_job(&file, &self.folder.path().join("job"), 2))
    }

    fn outcome(&self) -> Outcome {
        Outcome::of(&self.folder.path().join("job"))
    }
}

/// Kills everything [`KILLS`] times, at moments drawn from `seed`, every other one while the
/// teacher is asked, and every third one together with the teacher. Then lets the job finish.
fn torment(seed: u64) -> (Mortal, u64) {
    let mut mortal = Mortal::new();
    let draw = Stream::new(seed, Purpose::Shuffle, 0);
    let longest = 2 * undisturbed().took / KILLS as u32 + Duration::from_millis(200);
    let mut kills = 0;
    for blow in 0..KILLS {
        let billed = mortal.teacher.billed().len();
        let (begun, after) = (Instant::now(), longest.mul_f32(draw.unit(2 * blow)));
        let mut running = mortal.start();
        let at_asking = blow % 2 == 1;
        let lives = running.lives_until(|| match at_asking {
            true => mortal.teacher.billed().len() > billed,
            false => begun.elapsed() >= after,
        });
        if !lives {
            break;
        }
        kills += 1;
        if draw.below(2 * blow + 1, 3) == 0 {
            mortal.teacher.kill();
        }
        running.kill_everything();
        mortal.teacher.revive("none");
        let bill = mortal.teacher.billed();
        assert!(
            bill.len() as u64 <= mortal.job.spec.budget.queries,
            "{} billed",
            bill.len()
        );
    }
    let _ = mortal.start().wait().succeeded();
    (mortal, kills)
}

#[test]
fn a_job_killed_again_and_again_bills_nothing_twice_and_loses_no_label() {
    let _alone = alone();
    for seed in 0..3 {
        let (mortal, kills) = torment(seed);
        assert!(kills >= 3, "seed {seed}: it finished after {kills} kills");
        let outcome = mortal.outcome();
        outcome.settle(&mortal.teacher.billed());
        let summary = outcome.summary();
        assert_eq!(summary["state"]["name"], "finished", "seed {seed}");
        if outcome.count("/budget/held") == 0 {
            assert_eq!(outcome.essence(), undisturbed().essence, "seed {seed}");
        }
    }
}

#[test]
fn a_job_killed_while_it_trains_and_while_it_scans_ends_as_if_nothing_had_happened() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::three_rounds(&world.url());
    world.kill_at(&MOMENTS, &job, "job");
    let outcome = world.finish(&job, "job", 2);
    assert_eq!(
        outcome.count("/budget/held"),
        0,
        "nothing was under way at those moments"
    );
    assert_eq!(outcome.essence(), undisturbed().essence);
    outcome.settle(&world.bill());
}

#[test]
fn workers_leave_when_their_coordinator_is_killed() {
    let _alone = alone();
    let world = World::new();
    let (mut running, outcome) = world.start(&jobs::three_rounds(&world.url()), "job", 2);
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 2));
    let workers = running.kill_alone();
    assert_eq!(workers.len(), 2, "{workers:?}");
    wait_for("the workers to leave", || {
        workers.iter().all(|id| !is_alive(*id)).then_some(())
    });
}

/// The process ids of the workers that joined last, as many as there are.
fn workers(outcome: &Outcome) -> Vec<u32> {
    let joined = outcome.events();
    let joined = joined.iter().filter(|event| event["event"] == "worker-joined");
    joined
        .map(|event| event["process"].as_u64().unwrap() as u32)
        .filter(|id| is_alive(*id))
        .collect()
}

/// Kills one worker between two events of a job, and checks that the loss was noticed in between.
fn kill_a_worker(job: &JobSpec, world: &World, between: [(&str, &str); 2]) -> Outcome {
    let (mut running, outcome) = world.start(job, "job", 2);
    let [(event, student), (next, of)] = between;
    assert!(
        running.lives_until(|| outcome.has_event(event, student)),
        "it ended before {event} {student}"
    );
    let workers = workers(&outcome);
    assert_eq!(workers.len(), 2);
    kill(workers[0]);
    let _ = running.wait().succeeded();
    let events = outcome.events();
    let lost = events
        .iter()
        .position(|event| event["event"] == "worker-lost")
        .expect("the loss was noticed");
    assert!(outcome.position(event, student).unwrap() < lost, "too early");
    assert!(
        lost < outcome.position(next, of).unwrap(),
        "too late: {next} {of} came first"
    );
    outcome
}

#[test]
fn losing_a_worker_while_it_trains_changes_nothing_but_the_time() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::three_rounds(&world.url());
    let outcome = kill_a_worker(&job, &world, [("asked", "active-001"), ("trained", "active-001")]);
    assert_eq!(outcome.essence(), undisturbed().essence);
    outcome.settle(&world.bill());
}

#[test]
fn losing_a_worker_while_it_scans_changes_nothing_but_the_time() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::three_rounds(&world.url());
    // Slow enough to be killed within, and by definition the same query batch.
    job.spec.acquisition.scan = Scan::Exact;
    let outcome = kill_a_worker(&job, &world, [("trained", "active-000"), ("selected", "active-001")]);
    assert_eq!(outcome.essence(), undisturbed().essence);
    outcome.settle(&world.bill());
}

#[test]
fn a_teacher_that_dies_in_the_middle_and_comes_back_is_paid_for_what_it_did_once() {
    let _alone = alone();
    let mut mortal = Mortal::new();
    let budget = mortal.job.spec.budget.queries;
    mortal.teacher.revive("die-after:100");
    let mut running = mortal.start();
    assert!(running.lives_until(|| mortal.teacher.billed().len() >= 100));
    mortal.teacher.revive("none");
    let first = running.wait();
    if !first.status.success() {
        // Several requests of unknown fate at once end the run, as they should.
        let complaint = first.refused(4);
        assert!(
            complaint.error.contains("may or may not have been billed"),
            "{complaint:?}"
        );
        let _ = mortal.start().wait().succeeded();
    }
    let outcome = mortal.outcome();
    outcome.settle(&mortal.teacher.billed());
    let held = outcome.count("/budget/held");
    assert!(
        (1..=8).contains(&held),
        "{held} of {budget} held: at most two requests of four were under way"
    );
}
