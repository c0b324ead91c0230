//! Workers that die and come back while they score, wait and train; trainings that go on in the middle.

use std::path::Path;
use std::time::{Duration, Instant};

use stillhouse_core::job::{JobSpec, Scan};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_runtime::supervise::RestartPolicy;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{is_alive, kill};

use crate::world::{World, alone, undisturbed};

/// Workers killed at random in one job: few enough that none is given up as broken.
const KILLS: u64 = 4;

#[test]
fn one_two_three_and_five_workers_killed_at_random_choose_the_same_queries_and_train_the_same_student() {
    let _alone = alone();
    let reference = undisturbed();
    for workers in [1, 2, 3, 5] {
        let world = World::new();
        let mut job = jobs::three_rounds(&world.url());
        job.spec.workers.max = 5;
        let (mut running, outcome) = world.start(&job, "job", workers);
        let draw = Stream::new(u64::from(workers), Purpose::Shuffle, 1);
        let mut kills = 0;
        for blow in 0..KILLS {
            let after = Duration::from_millis(200 + draw.below(2 * blow, 400));
            let begun = Instant::now();
            let alive = || {
                let events = outcome.events();
                let joined = events.iter().filter(|event| event["event"] == "worker-joined");
                let process = joined.map(|event| event["process"].as_u64().unwrap() as u32);
                process.filter(|id| is_alive(*id)).collect::<Vec<_>>()
            };
            // A busy machine may take long to start the next worker: a blow waits for somebody to hit.
            let has_events = || outcome.events_called("worker-joined") > 0;
            if !running.lives_until(|| begun.elapsed() >= after && has_events() && !alive().is_empty()) {
                break;
            }
            if let alive @ [_, ..] = &*alive() {
                kill(alive[draw.below(2 * blow + 1, alive.len() as u64) as usize]);
                kills += 1;
            }
        }
        let _ = running.wait().succeeded();
        assert!(kills >= 3, "{workers} workers: it ended after {kills} kills");
        assert_eq!(outcome.essence(), reference.essence, "{workers} workers, {kills} kills");
        outcome.settle(&world.bill());
    }
}

#[test]
fn a_worker_that_gets_something_done_between_its_deaths_is_never_given_up() {
    let _alone = alone();
    let reference = undisturbed();
    let world = World::new();
    let (mut running, outcome) = world.start(&jobs::three_rounds(&world.url()), "job", 1);
    let mut kills = 0;
    let trainings = reference.outcome.events_called("trained");
    for round in 1..trainings {
        let last = || {
            let joined = outcome.events();
            let mut joined = joined.iter().filter(|event| event["event"] == "worker-joined");
            joined
                .next_back()
                .map(|event| event["process"].as_u64().unwrap() as u32)
        };
        let is_time = || outcome.events_called("trained") >= round && last().is_some_and(is_alive);
        assert!(running.lives_until(is_time), "it ended after {kills} kills");
        kill(last().expect("it is alive"));
        kills += 1;
    }
    let _ = running.wait().succeeded();
    let too_many = RestartPolicy::default().max_deaths;
    assert!(kills > too_many, "{kills} kills prove nothing");
    assert_eq!(outcome.essence(), reference.essence);
}

/// Trainings of seconds, and a checkpoint every second.
pub(crate) fn long_trainings(url: &str) -> JobSpec {
    let mut job = jobs::one_round(url);
    job.spec.training.epochs = 900;
    job.spec.checkpoints.every_seconds = 1;
    job
}

/// How many states the manifest in a folder names: one counts from then on.
pub(crate) fn checkpoints_named(folder: &Path) -> usize {
    let bytes = std::fs::read(folder.join("manifest.json")).unwrap_or_default();
    let manifest = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_default();
    manifest["checkpoints"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_job_killed_in_the_middle_of_a_training_goes_on_from_its_checkpoint_to_the_same_student() {
    let _alone = alone();
    let [calm, world] = [World::new(), World::new()];
    let [calm_job, job] = [&calm, &world].map(|world| long_trainings(&world.url()));
    let undisturbed = calm.finish(&calm_job, "job", 2);
    let kept = |outcome: &Outcome| {
        let files = std::fs::read_dir(outcome.file("checkpoints")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".safetensors")).count()
    };
    let (mut running, outcome) = world.start(&job, "job", 2);
    assert!(
        running.lives_until(|| checkpoints_named(&outcome.file("checkpoints")) > 0),
        "it ended before its first checkpoint"
    );
    running.kill_everything();
    let outcome = world.finish(&job, "job", 2);
    let events = outcome.events();
    let found = events.iter().find(|event| event["event"] == "checkpoint-found");
    let found = found.expect("it began the training anew");
    assert!(found["step"].as_u64().unwrap() > 1, "{found}");
    assert_eq!(outcome.essence(), undisturbed.essence());
    outcome.settle(&world.bill());
    assert_eq!(kept(&outcome), 0, "checkpoints of trainings that are done stay behind");
}

/// Scans of seconds, kept every second: every candidate of a hundred thousand pairs is scored on its exact bytes.
fn long_scan(url: &str) -> JobSpec {
    let mut job = jobs::one_round(url);
    job.spec.images.take = Some(500);
    job.spec.budget.queries = 510;
    job.spec.acquisition.scan = Scan::Exact;
    job.spec.checkpoints.every_seconds = 1;
    job
}

#[test]
fn a_job_killed_in_the_middle_of_a_scan_goes_on_with_what_is_left_of_it() {
    let _alone = alone();
    let [calm, world] = [World::new(), World::new()];
    let undisturbed = calm.finish(&long_scan(&calm.url()), "job", 2);
    let job = long_scan(&world.url());
    let (mut running, outcome) = world.start(&job, "job", 2);
    let kept = outcome.file("scan.kept");
    assert!(
        running.lives_until(|| kept.exists()),
        "it ended before its scan was kept"
    );
    running.kill_everything();
    let outcome = world.finish(&job, "job", 2);
    let events = outcome.events();
    let resumed = events.iter().find(|event| event["event"] == "scan-resumed");
    let resumed = resumed.expect("it began the scan anew");
    assert!(resumed["pairs"].as_u64().unwrap() > 0, "{resumed}");
    assert_eq!(outcome.essence(), undisturbed.essence());
    outcome.settle(&world.bill());
    assert!(!kept.exists(), "a scan that is done stays behind");
}
