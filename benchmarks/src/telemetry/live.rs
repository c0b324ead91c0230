//! The live page of a job of many rounds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::prometheus::get;

use crate::data_set::DataSet;
use crate::mnist::teacher::{Server, Teacher};
use crate::places::Places;
use crate::process::Running;
use crate::statistics::Spread;

/// Rounds of each arm that the page shows.
const ROUNDS: u32 = 50;
const LOADS: usize = 20;
/// Longest wait for those rounds.
const PATIENCE: Duration = Duration::from_secs(600);

/// Milliseconds until the whole page is there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Live {
    pub(super) milliseconds: Spread,
    bytes: usize,
}

/// Loads the page of a running job again and again, once so many rounds are over.
pub(super) fn measure(places: &Places, data: &DataSet, teacher: &Teacher) -> anyhow::Result<Live> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let file = |name: &str| folder.path().join(name);
    let server = Server::start(places, teacher, &file("bill"), &file("teacher.log"))?;
    let job = file("job.yaml");
    std::fs::write(&job, text(data, server.url())).context("cannot write the job")?;
    let web = free_address();
    let mut command = places.stillhouse()?;
    command.args(["run", "--quiet", "--workers", "1"]).arg(&job);
    command.arg("--dir").arg(file("job")).arg(format!("--web={web}"));
    let mut running = Running::silent(&mut command)?;
    eprintln!("live: waits for {ROUNDS} rounds");
    wait_for_rounds(&mut running, &file("job").join("summary.json"))?;
    let (mut milliseconds, mut bytes) = (Vec::new(), 0);
    for _ in 0..LOADS {
        let begun = Instant::now();
        bytes = load(web)?;
        milliseconds.push(1e3 * begun.elapsed().as_secs_f64());
    }
    let milliseconds = Spread::of(milliseconds).context("no load")?;
    Ok(Live { milliseconds, bytes })
}

fn wait_for_rounds(running: &mut Running, summary: &std::path::Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = running.ended()? {
            bail!("the job ended before it had {ROUNDS} rounds: {status}");
        }
        // Written whole, but not there at first.
        let text = std::fs::read_to_string(summary).unwrap_or_default();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let rounds = summary.pointer("/control/rounds").and_then(|rounds| rounds.as_array());
        if rounds.is_some_and(|rounds| rounds.len() > ROUNDS as usize) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the job had no {ROUNDS} rounds within {PATIENCE:?}")
}

fn load(web: SocketAddr) -> anyhow::Result<usize> {
    let page = get(web, "/").context("nobody answers")?;
    ensure!(
        page.trim_end().ends_with("</html>"),
        "expected a whole page, found {} bytes",
        page.len()
    );
    Ok(page.len())
}

/// Twice as many small rounds as are waited for, so that it goes on while the page is loaded.
fn text(data: &DataSet, url: &str) -> String {
    let (images, test) = (data.seed_images(200, 0), data.evaluation());
    let queries = 200 + 2 * 2 * ROUNDS * 20;
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: live }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5 }}
  acquisition: {{ score: least-confidence, sample: 200 }}
  control:     random
  budget:      {{ queries: {queries}, perRound: 20 }}
  training:    {{ epochs: 12, batch: 16, learningRate: 0.02, warmupSteps: 20 }}
  evaluation:  {{ {test}, everyEpochs: 3 }}
  workers:     {{ min: 1, max: 1 }}
"#
    )
}

impl Live {
    pub(super) fn row(&self) -> [String; 4] {
        let Spread { median, min, max } = self.milliseconds;
        let [median, min, max] = [median, min, max].map(|ms| format!("{ms:.0}"));
        [
            format!("the live page after {ROUNDS} rounds of two arms, ms"),
            median,
            min,
            max,
        ]
    }

    pub(super) fn note(&self) -> String {
        format!(
            "The live page: all of it, {:.1} MB with its pictures, over loopback while the job goes on, {LOADS} times; a browser takes some \
             time more to show it. Median of the loads.",
            self.bytes as f64 / 1e6
        )
    }
}
