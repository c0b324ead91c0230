//! A real job's traces, as a collector gets them: one a query batch, through every process.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use stillhouse_core::job::Size;
use stillhouse_tests::collector::{Collector, Seen};
use stillhouse_tests::jobs;
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, run_job};
use stillhouse_tests::redis::{self, Persistence, RedisServer};

use crate::monitoring::teacher;
use crate::world::{World, alone, coordinator, gateway, skipped, worker};

const TOKEN: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
/// The seed images, three rounds and three of the control's.
const BATCHES: usize = 7;

fn traces(spans: &[Seen]) -> BTreeSet<&[u8]> {
    spans.iter().map(|span| span.trace.as_slice()).collect()
}

/// Names from a span up to its root.
fn ancestry<'a>(span: &'a Seen, by_id: &BTreeMap<&[u8], &'a Seen>) -> Vec<&'a str> {
    let mut names = vec![span.name.as_str()];
    let mut at = span;
    while let Some(parent) = by_id.get(at.parent.as_slice()) {
        assert_eq!(parent.trace, at.trace);
        names.push(&parent.name);
        at = parent;
    }
    assert!(at.parent.is_empty(), "{names:?} hang below a span that never came");
    names
}

#[test]
fn each_query_batch_is_one_trace_through_coordinator_queue_gateway_teacher_and_training() {
    let _alone = alone();
    let Some(redis) = redis::program() else {
        return skipped("redis-server is not installed");
    };
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [model, desk, metrics] = std::array::from_fn(|_| free_address());
    let mut teacher = teacher(folder, model, metrics, &collector.environment());
    let redis = RedisServer::start(&redis, &folder.join("redis"), Persistence::Nothing).unwrap();
    let mut job = jobs::three_rounds(&format!("http://{model}"));
    job.spec.queue = Some(jobs::queue_at(redis.address()));
    job.spec.images.size = Some(Size { height: 16, width: 16 });
    let file = jobs::write(folder, &job);
    let told = |mut command: Command| {
        command.envs(collector.environment());
        command
    };
    let (worker, gateway) = (told(worker(desk, TOKEN)), told(gateway(desk, TOKEN)));
    let mut helpers = [
        Mortal::new(worker, &folder.join("worker.log")),
        Mortal::new(gateway, &folder.join("gateway.log")),
    ];
    helpers.iter_mut().for_each(Mortal::start);
    let mut coordinator = told(coordinator(&file, &folder.join("job"), desk, TOKEN));
    coordinator.arg("--no-gateway");
    let _ = Running::start(coordinator).wait().succeeded();
    let outcome = Outcome::of(&folder.join("job"));
    // Each process sends the rest when it ends.
    for helper in &mut helpers {
        let status = stillhouse_tests::processes::wait_for("a helper to end with the job", || helper.ended());
        assert!(status.success(), "{status}");
    }
    assert!(teacher.terminate().success());

    let spans = collector.spans();
    assert_eq!(traces(&spans).len(), BATCHES, "one trace a batch");
    let by_id: BTreeMap<&[u8], &Seen> = spans.iter().map(|span| (span.id.as_slice(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "two spans of one name");
    let mut found = BTreeSet::new();
    for span in &spans {
        assert!(span.took >= 0 && !span.failed, "{span:?}");
        let path = ancestry(span, &by_id);
        assert_eq!(path.last(), Some(&"query batch"), "{path:?}");
        found.insert((
            span.service.trim_start_matches("stillhouse-").to_owned(),
            path[..path.len() - 1].join(" < "),
        ));
    }
    let expected = [
        ("coordinator", "scoring"),
        ("coordinator", "querying"),
        ("coordinator", "training"),
        ("coordinator", "queue references < querying"),
        ("gateway", "request < querying"),
        ("gateway", "wait for leave < request < querying"),
        ("gateway", "ask the teacher < request < querying"),
        ("gateway", "settle < request < querying"),
        ("teacher", "answer < ask the teacher < request < querying"),
        ("worker", "scan < scoring"),
        ("worker", "rescore < scoring"),
        ("worker", "train < training"),
    ];
    for (service, path) in expected {
        assert!(
            found.contains(&(service.to_owned(), path.to_owned())),
            "no {path} of the {service}: {found:#?}"
        );
    }
    let answered = spans.iter().filter(|span| span.name == "answer");
    let images: u64 = answered
        .map(|span| span.said["stillhouse.images"].parse::<u64>().unwrap())
        .sum();
    assert_eq!(
        images,
        outcome.count("/budget/billed/total"),
        "every query that was billed is in a trace"
    );
    assert!(!collector.was_told(TOKEN), "the token was sent to a collector");
}

#[test]
fn a_coordinator_that_was_killed_adds_to_the_traces_that_it_had_begun() {
    let _alone = alone();
    let (world, collector) = (World::new(), Collector::start());
    let file = jobs::write(world.path(), &jobs::three_rounds(&world.url()));
    let dir = world.path().join("job");
    let outcome = Outcome::of(&dir);
    let start = || {
        let mut command = run_job(&file, &dir, 2);
        command.envs(collector.environment());
        Running::start(command)
    };
    let mut first = start();
    let is_asked = |spans: &[Seen]| spans.iter().filter(|span| span.name == "querying").count() >= 2;
    assert!(first.lives_until(|| is_asked(&collector.spans())), "it ended too early");
    first.kill_everything();
    let _ = start().wait().succeeded();
    outcome.settle(&world.bill());
    let spans = collector.spans();
    assert_eq!(traces(&spans).len(), BATCHES);
    let lives = |trace: &[u8]| -> BTreeSet<&str> {
        let of = spans
            .iter()
            .filter(|span| span.trace == trace && span.service == "stillhouse-coordinator");
        of.map(|span| span.process.as_str()).collect()
    };
    assert!(
        traces(&spans).into_iter().any(|trace| lives(trace).len() == 2),
        "no trace has spans of both lives"
    );
}

#[test]
fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    let world = World::new();
    let file = jobs::write(world.path(), &jobs::one_round(&world.url()));
    let dir = world.path().join("job");
    let mut command = run_job(&file, &dir, 1);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", free_address()));
    let finished = Running::start(command).wait().succeeded();
    Outcome::of(&dir).settle(&world.bill());
    assert_eq!(finished.stderr.matches("takes no spans").count(), 1, "{finished:?}");
}

#[test]
fn a_collector_of_another_protocol_is_an_error_before_anything_is_asked() {
    let world = World::new();
    let file = jobs::write(world.path(), &jobs::one_round(&world.url()));
    let mut command = run_job(&file, &world.path().join("job"), 1);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let complaint = Running::start(command).wait().refused(2);
    assert!(complaint.error.contains("http/protobuf"), "{complaint:?}");
    assert!(world.bill().is_empty());
}
