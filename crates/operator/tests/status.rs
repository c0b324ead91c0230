//! What is said of a job, without a cluster.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::batch::v1::Job as BatchJob;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use stillhouse_core::standing::{Standing, StandingState};
use stillhouse_operator::crd::{DistillJob, Status};
use stillhouse_operator::desired::Coordinator;
use stillhouse_operator::request::{Request, parse};
use stillhouse_operator::sight::{PodSight, Sight};
use stillhouse_operator::status;

const NOW: i64 = 1_800_000_000;

fn request(cluster: Value) -> Request {
    let object = json!({
        "apiVersion": "stillhouse.dev/v1alpha1", "kind": "DistillJob",
        "metadata": { "name": "mnist", "namespace": "lab", "uid": "u" },
        "spec": {
            "images": { "source": "idx", "path": "train.gz" },
            "teacher": { "protocol": "open-inference", "url": "http://teacher:8080", "model": "m" },
            "student": { "architecture": "lenet5" },
            "budget": { "queries": 1000, "perRound": 100 },
            "workers": { "min": 1, "max": 4 },
            "cluster": cluster,
        },
    });
    parse(&serde_json::from_value::<DistillJob>(object).unwrap()).unwrap()
}

fn job(value: Value) -> BatchJob {
    serde_json::from_value(value).unwrap()
}

fn pod(role: &str, status: Value) -> PodSight {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "labels": { "app.kubernetes.io/component": role }, "creationTimestamp": "2027-01-15T08:00:00Z" },
        "status": status,
    }))
    .unwrap();
    PodSight::of(&pod).unwrap()
}

fn running(role: &str) -> PodSight {
    let container = json!({ "name": role, "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": {} } });
    pod(role, json!({ "podIP": "10.0.0.1", "containerStatuses": [container] }))
}

fn ended(code: i32, message: &str) -> PodSight {
    let container = json!({ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": code, "message": message } } });
    pod("coordinator", json!({ "containerStatuses": [container] }))
}

fn active() -> BatchJob {
    job(json!({ "metadata": {}, "status": { "active": 1 } }))
}

fn over(kind: &str) -> BatchJob {
    let condition = json!({ "type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "too often",
        "lastTransitionTime": "2027-01-15T08:00:00Z" });
    job(json!({ "metadata": {}, "status": { "conditions": [condition] } }))
}

fn said(sight: &Sight, cluster: Value) -> (Status, String) {
    let status = status::of(&request(cluster), sight, &Status::default(), Some(1), NOW);
    let running = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Running")
        .unwrap();
    let reason = running.reason.clone();
    (status, reason)
}

#[test]
fn what_keeps_a_pod_from_running_is_told_in_a_word_and_a_sentence() {
    let unscheduled = |message: &str| json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }] });
    let waiting = |reason: &str| {
        json!({ "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": "as the node says" } } }] })
    };
    for (state, reason) in [
        (
            unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            "Gpu",
        ),
        (unscheduled("0/3 nodes are available: 3 Insufficient memory."), "Node"),
        (
            unscheduled("pod has unbound immediate PersistentVolumeClaims."),
            "Storage",
        ),
        (waiting("ImagePullBackOff"), "Image"),
        (waiting("CreateContainerConfigError"), "Secret"),
        (waiting("RunContainerError"), "Container"),
    ] {
        let sight = Sight::new(Some(&active()), None, vec![pod("coordinator", state)], NOW);
        let (status, found) = said(&sight, json!({}));
        assert_eq!(
            (found.as_str(), status.phase.as_str()),
            (reason, "Pending"),
            "{}",
            status.message
        );
        assert!(
            status.message.starts_with("the coordinator waits: "),
            "{}",
            status.message
        );
    }
    let starting = Sight::new(
        Some(&active()),
        None,
        vec![pod("coordinator", waiting("ContainerCreating"))],
        NOW,
    );
    assert_eq!(said(&starting, json!({})).1, "Starting");
}

