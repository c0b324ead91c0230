//! Images a second that the Open Inference client sends to a teacher that computes nothing.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::statistics::Spread;
use crate::table::{Table, grouped, verdict};

const REPETITIONS: usize = 5;
/// Images of 28x28 a second of one core, over HTTP with binary tensors and the usual batch.
const GOAL: f64 = 20_000.0;
const GOAL_SETTING: [&str; 3] = ["http", "binary", "64"];

/// A line of what the example prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    protocol: String,
    tensors: String,
    images_per_request: String,
    in_flight: String,
    images_per_second: f64,
    client_cpu_seconds: f64,
    images_per_cpu_second: f64,
}

impl Rate {
    fn is_of_the_goal(&self) -> bool {
        [&self.protocol, &self.tensors, &self.images_per_request] == GOAL_SETTING
    }
}

/// Measures the client and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let mut runs = vec![];
    for repetition in 1..=REPETITIONS {
        eprintln!("repetition {repetition} of {REPETITIONS}");
        let ended = run_program(&mut places.example("stillhouse-teacher", "client_rate")?)?;
        runs.push(read(&ended.stdout)?);
    }
    let table = table(&runs)?;
    places.publish(
        "teacher-client",
        &table,
        &json!({ "machine": Machine::this(), "runs": runs }),
    )
}

/// The rows of the example's table.
fn read(said: &str) -> anyhow::Result<Vec<Rate>> {
    // After the header and its rule.
    let rows = said.lines().filter(|line| line.starts_with('|')).skip(2);
    let rates: Vec<Rate> = rows.map(rate).collect::<anyhow::Result<_>>()?;
    ensure!(
        rates.iter().any(Rate::is_of_the_goal),
        "expected a row for {GOAL_SETTING:?}, found {said:?}"
    );
    Ok(rates)
}

fn rate(line: &str) -> anyhow::Result<Rate> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [protocol, tensors, images, in_flight, wall, seconds, cpu] = cells[..] else {
        anyhow::bail!("expected seven cells, found {line:?}");
    };
    let number = |cell: &str| {
        cell.parse()
            .with_context(|| format!("expected a number, found {cell:?}"))
    };
    Ok(Rate {
        protocol: protocol.to_owned(),
        tensors: tensors.to_owned(),
        images_per_request: images.to_owned(),
        in_flight: in_flight.to_owned(),
        images_per_second: number(wall)?,
        client_cpu_seconds: number(seconds)?,
        images_per_cpu_second: number(cpu)?,
    })
}

/// A row a setting; every run has the same settings in the same order.
fn table(runs: &[Vec<Rate>]) -> anyhow::Result<Table> {
    let header = [
        "protocol",
        "tensors",
        "images a request",
        "in flight",
        "images/s",
        "images a core second",
        "smallest",
        "largest",
    ];
    let mut table = Table::new("Images of 28x28 to a teacher that computes nothing", header);
    for (at, setting) in runs.first().context("at least one run")?.iter().enumerate() {
        let of = |figure: fn(&Rate) -> f64| {
            let figures: Option<Vec<f64>> = runs.iter().map(|run| run.get(at).map(figure)).collect();
            Spread::of(figures.unwrap_or_default()).context("every run has every setting")
        };
        let (wall, cpu) = (
            of(|rate| rate.images_per_second)?,
            of(|rate| rate.images_per_cpu_second)?,
        );
        let names = [
            &setting.protocol,
            &setting.tensors,
            &setting.images_per_request,
            &setting.in_flight,
        ];
        let figures = [wall.median, cpu.median, cpu.min, cpu.max].map(grouped);
        table.row(names.into_iter().cloned().chain(figures));
        if setting.is_of_the_goal() {
            let goal = format!(
                "{} images a second of a core, {}",
                grouped(GOAL),
                GOAL_SETTING.join(", ")
            );
            table.note(verdict(&goal, cpu.median >= GOAL));
        }
    }
    table.note(format!(
        "Medians of {REPETITIONS} runs of the example `client_rate`; client and server are processes of their own. *Images a \
         core second* counts the client's own processor time: what one core sends when the server is not in its way."
    ));
    table.note(Machine::this().line());
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rate: u32) -> String {
        format!(
            "| protocol | tensors | images a request | in flight | images/s | client CPU s | images a CPU second |\n\
             |---|---|---|---|---|---|---|\n\
             | http | json | 64 | 4 | 5000 | 3.00 | 6000 |\n\
             | http | binary | 64 | 4 | 15000 | 3.00 | {rate} |\n"
        )
    }

    #[test]
    fn a_client_below_the_goal_is_a_miss() {
        let of = |rates: [u32; 3]| {
            let runs: Vec<Vec<Rate>> = rates.iter().map(|rate| read(&said(*rate)).unwrap()).collect();
            table(&runs).unwrap().to_string()
        };
        let text = of([19_000, 21_000, 25_000]);
        assert!(text.contains("http, binary, 64: reached."), "{text}");
        assert!(
            text.contains("|   15,000 |               21,000 |   19,000 |  25,000 |"),
            "{text}"
        );
        assert!(of([19_000; 3]).contains("**missed**"));
    }

    #[test]
    fn output_without_the_setting_of_the_goal_is_refused() {
        assert!(
            read(&said(1).replace("binary", "raw"))
                .unwrap_err()
                .to_string()
                .contains("expected a row")
        );
        assert!(rate("| http | 1 |").is_err());
    }
}
