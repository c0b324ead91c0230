//! A real Prometheus that looks at programs, and the panels that it must have an answer for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::jobs::root;
use crate::mortal::Mortal;
use crate::ports::free_address;
use crate::processes::wait_for;

/// In place of Grafana's variable: some scrapes.
const RATE_INTERVAL: &str = "3s";

/// `(dashboard and panel, expression)` of every panel of the dashboards whose file `is_wanted`.
///
/// # Panics
/// When a dashboard is not as Grafana has them.
#[must_use]
pub fn panels(is_wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("readable");
    let mut panels = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/grafana")).expect("a folder of dashboards") {
        let path = entry.expect("readable").path();
        if !path.file_stem().is_some_and(|name| is_wanted(&name.to_string_lossy())) {
            continue;
        }
        let board: Value = serde_json::from_str(&read(path)).expect("JSON");
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let name = format!("{}: {}", board["title"], panel["title"]);
                panels.push((name, target["expr"].as_str().expect("an expression").to_owned()));
            }
        }
    }
    panels
}

/// Panels without an answer, with their expressions.
#[must_use]
pub fn unanswered(prometheus: &Prometheus, panels: &[(String, String)]) -> Vec<String> {
    let empty = panels
        .iter()
        .filter(|(_, expression)| prometheus.ask(expression).1 == 0);
    empty
        .map(|(panel, expression)| format!("{panel}: {expression}"))
        .collect()
}

/// The body of `GET path`.
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64()
}

/// Prometheus, looking at `targets` several times a second.
#[derive(Debug)]
pub struct Prometheus {
    _process: Mortal,
    address: SocketAddr,
    since: f64,
}

impl Prometheus {
    /// Starts `program` with its files in `folder`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(program: &Path, folder: &Path, targets: &[SocketAddr]) -> Self {
        let address = free_address();
        let targets: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let config = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s }}\n\
             rule_files: [\"{}\"]\n\
             scrape_configs: [{{ job_name: stillhouse, static_configs: [{{ targets: [{}] }}] }}]\n",
            root().join("deploy/prometheus/alerts.yaml").display(),
            targets.join(", ")
        );
        let file = folder.join("prometheus.yaml");
        std::fs::write(&file, config).expect("a test's own file or answer");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut process = Mortal::new(command, &folder.join("prometheus.log"));
        process.start();
        wait_for("Prometheus to be ready", || {
            get(address, "/-/ready").filter(|body| body.contains("Ready"))
        });
        Self {
            _process: process,
            address,
            since: now(),
        }
    }

    /// How many series an expression had since the start, and how many points.
    ///
    /// # Panics
    /// When Prometheus does not understand the expression.
    #[must_use]
    pub fn ask(&self, expression: &str) -> (usize, usize) {
        let expression = expression.replace("$__rate_interval", RATE_INTERVAL);
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let (since, until) = (self.since, now());
        let path = format!("/api/v1/query_range?query={query}&start={since}&end={until}&step=0.5");
        let body = get(self.address, &path).expect("a test's own file or answer");
        let answer: Value = serde_json::from_str(&body).expect("a test's own file or answer");
        assert_eq!(answer["status"], "success", "{expression}: {body}");
        let series = answer["data"]["result"]
            .as_array()
            .expect("a test's own file or answer");
        let points = series
            .iter()
            .map(|series| series["values"].as_array().expect("a test's own file or answer").len());
        (series.len(), points.sum())
    }
}
