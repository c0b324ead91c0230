//! Training steps a second, beside PyTorch eager.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::python;
use crate::statistics::{Spread, interleaved};
use crate::table::{Table, grouped, verdict};

const REPETITIONS: usize = 5;
const THREADS: &str = "2";
const BATCH: &str = "128";
/// Networks and the steps that make a few seconds.
const NETWORKS: [(&str, u32); 2] = [("lenet5", 200), ("resnet20", 20)];
/// Virtual shards: a job's default for up to two workers, and for more.
const SHARDS: [&str; 2] = ["2", "4"];
/// At least as fast as PyTorch, with the default.
const GOAL: f64 = 1.0;

/// What `stillhouse-worker bench train` and its peer print.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Speed {
    step_ms: f64,
    images_per_second: f64,
    /// The fastest way to train, where the program tried several.
    combination: Option<String>,
}

/// Measures both networks and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let header = [
        "network, shards",
        "Stillhouse ms",
        "images/s",
        "PyTorch ms",
        "images/s",
        "ratio",
    ];
    let mut table = Table::new(
        "A training step: batch 128, SGD with momentum, soft labels, two threads",
        header,
    );
    let mut networks = Vec::new();
    for (architecture, steps) in NETWORKS {
        eprintln!("{architecture}: {REPETITIONS} repetitions, interleaved");
        let [two, four, theirs] = measure(places, architecture, steps)?;
        for (shards, ours) in SHARDS.into_iter().zip([two, four]) {
            networks.push(summarize((architecture, shards), &ours, &theirs, &mut table));
        }
    }
    table.note(format!(
        "Medians of {REPETITIONS} interleaved repetitions, each the median of its steps; the ratio is of runs side by side, \
         with the smallest and the largest. Stillhouse adds its gradients in virtual shards, so that a student is \
         bit-identical for any number of workers: two where a job's workers.max is at most two (the default), else four. \
         PyTorch eager has the faster of both memory formats and of its plain and fused optimiser."
    ));
    table.note(Machine::this().line());
    places.publish(
        "training",
        &table,
        &json!({ "machine": Machine::this(), "networks": networks }),
    )
}

fn measure(places: &Places, architecture: &str, steps: u32) -> anyhow::Result<[Vec<Speed>; 3]> {
    let steps = steps.to_string();
    let settings = [
        "--architecture",
        architecture,
        "--batch",
        BATCH,
        "--threads",
        THREADS,
        "--steps",
        &steps,
    ];
    let ours = |shards| {
        let mut command = places.worker()?;
        command.args(["bench", "train", "--shards", shards]).args(settings);
        run_program(&mut command)?.json()
    };
    let results = interleaved(
        REPETITIONS,
        &mut [&mut || ours(SHARDS[0]), &mut || ours(SHARDS[1]), &mut || {
            run_program(python::peer(places, "training_peer.py")?.args(settings))?.json()
        }],
    )?;
    Ok(results.try_into().expect("three contestants"))
}

/// Adds the network's row, and its goal, to the table; returns its part of the JSON.
fn summarize(
    (architecture, shards): (&str, &str),
    ours: &[Speed],
    theirs: &[Speed],
    table: &mut Table,
) -> serde_json::Value {
    let rates = |speeds: &[Speed]| speeds.iter().map(|speed| speed.images_per_second).collect::<Vec<_>>();
    let cells = |speeds: &[Speed]| {
        let step = Spread::of(speeds.iter().map(|speed| speed.step_ms)).expect("at least one repetition");
        let rate = Spread::of(rates(speeds)).expect("at least one repetition");
        [format!("{:.2}", step.median), grouped(rate.median)]
    };
    let ratio = Spread::of_ratios(&rates(ours), &rates(theirs)).expect("at least one repetition");
    let name = [format!("{architecture}, {shards}")];
    table.row(
        name.into_iter()
            .chain(cells(ours))
            .chain(cells(theirs))
            .chain([ratio.as_ratio()]),
    );
    if shards == SHARDS[0] {
        table.note(verdict(
            &format!("{architecture} at least as fast as PyTorch"),
            ratio.median >= GOAL,
        ));
    }
    json!({ "architecture": architecture, "shards": shards, "stillhouse": ours, "pytorch": theirs, "ratio": ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(step_ms: f64) -> Speed {
        Speed {
            step_ms,
            images_per_second: 128e3 / step_ms,
            combination: None,
        }
    }

    #[test]
    fn a_ratio_above_one_means_that_we_are_faster() {
        let mut table = Table::new("Speed", ["", "ms", "images/s", "ms", "images/s", "ratio"]);
        let data = summarize(("lenet5", "2"), &[speed(8.0)], &[speed(10.0)], &mut table);
        let text = table.to_string();
        assert!(
            text.contains("8.00 |   16,000 | 10.00 |   12,800 | 1.25 (1.25 to 1.25)"),
            "{text}"
        );
        assert!(text.contains("reached") && data["ratio"]["median"] == 1.25, "{text}");
        summarize(("lenet5", "2"), &[speed(11.0)], &[speed(10.0)], &mut table);
        assert!(table.to_string().contains("missed"));
    }
}
