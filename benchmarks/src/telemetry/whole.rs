//! A whole job with everything on, beside the same job with nothing on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use stillhouse_tests::collector::Collector;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::prometheus::get;

use crate::data_set::DataSet;
use crate::mnist::teacher::{Server, Teacher};
use crate::places::Places;
use crate::process::run as run_program;
use crate::statistics::{Spread, interleaved};

const REPETITIONS: usize = 3;
/// How often the metrics are asked for: more often than anybody's Prometheus.
const EVERY: Duration = Duration::from_millis(500);

/// Processor time with everything on, over that with nothing on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    ratio: Spread,
    seconds_on: Vec<f64>,
    seconds_off: Vec<f64>,
}

/// Runs both in turn.
pub(super) fn measure(places: &Places, data: &DataSet, teacher: &Teacher) -> anyhow::Result<Whole> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let file = |name: &str| folder.path().join(name);
    let server = Server::start(places, teacher, &file("bill"), &file("teacher.log"))?;
    let job = file("job.yaml");
    std::fs::write(&job, text(data, server.url())).context("cannot write the job")?;
    let collector = Collector::start();
    let mut count = 0;
    let mut command = |folder: &Path| -> anyhow::Result<Command> {
        count += 1;
        let mut command = places.stillhouse()?;
        command.args(["run", "--quiet", "--workers", "1"]).arg(&job);
        command.arg("--dir").arg(folder.join(format!("job-{count}")));
        Ok(command)
    };
    let command = std::cell::RefCell::new(&mut command);
    let mut off = || {
        eprintln!("whole: nothing on");
        let mut command = command.borrow_mut()(folder.path())?;
        Ok(run_program(&mut command)?.processor.as_secs_f64())
    };
    let mut on = || {
        eprintln!("whole: everything on");
        let (metrics, web) = (free_address(), free_address());
        let mut command = command.borrow_mut()(folder.path())?;
        command.arg("--metrics-listen").arg(metrics.to_string());
        command.arg(format!("--web={web}")).envs(collector.environment());
        watched(metrics, web, || Ok(run_program(&mut command)?.processor.as_secs_f64()))
    };
    let [seconds_on, seconds_off] = interleaved(REPETITIONS, &mut [&mut on, &mut off])?
        .try_into()
        .expect("two contestants");
    let ratio = Spread::of_ratios(&seconds_on, &seconds_off).context("no repetition")?;
    Ok(Whole {
        ratio,
        seconds_on,
        seconds_off,
    })
}

/// Does `work` while somebody has the live page open and somebody else asks for metrics again and again.
fn watched<T>(metrics: SocketAddr, web: SocketAddr, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Before the job listens and after it has ended, nobody answers.
                let _told = get(metrics, "/metrics");
                std::thread::sleep(EVERY);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Ends with the job.
                let _changes = get(web, "/changes");
                std::thread::sleep(EVERY);
            }
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

/// Two rounds that score a million candidates each, and train for some seconds.
fn text(data: &DataSet, url: &str) -> String {
    let (images, test) = (data.seed_images(500, 0), data.evaluation());
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: telemetry }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5 }}
  budget:      {{ queries: 2500, perRound: 1000 }}
  training:    {{ epochs: 60, batch: 64, learningRate: 0.02, warmupSteps: 50 }}
  evaluation:  {{ {test}, everyEpochs: 10 }}
  workers:     {{ min: 1, max: 1 }}
"#
    )
}

impl Whole {
    pub(super) fn row(&self) -> [String; 4] {
        let Spread { median, min, max } = self.ratio;
        let [median, min, max] = [median, min, max].map(|ratio| format!("{ratio:.3}"));
        ["a whole job's processor time, on / off".to_owned(), median, min, max]
    }

    pub(super) fn note(&self) -> String {
        let seconds = Spread::of(self.seconds_off.iter().copied()).map_or(0.0, |spread| spread.median);
        format!(
            "A whole job: LeNet-5 on MNIST, two rounds, {seconds:.0} s of processor time of `stillhouse run` and its worker with nothing \
             on. On: metrics asked for every {} ms, the live page open, traces of all processes sent to a collector. {REPETITIONS} \
             interleaved repetitions; the ratio is of runs side by side, and repetitions of one kind differ by as much.",
            EVERY.as_millis()
        )
    }
}