#[test]
fn a_coordinator_says_how_far_the_job_is() {
    let mut sight = Sight::new(
        Some(&active()),
        None,
        vec![running("coordinator"), running("worker")],
        NOW,
    );
    assert_eq!(sight.coordinator_ip(), Some("10.0.0.1"));
    let standing = Standing {
        state: StandingState::Running,
        stage: Some("training".into()),
        rounds: 2,
        rounds_planned: 9,
        billed: 300,
        budget: 1000,
        agreement: Some(0.9871),
        workers: 3,
        ..Standing::default()
    };
    sight.standing = Some(standing.clone());
    let (status, _) = said(&sight, json!({}));
    assert_eq!(status.phase, "Running");
    assert_eq!((status.queries.as_str(), status.workers.as_str()), ("300/1000", "3/4"));
    assert_eq!((status.agreement.as_str(), status.round), ("98.71 %", Some(2)));
    assert_eq!(status.message, "training, 2 of 9 rounds trained");

    sight.standing = Some(Standing {
        state: StandingState::Paused,
        reason: Some("HTTP 429".into()),
        ..standing.clone()
    });
    assert_eq!(said(&sight, json!({})).0.phase, "Paused");

    sight.standing = Some(Standing { workers: 0, ..standing });
    let (status, reason) = said(&sight, json!({}));
    assert_eq!((status.phase.as_str(), reason.as_str()), ("Pending", "Workers"));
}

#[test]
fn nothing_that_was_known_is_forgotten_while_a_coordinator_is_away() {
    let known = Status {
        round: Some(2),
        queried: Some(300),
        agreement: "98.71 %".into(),
        ..Status::default()
    };
    let sight = Sight::new(Some(&active()), None, vec![running("coordinator")], NOW);
    let status = status::of(&request(json!({})), &sight, &known, Some(1), NOW);
    assert_eq!((status.round, status.queries.as_str()), (Some(2), "300/1000"));
    // One that just starts has read nothing yet.
    let mut starting = sight;
    starting.standing = Some(Standing::default());
    let status = status::of(&request(json!({})), &starting, &known, Some(1), NOW);
    assert_eq!((status.round, status.queries.as_str()), (Some(2), "300/1000"));
}

#[test]
fn how_it_ended_is_told_in_the_coordinators_own_words() {
    let left = json!({ "state": "stopped", "reason": "error: the teacher is away", "billed": 40, "budget": 1000 });
    let pods = vec![ended(4, &left.to_string())];
    let failed = Sight::new(Some(&over("Failed")), None, pods.clone(), NOW);
    let (status, reason) = said(&failed, json!({}));
    assert_eq!((status.phase.as_str(), reason.as_str()), ("Failed", "Teacher"));
    assert_eq!(
        (status.message.as_str(), status.queries.as_str()),
        ("error: the teacher is away", "40/1000")
    );
    assert_eq!(status.finished_unix_seconds, Some(NOW));

    let again = Sight::new(Some(&active()), None, pods, NOW);
    let (status, reason) = said(&again, json!({}));
    assert_eq!((status.phase.as_str(), reason.as_str()), ("Pending", "Teacher"));
    assert!(status.message.starts_with("it is tried again: "));

    // A pod that is gone leaves the Job's own words.
    let gone = Sight::new(Some(&over("Failed")), None, Vec::new(), NOW);
    let (status, reason) = said(&gone, json!({}));
    assert_eq!(
        (status.message.as_str(), reason.as_str()),
        ("too often", "BackoffLimitExceeded")
    );
    // One that was killed leaves the end of its log.
    let log = (0..100).map(|line| format!("line {line}\n")).collect::<String>();
    let killed = Sight::new(Some(&over("Failed")), None, vec![ended(137, &log)], NOW);
    let (status, reason) = said(&killed, json!({}));
    assert_eq!(
        (status.message.as_str(), reason.as_str()),
        ("line 97\nline 98\nline 99", "Killed")
    );

    let finished = Sight::new(Some(&over("Complete")), None, Vec::new(), NOW);
    assert_eq!(said(&finished, json!({})).0.phase, "Succeeded");
    assert_eq!(finished.observed.coordinator, Coordinator::Succeeded);
}

