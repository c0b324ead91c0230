//! Which jobs the tables are made of, and which students of them have a line.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::mnist::job::Setting;
use crate::mnist::runs::{Run, Student};
use crate::mnist::summary::Summary;
use crate::process::read;

/// Images that a user has.
pub(super) const SEED_IMAGES: u32 = 2_000;
/// What the others are held against, at equal queries.
pub(super) const CONTROL: &str = "random pairs, strong";

/// A job and the methods that its students are.
pub(super) struct Study {
    pub(super) name: &'static str,
    /// The lines of its spec that make the strategy.
    strategy: &'static str,
    per_round: u32,
    rounds: u32,
    pub(super) methods: &'static [Method],
}

/// A student of a job.
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) is_control: bool,
    /// Rounds that have a line of their own, with its name.
    pub(super) rounds: &'static [(u32, &'static str)],
    /// What the paper has after the last of them, in percent.
    pub(super) published: Option<&'static str>,
}

pub(super) const STUDIES: [Study; 5] = [
    Study {
        name: "fs-bbt-half",
        strategy: "preset: fs-bbt\n  student: { architecture: lenet5-half }",
        per_round: 24_000,
        rounds: 1,
        methods: &[Method {
            name: "FS-BBT, half the student",
            is_control: false,
            rounds: &[
                (0, "plain distillation, FS-BBT's training, half the student"),
                (1, "FS-BBT, half the student"),
            ],
            published: Some("98.42"),
        }],
    },
    Study {
        name: "fs-bbt",
        strategy: "preset: fs-bbt\n  student: { architecture: lenet5 }",
        per_round: 24_000,
        rounds: 1,
        methods: &[Method {
            name: "FS-BBT",
            is_control: false,
            rounds: &[(0, "plain distillation, FS-BBT's training"), (1, "FS-BBT")],
            published: Some("98.91"),
        }],
    },
    Study {
        name: "random-strong",
        strategy: "student: { architecture: lenet5 }\n  acquisition: { score: random }\n  training: { recipe: strong }",
        per_round: 6_000,
        rounds: 4,
        methods: &[Method {
            name: CONTROL,
            is_control: false,
            rounds: &[(1, CONTROL), (4, CONTROL)],
            published: None,
        }],
    },
    Study {
        name: "auto",
        strategy: "preset: auto\n  student: { architecture: lenet5 }\n  control: random",
        per_round: 6_000,
        rounds: 4,
        methods: &[
            Method {
                name: "random pairs, ONE, strong",
                is_control: true,
                rounds: &[(1, "random pairs, ONE, strong"), (4, "random pairs, ONE, strong")],
                published: None,
            },
            Method {
                name: "`preset: auto`",
                is_control: false,
                rounds: &[(1, "`preset: auto`"), (4, "`preset: auto`")],
                published: None,
            },
        ],
    },
    // The job of the `mnist` command, which is not run twice.
    Study {
        name: "mnist",
        strategy: "",
        per_round: 6_000,
        rounds: 4,
        methods: &[
            Method {
                name: "random pairs, short schedule",
                is_control: true,
                rounds: &[(1, "random pairs, short schedule"), (4, "random pairs, short schedule")],
                published: None,
            },
            Method {
                name: "Active Mixup, short schedule",
                is_control: false,
                rounds: &[(1, "Active Mixup, short schedule"), (4, "Active Mixup, short schedule")],
                published: Some("98.74"),
            },
        ],
    },
];

