//! What it costs that processes die: a worker or the coordinator, killed in the middle of a training.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::cli::DataArgs;
use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::mnist::teacher::{Recipe, Server, Teacher};
use crate::places::Places;
use crate::process::Running;
use crate::statistics::Spread;
use crate::table::{Table, verdict};

const REPETITIONS: usize = 10;
/// Any secret will do: the processes are of one machine.
const TOKEN: &str = "7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a training is left alone between two blows, so that a newcomer is let in.
const REST: Duration = Duration::from_millis(2_500);
/// Seconds: a killed worker must be missed, and the next step be applied, by then.
const GOALS: [f64; 3] = [2.0, 5.0, 5.0];

/// Measures both and publishes the table.
pub(crate) fn run(places: &Places, args: &DataArgs) -> anyhow::Result<()> {
    let data = DataSet::mnist(places, args)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let file = |name: &str| folder.path().join(name);
    let server = Server::start(places, &teacher, &file("bill"), &file("teacher.log"))?;
    let job = file("job.yaml");
    std::fs::write(&job, text(&data, server.url())).context("cannot write the job")?;
    let mut cluster = Cluster::start(places, &job, file("job"))?;
    let mut figures = Figures::default();
    for repetition in 0..REPETITIONS {
        eprintln!("{} of {REPETITIONS}", repetition + 1);
        cluster.lose_a_worker(places, &mut figures)?;
        cluster.lose_the_coordinator(places, &job, &mut figures)?;
    }
    let data = json!({
        "machine": Machine::this(),
        "missedSeconds": figures.missed,
        "nextStepSeconds": figures.next_step,
        "newcomerSeconds": figures.newcomer,
        "coordinatorSeconds": figures.coordinator,
    });
    places.publish("elastic", &figures.table()?, &data)
}

/// A training that never ends.
fn text(data: &DataSet, url: &str) -> String {
    let images = data.seed_images(2_000, 0);
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: elastic }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5 }}
  budget:      {{ queries: 2010, perRound: 10 }}
  training:    {{ epochs: 100000, batch: 128, learningRate: 0.01 }}
  workers:     {{ min: 2, max: 2 }}
  checkpoints: {{ everySeconds: 1 }}
"#
    )
}

/// Seconds of each repetition.
#[derive(Default)]
struct Figures {
    missed: Vec<f64>,
    next_step: Vec<f64>,
    newcomer: Vec<f64>,
    coordinator: Vec<f64>,
}

impl Figures {
    fn table(&self) -> anyhow::Result<Table> {
        let mut table = Table::new(
            "Processes killed (SIGKILL) in the middle of a training of two workers",
            ["what", "median s", "smallest", "largest"],
        );
        let rows = [
            ("a worker is killed: until the coordinator knows", &self.missed),
            (
                "until the other has applied a further step and told of it",
                &self.next_step,
            ),
            ("its replacement is started: until it trains too", &self.newcomer),
            (
                "the coordinator is killed and started: until both train again",
                &self.coordinator,
            ),
        ];
        for (what, seconds) in rows {
            let Spread { median, min, max } = Spread::of(seconds.iter().copied()).context("no repetition")?;
            table.row([
                what.to_owned(),
                format!("{median:.2}"),
                format!("{min:.2}"),
                format!("{max:.2}"),
            ]);
        }
        let worst = |seconds: &[f64]| seconds.iter().copied().fold(0.0, f64::max);
        let [missed, step, back] = GOALS;
        table.note(verdict(
            &format!("missed within {missed} s"),
            worst(&self.missed) <= missed,
        ));
        table.note(verdict(
            &format!("next step within {step} s"),
            worst(&self.next_step) <= step,
        ));
        table.note(verdict(
            &format!("workers idle at most {back} s after the coordinator's restart"),
            worst(&self.coordinator) <= back,
        ));
        table.note(format!(
            "LeNet-5 on 2,000 images, {REPETITIONS} repetitions on one training, times of the job's event log. A worker tells \
             of its steps five times a second. The last row begins when the new coordinator is started, and includes \
             everything that it does first: reading images and ledger, asking the teacher who it is."
        ));
        table.note(Machine::this().line());
        Ok(table)
    }
}