#[test]
fn a_suspended_job_rests_only_when_its_coordinator_has_no_pod() {
    let suspended = |active: i32| {
        job(
            json!({ "metadata": {}, "spec": { "suspend": true, "template": { "spec": { "containers": [] } } },
                    "status": { "active": active, "terminating": 0 } }),
        )
    };
    let drains = Sight::new(Some(&suspended(0)), None, vec![running("coordinator")], NOW);
    assert_eq!(said(&drains, json!({ "suspend": true })).0.phase, "Suspending");
    let rests = Sight::new(Some(&suspended(0)), None, Vec::new(), NOW);
    assert_eq!(said(&rests, json!({ "suspend": true })).0.phase, "Suspended");
    let over = Sight::new(Some(&over("Failed")), None, Vec::new(), NOW);
    assert_eq!(said(&over, json!({ "suspend": true })).0.phase, "Suspended");
}

#[test]
fn workers_that_stay_after_the_end_are_let_go() {
    let working = job(json!({ "metadata": {}, "status": { "active": 2 } }));
    let at_once = Sight::new(Some(&over("Complete")), Some(&working), Vec::new(), NOW + 30);
    assert!(!at_once.observed.workers_linger);
    let later = Sight::new(Some(&over("Complete")), Some(&working), Vec::new(), NOW + 61);
    assert!(later.observed.workers_linger);
    let queued = job(json!({ "metadata": {}, "spec": { "suspend": true, "template": {} }, "status": {} }));
    let held = Sight::new(Some(&over("Complete")), Some(&queued), Vec::new(), NOW + 61);
    assert!(
        held.observed.workers_linger,
        "one that Kueue never let in waits no longer"
    );
    let left = Sight::new(Some(&over("Complete")), Some(&over("Complete")), Vec::new(), NOW + 61);
    assert!(!left.observed.workers_linger);
}

#[test]
fn the_time_of_a_condition_moves_only_with_its_status() {
    let sight = Sight::new(Some(&active()), None, Vec::new(), NOW);
    let first = status::of(&request(json!({})), &sight, &Status::default(), Some(1), NOW);
    let second = status::of(&request(json!({})), &sight, &first, Some(1), NOW + 100);
    assert_eq!(first, second, "nothing happened, so nothing is written");
    let done = Sight::new(Some(&over("Complete")), None, Vec::new(), NOW + 200);
    let third = status::of(&request(json!({})), &done, &second, Some(1), NOW + 200);
    let changed = |kind: &str| {
        let at = |status: &Status| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
            condition.unwrap().last_transition_time.clone()
        };
        at(&second) != at(&third)
    };
    assert!(changed("Complete") && !changed("Accepted") && !changed("Failed"));
}

#[test]
fn workers_that_end_and_are_made_again_are_told_by_their_exit_code_for_a_while() {
    let ended = |code: i32, message: &str, at: &str| {
        let container = json!({ "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code, "message": message, "finishedAt": at } } });
        pod("worker", json!({ "containerStatuses": [container] }))
    };
    let seen = |worker: PodSight, workers: u32| {
        let mut sight = Sight::new(
            Some(&active()),
            Some(&active()),
            vec![running("coordinator"), worker],
            NOW,
        );
        sight.standing = Some(Standing {
            state: StandingState::Running,
            workers,
            ..Standing::default()
        });
        let (status, reason) = said(&sight, json!({}));
        (status.phase, reason, status.message)
    };
    let now = "2027-01-15T07:59:00Z";
    let (phase, reason, message) = seen(
        ended(9, "error: cannot compute on cuda: the driver sees no card", now),
        0,
    );
    assert_eq!((phase.as_str(), reason.as_str()), ("Pending", "Device"));
    assert!(
        message.contains("exit code 9") && message.contains("sees no card"),
        "{message}"
    );
    // One of several: the job runs, and says it.
    let (phase, _, message) = seen(ended(137, "", now), 3);
    assert_eq!(phase, "Running");
    assert!(message.contains("exit code 137"), "{message}");
    // What ended in good order, or long ago, is no news.
    for quiet in [
        ended(0, "", now),
        ended(143, "", now),
        ended(9, "", "2027-01-15T06:00:00Z"),
    ] {
        let (_, _, message) = seen(quiet.clone(), 3);
        assert!(!message.contains("exit code"), "{message}");
        assert_eq!(seen(quiet, 0).1, "Workers");
    }
}