impl Study {
    /// The job file of `seed` for a teacher at `url`.
    pub(super) fn job(&self, data: &DataSet, url: &str, seed: u64) -> String {
        if self.strategy.is_empty() {
            return Setting::PUBLISHED.job(data, url, seed);
        }
        let Self {
            name,
            strategy,
            per_round,
            rounds,
            ..
        } = self;
        let arms = if strategy.contains("control: random") { 2 } else { 1 };
        let queries = SEED_IMAGES + arms * rounds * per_round;
        let (images, test) = (data.seed_images(SEED_IMAGES, seed), data.evaluation());
        // Beside a recipe that the strategy names.
        let strategy = match strategy
            .strip_suffix(" }")
            .filter(|_| strategy.ends_with("recipe: strong }"))
        {
            Some(open) => format!("{open}, seed: {seed} }}"),
            None => format!("{strategy}\n  training: {{ seed: {seed} }}"),
        };
        format!(
            r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: papers-{name}-{seed} }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  {strategy}
  budget:      {{ queries: {queries}, perRound: {per_round} }}
  evaluation:  {{ {test}, everyEpochs: 10 }}
"#
        )
    }

    /// The students of a finished job.
    pub(super) fn students(&self, summary: &Summary) -> anyhow::Result<Vec<Student>> {
        let student = |method: &Method| {
            let arm = match method.is_control {
                true => summary.control.as_ref().context("a job with a control")?,
                false => &summary.active,
            };
            Student::new(method.name, arm)
        };
        self.methods.iter().map(student).collect()
    }

    /// What the `mnist` command left of this job among `results`, where it is that one's and was run there.
    ///
    /// # Errors
    /// When the results cannot be read.
    pub(super) fn kept(&self, results: &Path, seed: u64) -> anyhow::Result<Option<Run>> {
        let file = results.join(format!("{}.summary.json", self.run_name(seed)));
        if !self.strategy.is_empty() || !file.exists() {
            return Ok(None);
        }
        let summary = Summary::parse(&read(&file)?)?;
        let report = results.join(format!("{}.json", Setting::PUBLISHED.name));
        let ReportPart { machine } =
            serde_json::from_str(&read(&report)?).with_context(|| format!("cannot read {}", report.display()))?;
        Ok(Some(Run {
            study: self.name.to_owned(),
            seed,
            machine: machine.line(),
            students: self.students(&summary)?,
        }))
    }

    /// Of its job's directory.
    pub(super) fn run_name(&self, seed: u64) -> String {
        match self.strategy {
            "" => format!("{}-seed-{seed}", Setting::PUBLISHED.name),
            _ => format!("papers-{}-seed-{seed}", self.name),
        }
    }
}

/// Of the report of the `mnist` command.
#[derive(Deserialize)]
struct ReportPart {
    machine: Machine,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Places;
    use stillhouse_core::job::Job;
    use stillhouse_core::plan::Plan;

    #[test]
    fn every_job_is_valid_and_every_student_asks_twenty_six_thousand() {
        for study in &STUDIES {
            let text = study.job(&DataSet::unchecked("/data"), "http://127.0.0.1:4000", 3);
            let job = Job::parse(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", study.name));
            let plan = Plan::new(&job, SEED_IMAGES).expect("budget");
            assert_eq!(plan.rounds().iter().sum::<u64>(), 24_000, "{}", study.name);
            assert_eq!(plan.queries(), job.spec.budget.queries, "no query is left over");
            assert_eq!((job.spec.images.seed, job.spec.training.seed), (3, 3));
            let rounds = plan.rounds().len() as u32;
            let ends_at = |method: &Method| method.rounds.last().map(|(round, _)| *round);
            assert!(study.methods.iter().all(|method| ends_at(method) == Some(rounds)));
            let is_controlled = job.arms().len() == 2;
            assert!(study.methods.iter().all(|method| is_controlled || !method.is_control));
        }
    }

    #[test]
    fn what_the_mnist_command_left_is_not_run_again() {
        let results = Places::find().expect("a repository").results();
        let study = STUDIES.iter().find(|study| study.name == "mnist").expect("there");
        let run = study.kept(&results, 0).expect("readable").expect("it was run");
        let last = |at: usize| run.students[at].rounds.last().expect("rounds");
        assert_eq!(
            [last(0), last(1)].map(|point| (point.round, point.queries)),
            [(4, 26_000); 2]
        );
        assert!(study.kept(&results, 99).expect("readable").is_none());
        assert!(STUDIES[0].kept(&results, 0).expect("readable").is_none());
    }
}
