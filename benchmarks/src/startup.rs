//! From the start of a process to its first score and its end, beside Python.

use std::process::Command;

use anyhow::ensure;
use serde::Deserialize;
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::python;
use crate::statistics::{Spread, interleaved};
use crate::table::{Table, verdict};

const REPETITIONS: usize = 10;
/// Times faster than Python with PyTorch.
const GOAL: f64 = 5.0;

/// Measures both programs and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let mut ours = || seconds(places.worker()?.args(["bench", "first-score"]));
    let mut theirs = || seconds(&mut python::peer(places, "first_score_peer.py")?);
    // The first runs read libtorch from the disk and write Python's bytecode: nobody's speed.
    interleaved(1, &mut [&mut ours, &mut theirs])?;
    eprintln!("{REPETITIONS} repetitions, interleaved");
    let results = interleaved(REPETITIONS, &mut [&mut ours, &mut theirs])?;
    let table = table(&results[0], &results[1]);
    let data = json!({ "machine": Machine::this(), "stillhouseSeconds": results[0], "pythonSeconds": results[1] });
    places.publish("startup", &table, &data)
}

/// What both programs print.
#[derive(Deserialize)]
struct First {
    score: f64,
}

/// Seconds of a whole process that prints a score.
fn seconds(command: &mut Command) -> anyhow::Result<f64> {
    let ended = run_program(command)?;
    let First { score } = ended.json()?;
    // The highest of ten probabilities.
    ensure!(
        (0.1..=1.0).contains(&score),
        "expected a score of 0.1 to 1, found {score}"
    );
    Ok(ended.wall.as_secs_f64())
}

fn table(ours: &[f64], theirs: &[f64]) -> Table {
    let mut table = Table::new(
        "A process that scores one pair of images with LeNet-5",
        ["program", "ms", "ratio"],
    );
    let median = |seconds: &[f64]| {
        Spread::of(seconds.iter().map(|s| 1e3 * s))
            .expect("at least one repetition")
            .median
    };
    let faster = Spread::of_ratios(theirs, ours).expect("at least one repetition");
    table.row([
        "stillhouse-worker".to_owned(),
        format!("{:.0}", median(ours)),
        faster.as_ratio(),
    ]);
    table.row([
        "python3, import torch".to_owned(),
        format!("{:.0}", median(theirs)),
        "1".to_owned(),
    ]);
    table.note(verdict(&format!("{GOAL} times faster"), faster.median >= GOAL));
    table.note(format!(
        "Whole processes, files in the page cache, medians of {REPETITIONS} interleaved repetitions after one that does not \
         count; ratios are of runs side by side, with the smallest and the largest."
    ));
    table.note(Machine::this().line());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_score_has_no_time() {
        let print = |text| seconds(Command::new("echo").arg(text));
        assert!(print("{\"score\": 0.25}").unwrap() > 0.0);
        assert!(print("").is_err() && print("{\"score\": 1.5}").is_err());
    }

    #[test]
    fn the_ratio_says_how_many_times_faster_we_are() {
        let text = table(&[0.2, 0.25], &[1.6, 1.75]).to_string();
        assert!(text.contains("225 |") && text.contains("7.50 (7.00 to 8.00)"), "{text}");
        assert!(text.contains("5 times faster: reached."), "{text}");
        assert!(table(&[1.0], &[2.0]).to_string().contains("missed"));
    }
}
