//! A real Prometheus looks on while a real job runs: every panel of every dashboard has an answer, every
//! alert can be evaluated, and each fires when it should.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stillhouse_core::job::{GuardSpec, JobSpec, Size};
use stillhouse_tests::jobs::{self, digits, root};
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, on_path, program, run_job, wait_for};
use stillhouse_tests::prometheus::{Prometheus, get, panels, unanswered};
use stillhouse_tests::redis::{self, Persistence, RedisServer};
use stillhouse_tests::teacher::MODEL;

use crate::world::{World, alone, coordinator, gateway, skipped};

const TOKEN: &str = "7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a";

pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let found = on_path(name);
    if found.is_none() {
        skipped(&format!("{name} is not installed"));
    }
    found
}

fn promtool(args: &[&str], stdin: Option<&str>) {
    let Some(promtool) = installed("promtool") else { return };
    let mut command = Command::new(promtool);
    command.args(args).current_dir(root().join("deploy/prometheus"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.unwrap_or_default().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn alerts_are_well_formed_and_fire_when_they_should_and_only_then() {
    promtool(&["check", "rules", "alerts.yaml"], None);
    promtool(&["check", "config", "--syntax-only", "prometheus.yaml"], None);
    promtool(&["test", "rules", "alerts.test.yaml"], None);
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Names after `- alert:`.
fn alerts() -> Vec<String> {
    let rules = read("deploy/prometheus/alerts.yaml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn every_alert_has_a_runbook_and_tests_both_ways() {
    let (runbooks, tests) = (read("docs/alerts.md"), read("deploy/prometheus/alerts.test.yaml"));
    let alerts = alerts();
    assert!(alerts.len() >= 20);
    for alert in alerts {
        assert!(runbooks.contains(&format!("\n## {alert}\n")), "{alert} has no runbook");
        let tested = tests.matches(&format!("alertname=\"{alert}\"")).count();
        assert_eq!(tested, 2, "{alert} is tested firing and silent");
    }
}

/// Expressions of the alerts, on one line each.
fn conditions() -> Vec<String> {
    let rules = read("deploy/prometheus/alerts.yaml");
    let mut conditions: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in rules.lines().map(str::trim) {
        if let Some(expression) = line.strip_prefix("expr: ") {
            is_open = expression == "|";
            conditions.push(if is_open { String::new() } else { expression.to_owned() });
        } else if line.contains(": ") {
            is_open = false;
        } else if is_open {
            let last = conditions.last_mut().unwrap();
            *last = format!("{last} {line}");
        }
    }
    conditions
}

/// Metric names in an expression, without what a histogram's series add.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("stillhouse_"));
    let family = |word: &str| {
        let suffix = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find(|suffix| word.ends_with(suffix));
        suffix.map_or(word, |suffix| word.trim_end_matches(suffix)).to_owned()
    };
    ours.map(family).collect()
}

#[test]
fn dashboards_and_alerts_speak_of_documented_metrics_alone() {
    let documented = read("docs/metrics.md");
    let conditions = conditions();
    assert_eq!(conditions.len(), alerts().len());
    let all = panels(|_| true)
        .into_iter()
        .map(|(_, expression)| expression)
        .chain(conditions);
    for expression in all {
        for metric in metrics(&expression) {
            assert!(
                documented.contains(&format!("| `{metric}` |")),
                "{metric} in {expression}"
            );
        }
    }
}

/// A teacher that learned something, served as a user serves one.
pub(crate) fn teacher(
    folder: &Path,
    listen: SocketAddr,
    metrics: SocketAddr,
    environment: &[(&str, String)],
) -> Mortal {
    let model = folder.join("teacher.safetensors");
    let mut train = Command::new(program("stillhouse-worker"));
    train.args(["teacher", "train", "--epochs", "20", "--batch", "32", "--size", "16x16"]);
    train.arg("--images").arg(digits("train-images-idx3-ubyte.gz"));
    train.arg("--labels").arg(digits("train-labels-idx1-ubyte.gz"));
    train.arg("--out").arg(&model);
    let _ = Running::start(train).wait().succeeded();
    let mut serve = Command::new(program("stillhouse-worker"));
    serve.args(["teacher", "serve", "--name", MODEL, "--listen", &listen.to_string()]);
    serve.envs(environment.iter().cloned());
    serve
        .args(["--metrics-listen", &metrics.to_string()])
        .arg("--model")
        .arg(model);
    let mut teacher = Mortal::new(serve, &folder.join("teacher.log"));
    teacher.start();
    wait_for("the teacher", || get(listen, "/v2/health/ready"));
    teacher
}

#[test]
fn a_run_that_is_told_by_the_environment_serves_metrics_and_its_workers_leave_the_address_alone() {
    let _alone = alone();
    let (world, address) = (World::new(), free_address());
    let file = jobs::write(world.path(), &jobs::one_round(&world.url()));
    let mut command = run_job(&file, &world.path().join("job"), 2);
    command.env("STILLHOUSE_METRICS_LISTEN", address.to_string());
    let mut running = Running::start(command);
    let is_served = running.lives_until(|| {
        let text = get(address, "/metrics").unwrap_or_default();
        text.contains("\nstillhouse_budget_queries 40\n") && text.contains("\nstillhouse_workers_joined_total 2\n")
    });
    assert!(is_served, "nobody saw both workers");
    let _ = running.wait().succeeded();
    assert_eq!(world.bill().len(), 40);
}

#[test]
fn a_real_prometheus_finds_an_answer_for_every_panel_while_a_real_job_runs() {
    let _alone = alone();
    let (Some(prometheus), Some(redis)) = (installed("prometheus"), redis::program()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [model, desk, served, coordinates, works, asks] = std::array::from_fn(|_| free_address());
    let _teacher = teacher(folder, model, served, &[]);
    let redis = RedisServer::start(&redis, &folder.join("redis"), Persistence::Nothing).unwrap();
    let prometheus = Prometheus::start(&prometheus, folder, &[coordinates, works, asks, served]);

    let mut job = jobs::three_rounds(&format!("http://{model}"));
    job.spec.queue = Some(jobs::queue_at(redis.address()));
    job.spec.images.size = Some(Size { height: 16, width: 16 });
    // Slow enough for several scrapes of every stage.
    job.spec.teacher.rate_per_second = Some(120.0);
    job.spec.teacher.price_per_query = Some(0.01);
    job.spec.checkpoints.every_seconds = 1;
    job.spec.acquisition.guard = Some(GuardSpec::default());
    let file = jobs::write(folder, &job);
    let mut worker = Command::new(program("stillhouse-worker"));
    worker.args(["worker", "--threads", "2", "--coordinator", &desk.to_string()]);
    worker
        .args(["--metrics-listen", &works.to_string()])
        .env("STILLHOUSE_TOKEN", TOKEN);
    let mut gateway = gateway(desk, TOKEN);
    gateway.args(["--metrics-listen", &asks.to_string()]);
    let mut helpers = [
        Mortal::new(worker, &folder.join("worker.log")),
        Mortal::new(gateway, &folder.join("gateway.log")),
    ];
    helpers.iter_mut().for_each(Mortal::start);
    let mut coordinator = coordinator(&file, &folder.join("job"), desk, TOKEN);
    coordinator.args(["--no-gateway", "--metrics-listen", &coordinates.to_string()]);
    let mut running = Running::start(coordinator);
    let mut scraped = Vec::new();
    let is_under_way = running.lives_until(|| {
        scraped = [coordinates, works, asks, served]
            .iter()
            .filter_map(|role| get(*role, "/metrics"))
            .collect();
        scraped.len() == 4 && scraped[0].contains("stillhouse_students_trained_total{arm=\"control\"}")
    });
    if !is_under_way {
        let finished = running.wait().succeeded();
        panic!("it ended before every role could be looked at: {finished:?}");
    }
    for text in &scraped {
        promtool(&["check", "metrics"], Some(text));
        assert!(!text.contains(TOKEN), "the token is shown");
    }
    let _ = running.wait().succeeded();

    let empty = unanswered(&prometheus, &panels(|board| !["operator", "cards"].contains(&board)));
    assert!(empty.is_empty(), "panels without an answer: {empty:#?}");
    for condition in conditions() {
        let _answered = prometheus.ask(&condition);
    }
    // What Prometheus saw is what the job says of itself.
    let billed = "max_over_time(stillhouse_budget_billed_queries[1h]) > 300";
    assert_ne!(prometheus.ask(billed), (0, 0));
    let over = "stillhouse_budget_billed_queries > stillhouse_budget_queries";
    assert_eq!(prometheus.ask(over), (0, 0), "overspent");
}

#[test]
fn a_program_that_logs_for_collectors_says_everything_as_json() {
    let world = World::new();
    let run = |job: &JobSpec| {
        let file = jobs::write(world.path(), job);
        let mut command = run_job(&file, &world.path().join("job"), 1);
        command.env("STILLHOUSE_LOG_FORMAT", "json");
        Running::start(command).wait()
    };
    let lines = |text: &str| -> Vec<Value> {
        let parsed = text
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}")));
        parsed.collect::<Result<_, _>>().unwrap()
    };
    let mut bad = jobs::one_round(&world.url());
    bad.spec.budget.queries = 1;
    let refused = run(&bad);
    assert_eq!(refused.status.code(), Some(5));
    let said = lines(&refused.stderr);
    assert_eq!(said.last().unwrap()["level"], "ERROR", "{said:?}");
    let done = run(&jobs::one_round(&world.url())).succeeded();
    let said = lines(&done.stderr);
    let rounds: Vec<&Value> = said.iter().filter(|line| line["message"] == "round done").collect();
    assert_eq!(rounds.len(), 2, "{said:?}");
    assert_eq!(
        (&rounds[1]["round"], &rounds[1]["queries"]),
        (&Value::from(1), &Value::from(40))
    );
}
