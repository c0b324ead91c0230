//! What was run, kept as JSON in the repository: a later call adds seeds and studies to it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::mnist::summary::{Arm, Round};
use crate::process::read;

/// All jobs so far, in order of study and seed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::mnist) struct Runs {
    runs: Vec<Run>,
}

/// A finished job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::mnist) struct Run {
    pub(in crate::mnist) study: String,
    pub(in crate::mnist) seed: u64,
    /// Where it ran.
    pub(in crate::mnist) machine: String,
    pub(in crate::mnist) students: Vec<Student>,
}

/// One of its students.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::mnist) struct Student {
    pub(in crate::mnist) method: String,
    pub(in crate::mnist) rounds: Vec<Point>,
}

/// A student after a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::mnist) struct Point {
    /// From 0, which is the seed images alone.
    pub(in crate::mnist) round: u32,
    /// Queries up to then, seed images included.
    pub(in crate::mnist) queries: u64,
    /// Test accuracy in percent, after the last epoch.
    pub(in crate::mnist) last: f64,
    /// And after the best one, where that was kept.
    pub(in crate::mnist) best: Option<f64>,
    /// With the teacher on the test images, in percent.
    pub(in crate::mnist) agreement: Option<f64>,
}

impl Runs {
    /// What `NAME.json` in `folder` holds; nothing where there is none.
    pub(in crate::mnist) fn load(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let path = folder.join(format!("{name}.json"));
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = read(&path)?;
        serde_json::from_str(&text).with_context(|| format!("expected runs in {}", path.display()))
    }

    /// Takes in a job, in place of an earlier one of its study and seed.
    pub(in crate::mnist) fn put(&mut self, run: Run) {
        self.runs
            .retain(|known| (&known.study, known.seed) != (&run.study, run.seed));
        self.runs.push(run);
        self.runs.sort_by(|a, b| (&a.study, a.seed).cmp(&(&b.study, b.seed)));
    }

    /// The rounds of `method` by seed, in order of seeds.
    pub(in crate::mnist) fn of<'a>(&'a self, study: &str, method: &str) -> Vec<(u64, &'a [Point])> {
        let runs = self.runs.iter().filter(|run| run.study == study);
        let student = |run: &'a Run| {
            let student = run.students.iter().find(|student| student.method == method)?;
            Some((run.seed, &*student.rounds))
        };
        runs.filter_map(student).collect()
    }

    /// Seeds of any job.
    pub(in crate::mnist) fn seeds(&self) -> BTreeSet<u64> {
        self.runs.iter().map(|run| run.seed).collect()
    }

    /// Every machine that something ran on.
    pub(in crate::mnist) fn machines(&self) -> Vec<&str> {
        let mut machines: Vec<&str> = self.runs.iter().map(|run| &*run.machine).collect();
        machines.sort_unstable();
        machines.dedup();
        machines
    }
}

impl Run {
    /// A job of `study` with `seed` that ended here.
    pub(in crate::mnist) fn new(study: &str, seed: u64, students: Vec<Student>) -> Self {
        Self {
            study: study.to_owned(),
            seed,
            machine: Machine::this().line(),
            students,
        }
    }
}

impl Student {
    /// `arm` as the student of `method`.
    pub(in crate::mnist) fn new(method: &str, arm: &Arm) -> anyhow::Result<Self> {
        Ok(Self {
            method: method.to_owned(),
            rounds: arm.rounds.iter().map(Point::of).collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Point {
    fn of(round: &Round) -> anyhow::Result<Self> {
        let found = round.accuracy.context("the test labels are known")?;
        Ok(Self {
            round: round.round,
            queries: round.queries_total,
            last: percent(found.last),
            best: Some(percent(found.best)),
            agreement: round.agreement.map(percent),
        })
    }
}

/// To a hundredth, as accuracies over 10,000 images are.
fn percent(fraction: f64) -> f64 {
    (fraction * 10_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(study: &str, seed: u64, last: f64) -> Run {
        let point = Point {
            round: 1,
            queries: 8_000,
            last,
            best: None,
            agreement: None,
        };
        Run {
            study: study.to_owned(),
            seed,
            machine: "here".to_owned(),
            students: vec![Student {
                method: "m".to_owned(),
                rounds: vec![point],
            }],
        }
    }

    #[test]
    fn a_later_call_adds_and_replaces_and_drops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = Runs::load(folder.path(), "papers").unwrap();
        for (study, seed, last) in [("b", 1, 98.0), ("a", 0, 97.0), ("b", 0, 96.0), ("b", 1, 99.0)] {
            runs.put(run(study, seed, last));
        }
        std::fs::write(folder.path().join("papers.json"), serde_json::to_string(&runs).unwrap()).unwrap();
        let runs = Runs::load(folder.path(), "papers").unwrap();
        let lasts = |study| -> Vec<(u64, f64)> {
            let found = runs.of(study, "m");
            found.into_iter().map(|(seed, rounds)| (seed, rounds[0].last)).collect()
        };
        assert_eq!(lasts("b"), [(0, 96.0), (1, 99.0)]);
        assert_eq!(lasts("a"), [(0, 97.0)]);
        assert_eq!(runs.machines(), ["here"]);
        std::fs::write(folder.path().join("papers.json"), "{}").unwrap();
        assert!(
            Runs::load(folder.path(), "papers").is_err(),
            "another file is not taken for no runs"
        );
    }
}
