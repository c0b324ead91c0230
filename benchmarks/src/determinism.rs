//! What it costs that a student has the same bits for any number of workers, and that a training can
//! be taken up again.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::statistics::{Spread, interleaved};
use crate::table::{Table, verdict};

const REPETITIONS: usize = 7;
/// Networks and the steps that make a few seconds.
const NETWORKS: [(&str, u32); 2] = [("lenet5", 400), ("resnet20", 30)];
/// Strict at most this many times as slow as fast.
const GOAL: f64 = 1.10;
/// Writing the state down at most this part of a training's time.
const STATE_GOAL: f64 = 0.01;
/// Milliseconds between two checkpoints, by default.
const CHECKPOINTS: f64 = 30_000.0;

/// What `stillhouse-worker bench train` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Speed {
    step_ms: f64,
    state_ms: f64,
}

/// Measures both networks and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let mut table = Table::new(
        "A training step of two ranks over loopback, one thread each: batch 128, two virtual shards",
        [
            "network",
            "strict ms",
            "fast ms",
            "strict / fast",
            "a checkpoint's state, ms",
        ],
    );
    let mut networks = Vec::new();
    for (architecture, steps) in NETWORKS {
        eprintln!("{architecture}: {REPETITIONS} repetitions, interleaved");
        let steps = steps.to_string();
        let measure = |fast: bool| -> anyhow::Result<Speed> {
            let mut command = places.worker()?;
            command.args(["bench", "train", "--ranks", "2", "--threads", "1", "--steps", &steps]);
            command.args(["--architecture", architecture]);
            if fast {
                command.arg("--fast");
            }
            run_program(&mut command)?.json()
        };
        let results = interleaved(REPETITIONS, &mut [&mut || measure(false), &mut || measure(true)])?;
        networks.push(summarize(architecture, &results[0], &results[1], &mut table));
    }
    table.note(format!(
        "Medians of {REPETITIONS} interleaved repetitions, each the median of its steps; the ratio is of runs side by side, with \
         the smallest and the largest. Strict gathers the gradients and adds them in one order, fast adds them by an \
         all-reduce. The state is written down every 30 s by default; nothing else of a step is there for the sake of ranks \
         that come and go."
    ));
    table.note(Machine::this().line());
    let data = json!({ "machine": Machine::this(), "networks": networks });
    places.publish("determinism", &table, &data)
}

/// Adds the network's row, and its goals, to the table; returns its part of the JSON.
fn summarize(architecture: &str, strict: &[Speed], fast: &[Speed], table: &mut Table) -> serde_json::Value {
    let steps = |speeds: &[Speed]| speeds.iter().map(|speed| speed.step_ms).collect::<Vec<_>>();
    let median = |figures: Vec<f64>| Spread::of(figures).expect("at least one repetition").median;
    let ratio = Spread::of_ratios(&steps(strict), &steps(fast)).expect("at least one repetition");
    let state = median(strict.iter().chain(fast).map(|speed| speed.state_ms).collect());
    table.row([
        architecture.to_owned(),
        format!("{:.2}", median(steps(strict))),
        format!("{:.2}", median(steps(fast))),
        ratio.as_ratio(),
        format!("{state:.1}"),
    ]);
    table.note(verdict(
        &format!(
            "{architecture}: strict at most {:.0} % slower than fast",
            100.0 * (GOAL - 1.0)
        ),
        ratio.median <= GOAL,
    ));
    table.note(verdict(
        &format!(
            "{architecture}: checkpoints at most {:.0} % of the time",
            100.0 * STATE_GOAL
        ),
        state / CHECKPOINTS <= STATE_GOAL,
    ));
    json!({ "architecture": architecture, "strict": strict, "fast": fast, "ratio": ratio, "stateMs": state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_step_that_is_much_slower_misses_the_goal() {
        let speed = |step_ms| Speed { step_ms, state_ms: 2.0 };
        let mut table = Table::new("Speed", ["", "ms", "ms", "ratio", "ms"]);
        let data = summarize("lenet5", &[speed(12.0)], &[speed(10.0)], &mut table);
        let text = table.to_string();
        assert!(
            text.contains("1.20") && text.contains("10 % slower than fast: **missed**"),
            "{text}"
        );
        assert!(text.contains("1 % of the time: reached"), "{text}");
        assert_eq!(data["stateMs"], 2.0);
    }
}
