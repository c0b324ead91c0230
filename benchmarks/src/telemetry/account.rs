//! What metrics and traces take of a training step and of a second of scoring: the time of the very calls, beside the
//! time of what they are made for.

use serde::{Deserialize, Serialize};
use stillhouse_tests::collector::Collector;

use crate::places::Places;
use crate::process::run as run_program;
use crate::statistics::Spread;
use crate::table::Table;

const REPETITIONS: usize = 5;
/// Pairs of the smallest shard that a scan is cut into, and weights at which each is scored.
const SHARD: f64 = 1_024.0;
const LAMBDAS: f64 = 11.0;

/// What `stillhouse-worker bench account` prints.
#[derive(Deserialize)]
struct Calls {
    step_ns: f64,
    command_ns: f64,
}

/// What `stillhouse-worker bench train` prints.
#[derive(Deserialize)]
struct Step {
    step_ms: f64,
}

/// What `stillhouse-worker bench score` prints.
#[derive(Deserialize)]
struct Scored {
    candidates_per_second: f64,
}

/// Parts in percent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Account {
    /// Of a training step of LeNet-5, the quickest that there is.
    pub(super) training: Spread,
    /// Of a second of scoring by LeNet-5.
    pub(super) scoring: Spread,
    /// Microseconds a step, and a command.
    microseconds: [f64; 2],
}

/// Measures calls, steps and scores in turn.
pub(super) fn measure(places: &Places) -> anyhow::Result<Account> {
    let collector = Collector::start();
    let (mut training, mut scoring, mut step_us, mut command_us) = (vec![], vec![], vec![], vec![]);
    for repetition in 1..=REPETITIONS {
        eprintln!("account: {repetition} of {REPETITIONS}");
        let mut account = places.worker()?;
        account.args(["bench", "account"]).envs(collector.environment());
        let calls: Calls = run_program(&mut account)?.json()?;
        let step: Step = run_program(places.worker()?.args(["bench", "train"]))?.json()?;
        let scored: Scored = run_program(places.worker()?.args(["bench", "score"]))?.json()?;
        training.push(100.0 * calls.step_ns / (1e6 * step.step_ms));
        let commands = scored.candidates_per_second / (LAMBDAS * SHARD);
        scoring.push(100.0 * commands * calls.command_ns / 1e9);
        step_us.push(calls.step_ns / 1e3);
        command_us.push(calls.command_ns / 1e3);
    }
    let spread = |figures: Vec<f64>| Spread::of(figures).expect("several repetitions");
    Ok(Account {
        training: spread(training),
        scoring: spread(scoring),
        microseconds: [spread(step_us).median, spread(command_us).median],
    })
}

impl Account {
    pub(super) fn rows(&self, table: &mut Table) {
        for (what, spread) in [
            ("metrics, of a training step, %", self.training),
            ("metrics and traces, of a second of scoring, %", self.scoring),
        ] {
            let figures = [spread.median, spread.min, spread.max].map(|percent| format!("{percent:.3}"));
            table.row([what.to_owned()].into_iter().chain(figures));
        }
    }

    pub(super) fn note(&self) -> String {
        let [step, command] = self.microseconds;
        format!(
            "Of a step and of a second of scoring: the time of the very calls that a worker makes, {step:.1} µs a step (metrics; a \
             step has no span) and {command:.1} µs a command (metrics and a span that is sent to a collector), beside a step of LeNet-5 on \
             128 images and as many shards of {SHARD} pairs, the smallest there are, as LeNet-5 scores in a second. {REPETITIONS} \
             repetitions, two threads."
        )
    }
}
