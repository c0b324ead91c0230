//! Figures over seeds.

use super::studies::{CONTROL, Method, STUDIES};
use crate::mnist::runs::{Point, Runs};
use crate::statistics::Mean;
use crate::table::Table;

/// Accuracies whose price is asked, in percent.
const GOALS: [f64; 3] = [98.5, 99.0, 99.2];

/// A line: a method after so many queries, by seed.
struct Line {
    name: &'static str,
    queries: u64,
    published: Option<&'static str>,
    seeds: Vec<(u64, Point)>,
}

impl Line {
    fn mean(&self, figure: impl Fn(&Point) -> Option<f64>) -> String {
        let figures: Vec<f64> = self.seeds.iter().filter_map(|(_, point)| figure(point)).collect();
        Mean::of(&figures).map_or_else(String::new, |mean| mean.to_string())
    }

    /// What it has above `other` in the last epoch, paired by the seeds that both have.
    fn above(&self, other: &Self) -> String {
        let differences: Vec<f64> = self
            .seeds
            .iter()
            .filter_map(|(seed, own)| {
                let (_, other) = other.seeds.iter().find(|(of, _)| of == seed)?;
                Some(own.last - other.last)
            })
            .collect();
        Mean::of(&differences).map_or_else(String::new, |mean| format!("{mean:+}"))
    }
}

/// Every method at the rounds that have a line, by queries.
fn lines(runs: &Runs) -> Vec<Line> {
    let mut lines = Vec::new();
    for study in &STUDIES {
        for method in study.methods {
            let found = runs.of(study.name, method.name);
            for (round, name) in method.rounds {
                let seeds: Vec<(u64, Point)> = found
                    .iter()
                    .filter_map(|(seed, points)| Some((*seed, *points.iter().find(|point| point.round == *round)?)))
                    .collect();
                let is_last = method.rounds.last().is_some_and(|(last, _)| last == round);
                let Some((_, first)) = seeds.first() else { continue };
                lines.push(Line {
                    name,
                    queries: first.queries,
                    published: method.published.filter(|_| is_last),
                    seeds,
                });
            }
        }
    }
    lines.sort_by_key(|line| line.queries);
    lines
}

/// Accuracy of every method.
pub(super) fn accuracies(runs: &Runs) -> Table {
    let title = "The papers' MNIST setting: 2,000 seed images, LeNet-5 teacher, accuracy in percent";
    let header = [
        "method",
        "queries",
        "published",
        "last epoch",
        "best epoch",
        "above random, strong",
        "above random, same student",
        "a seed",
    ];
    let mut table = Table::new(title, header);
    let lines = lines(runs);
    for line in &lines {
        let named = |name: Option<&str>| {
            let other = lines
                .iter()
                .find(|other| Some(other.name) == name && other.queries == line.queries);
            other.filter(|other| other.name != line.name)
        };
        let above = |name: Option<&str>| named(name).map_or_else(String::new, |other| line.above(other));
        let seeds: Vec<String> = line
            .seeds
            .iter()
            .map(|(_, point)| format!("{:.2}", point.last))
            .collect();
        table.row([
            line.name.to_owned(),
            line.queries.to_string(),
            line.published.unwrap_or_default().to_owned(),
            line.mean(|point| Some(point.last)),
            line.mean(|point| point.best),
            above(Some(CONTROL)),
            above(peer(line.name)),
            seeds.join(" "),
        ]);
    }
    table.note(
        "Means over seeds with 95 % intervals, the differences of last epochs paired by seed. The best epoch is chosen on the test set, as the \
         papers' codes do; the last is what a user gets.",
    );
    table
}

/// Random queries for the same student under the same recipe, from the same job.
fn peer(name: &str) -> Option<&'static str> {
    let is_of = |method: &&Method| method.name == name && !method.is_control;
    let study = STUDIES
        .iter()
        .find(|study| study.methods.iter().any(|method| is_of(&method)))?;
    study
        .methods
        .iter()
        .find(|method| method.is_control)
        .map(|method| method.name)
}

/// Queries that each method needs.
pub(super) fn prices(runs: &Runs) -> Table {
    let [low, middle, high] = GOALS.map(|goal| format!("{goal:.1} %"));
    let mut table = Table::new(
        "Queries after which a seed first reached an accuracy, last epoch",
        ["method", &low, &middle, &high],
    );
    for study in &STUDIES {
        for method in study.methods {
            let found = runs.of(study.name, method.name);
            if found.is_empty() {
                continue;
            }
            let [low, middle, high] = GOALS.map(|goal| {
                let price = |(_, points): &(u64, &[Point])| {
                    let first = points.iter().find(|point| point.last >= goal);
                    first.map_or_else(|| "never".to_owned(), |point| point.queries.to_string())
                };
                found.iter().map(price).collect::<Vec<_>>().join(" ")
            });
            table.row([method.name.to_owned(), low, middle, high]);
        }
    }
    table.note("Counted at the ends of rounds.");
    for machine in runs.machines() {
        table.note(machine);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mnist::runs::{Run, Student};

    fn run(study: &str, seed: u64, students: &[(&str, [f64; 2])]) -> Run {
        let rounds = |last: &[f64; 2]| {
            let point = |(round, last): (u32, &f64)| Point {
                round,
                queries: 2_000 + 6_000 * u64::from(round),
                last: *last,
                best: Some(*last),
                agreement: None,
            };
            [1, 4].into_iter().zip(last).map(point).collect()
        };
        let student = |(method, last): &(&str, [f64; 2])| Student {
            method: (*method).to_owned(),
            rounds: rounds(last),
        };
        Run {
            study: study.to_owned(),
            seed,
            machine: "Machine: a".to_owned(),
            students: students.iter().map(student).collect(),
        }
    }

    #[test]
    fn figures_are_sorted_by_queries_and_held_against_random_of_the_same_seeds() {
        let mut runs = Runs::default();
        let (auto, same) = ("`preset: auto`", "random pairs, ONE, strong");
        runs.put(run("auto", 0, &[(auto, [99.0, 99.5]), (same, [98.75, 99.0])]));
        runs.put(run("auto", 1, &[(auto, [99.0, 99.25]), (same, [98.75, 99.0])]));
        runs.put(run("auto", 7, &[(auto, [90.0, 90.0]), (same, [90.0, 90.0])]));
        runs.put(run("random-strong", 0, &[(CONTROL, [98.0, 99.25])]));
        runs.put(run("random-strong", 1, &[(CONTROL, [98.5, 99.0])]));
        let text = accuracies(&runs).to_string();
        let line = text
            .lines()
            .find(|line| line.contains("auto") && line.contains("26000"))
            .expect("a line");
        assert!(line.contains("+0.25 ± 0.00"), "of seeds 0 and 1 alone: {line}");
        assert!(line.contains("99.50 99.25 90.00"), "{line}");
        assert!(text.find("8000") < text.find("26000"), "{text}");
        let prices = prices(&runs).to_string();
        assert!(prices.contains("26000 26000"), "{prices}");
        assert!(prices.contains("8000 8000 never"), "{prices}");
    }
}