/// A coordinator and two workers, as processes.
struct Cluster {
    coordinator: Running,
    workers: [Running; 2],
    address: String,
    dir: PathBuf,
}

impl Cluster {
    fn start(places: &Places, job: &Path, dir: PathBuf) -> anyhow::Result<Self> {
        // Free a moment ago; whoever takes it meanwhile makes the coordinator say so.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let cluster = Self {
            coordinator: coordinator(places, job, &dir, &address)?,
            workers: [worker(places, &address)?, worker(places, &address)?],
            address,
            dir,
        };
        cluster.wait(0, "training")?;
        Ok(cluster)
    }

    fn lose_a_worker(&mut self, places: &Places, figures: &mut Figures) -> anyhow::Result<()> {
        std::thread::sleep(REST);
        let (seen, begun) = (self.events().len(), now());
        self.workers[1].kill();
        figures.missed.push(self.wait(seen, "worker-lost")? - begun);
        figures.next_step.push(self.wait(seen, "training")? - begun);
        std::thread::sleep(REST);
        let (seen, begun) = (self.events().len(), now());
        self.workers[1] = worker(places, &self.address)?;
        figures.newcomer.push(self.wait(seen, "training")? - begun);
        Ok(())
    }

    fn lose_the_coordinator(&mut self, places: &Places, job: &Path, figures: &mut Figures) -> anyhow::Result<()> {
        std::thread::sleep(REST);
        self.coordinator.kill();
        let (seen, begun) = (self.events().len(), now());
        self.coordinator = coordinator(places, job, &self.dir, &self.address)?;
        let mut trains = self.wait(seen, "training")?;
        // The first to come back trains alone until the second is let in.
        let is_alone = self.events()[seen..]
            .iter()
            .filter(|event| event["event"] == "worker-joined")
            .count()
            < 2;
        if is_alone {
            trains = self.wait(self.events().len(), "training")?;
        }
        figures.coordinator.push(trains - begun);
        let events = self.events();
        let (before, after) = events.split_at(seen);
        let far = |events: &[Value]| events.iter().filter_map(|event| event["step"].as_u64()).max();
        let trained = after.iter().find(|event| event["event"] == "training");
        let step = trained.and_then(|event| event["step"].as_u64());
        ensure!(
            step >= far(before),
            "a training that was at {:?} went on at {step:?}",
            far(before)
        );
        Ok(())
    }

    /// The moment of the first event called `name` after the first `seen` ones.
    fn wait(&self, seen: usize, name: &str) -> anyhow::Result<f64> {
        let begun = now();
        while now() - begun < PATIENCE.as_secs_f64() {
            let events = self.events();
            let mut new = events.iter().skip(seen);
            if let Some(event) = new.find(|event| event["event"] == name) {
                return event["unixMs"]
                    .as_f64()
                    .map(|ms| ms / 1e3)
                    .context("an event without a time");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("waited {PATIENCE:?} for {name:?} in {}", self.dir.display())
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("events.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

fn coordinator(places: &Places, job: &Path, dir: &Path, address: &str) -> anyhow::Result<Running> {
    let mut command = places.stillhouse()?;
    command.arg("coordinator").arg(job).arg("--dir").arg(dir);
    command.args(["--quiet", "--listen", address]);
    started(command)
}

fn worker(places: &Places, address: &str) -> anyhow::Result<Running> {
    let mut command = places.worker()?;
    command.args(["worker", "--threads", "1", "--coordinator", address]);
    started(command)
}

fn started(mut command: Command) -> anyhow::Result<Running> {
    Running::silent(command.env("STILLHOUSE_TOKEN", TOKEN))
}

/// Seconds since 1970, as the event log counts them.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}
