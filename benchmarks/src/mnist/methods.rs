//! Ways to choose and to train, side by side on MNIST at equal queries: 2,000 seed images and one round
//! of 6,000, LeNet-5 to LeNet-5, over seeds. Random under the strong recipe is what the others are
//! held against.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::cli::MethodsArgs;
use crate::mnist::runs::{Run, Runs, Student};
use crate::mnist::summary::Summary;
use crate::mnist::teacher::{Recipe, Teacher};
use crate::mnist::{JobRun, check_names, is_wanted};
use crate::places::{Mnist, Places, publish_in, quoted};
use crate::statistics::Mean;
use crate::table::Table;

const SEED_IMAGES: u32 = 2_000;
const PER_ROUND: u32 = 6_000;
/// What the differences are taken to.
const CONTROL: &str = "random, plain";

/// A job whose students are two methods, or one.
struct Pairing {
    name: &'static str,
    /// What follows the architecture in the job file.
    student: &'static str,
    recipe: &'static str,
    /// `spec.acquisition`, and the name of the method that it makes; random when absent.
    active: Option<(&'static str, &'static str)>,
    /// Name of the method that random pairs make, if they are run.
    random: Option<&'static str>,
}

const PAIRINGS: [Pairing; 8] = [
    Pairing {
        name: "plain",
        student: "",
        recipe: "strong",
        active: Some(("{ score: least-confidence }", "least confidence, plain")),
        random: Some(CONTROL),
    },
    Pairing {
        name: "one",
        student: ", one: {}",
        recipe: "strong",
        active: Some(("{ score: least-confidence }", "least confidence, ONE, one branch")),
        random: Some("random, ONE, one branch"),
    },
    Pairing {
        name: "plain-sample",
        student: "",
        recipe: "strong",
        active: Some((
            "{ score: least-confidence, sample: 40000 }",
            "least confidence among 40,000 pairs, plain",
        )),
        random: None,
    },
    Pairing {
        name: "bald-sample",
        student: ", one: {}",
        recipe: "strong",
        active: Some((
            "{ score: bald, sample: 40000 }",
            "BALD among 40,000 pairs, ONE, one branch",
        )),
        random: None,
    },
    Pairing {
        name: "bald-cap",
        student: ", one: {}",
        recipe: "strong",
        active: Some((
            "{ score: bald, sample: 40000, diversity: { perImage: 2 } }",
            "BALD, no image in more than twice its share of mixes, ONE, one branch",
        )),
        random: None,
    },
    Pairing {
        name: "bald-turns",
        student: ", one: {}",
        recipe: "strong",
        active: Some((
            "{ score: bald, sample: 40000, diversity: { classPairs: true } }",
            "BALD, pairs of classes in turn, ONE, one branch",
        )),
        random: None,
    },
    Pairing {
        name: "ensemble",
        student: ", one: { deploy: ensemble }",
        recipe: "strong",
        active: None,
        random: Some("random, ONE, ensemble"),
    },
    Pairing {
        name: "fs-bbt",
        student: "",
        recipe: "fs-bbt",
        active: None,
        random: Some("random, FS-BBT's training"),
    },
];

impl Pairing {
    /// The job file of `seed` for a teacher at `url`.
    fn job(&self, data: &Mnist, url: &str, seed: u64) -> String {
        let Self {
            name, student, recipe, ..
        } = self;
        let (arms, control) = match (self.active, self.random) {
            (Some(_), Some(_)) => (2, "random"),
            _ => (1, "none"),
        };
        let queries = SEED_IMAGES + arms * PER_ROUND;
        let acquisition = self.active.map_or("{ score: random }", |(acquisition, _)| acquisition);
        let [images, test_images, test_labels] =
            [data.train_images(), data.test_images(), data.test_labels()].map(|path| quoted(&path));
        format!(
            r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: methods-{name}-{seed} }}
spec:
  images:      {{ source: idx, path: {images}, take: {SEED_IMAGES}, seed: {seed} }}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5{student} }}
  acquisition: {acquisition}
  control:     {control}
  budget:      {{ queries: {queries}, perRound: {PER_ROUND} }}
  training:    {{ recipe: {recipe}, seed: {seed} }}
  evaluation:  {{ images: {test_images}, labels: {test_labels}, everyEpochs: 10 }}
"#
        )
    }

    /// Random pairs for the student of `method`.
    fn peer(&self, method: &str) -> Option<&'static str> {
        let mut alike = PAIRINGS
            .iter()
            .filter(|other| (other.student, other.recipe) == (self.student, self.recipe));
        alike.find_map(|other| other.random).filter(|random| *random != method)
    }

    /// The students of a finished job.
    fn students(&self, summary: &Summary) -> anyhow::Result<Vec<Student>> {
        let active = &summary.active;
        let students = match (self.active, self.random) {
            (Some((_, method)), Some(random)) => {
                let control = summary.control.as_ref().context("a job with a control")?;
                vec![Student::new(random, control)?, Student::new(method, active)?]
            }
            (Some((_, method)), None) | (None, Some(method)) => vec![Student::new(method, active)?],
            (None, None) => vec![],
        };
        let queries = u64::from(SEED_IMAGES + PER_ROUND);
        for student in &students {
            let last = student.rounds.last().context("a finished student has rounds")?;
            ensure!(last.queries == queries, "a student asked {} queries", last.queries);
        }
        Ok(students)
    }

    /// Its methods in order of the table.
    fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.random.into_iter().chain(self.active.map(|(_, method)| method))
    }
}

/// Runs what was not run yet, and publishes the table of everything that ever was.
pub(crate) fn run(places: &Places, args: &MethodsArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    check_names(&args.only, PAIRINGS.map(|pairing| pairing.name))?;
    let data = Mnist::find(places, &args.data)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    for &seed in &args.seeds {
        for pairing in PAIRINGS.iter().filter(|pairing| is_wanted(&args.only, pairing.name)) {
            let job = JobRun {
                places,
                teacher: &teacher,
                name: format!("methods-{}-seed-{seed}", pairing.name),
            };
            let (summary, ..) = job.finish(|url| pairing.job(&data, url, seed))?;
            // After each job, and read anew: two calls may share the seeds between them.
            let mut runs = Runs::load(&places.results(), "methods")?;
            runs.put(Run::new(pairing.name, seed, pairing.students(&summary)?));
            let table = table(&runs).to_string();
            publish_in(&places.results(), "methods", &table, &serde_json::to_value(&runs)?)?;
        }
    }
    Ok(())
}

/// Last accuracy of a method in percent, by seed.
fn last(runs: &Runs, method: &str) -> BTreeMap<u64, f64> {
    let studies = PAIRINGS
        .iter()
        .filter(|pairing| pairing.methods().any(|name| name == method));
    let found = studies.flat_map(|pairing| runs.of(pairing.name, method));
    found
        .filter_map(|(seed, rounds)| Some((seed, rounds.last()?.last)))
        .collect()
}

fn table(runs: &Runs) -> Table {
    let title = "Ways to choose and to train, LeNet-5 on MNIST after 8,000 queries, last epoch";
    let header = [
        "method",
        "accuracy, %",
        "above random, plain",
        "above random, same student",
        "a seed",
    ];
    let mut table = Table::new(title, header);
    for pairing in &PAIRINGS {
        for method in pairing.methods() {
            let own = last(runs, method);
            if own.is_empty() {
                continue;
            }
            // Paired by the seeds that both have.
            let above = |other: Option<&str>| {
                let theirs = other.filter(|other| *other != method).map(|other| last(runs, other));
                let theirs = theirs.unwrap_or_default();
                let pairs = own.iter().filter_map(|(seed, own)| Some(own - theirs.get(seed)?));
                let mean = Mean::of(&pairs.collect::<Vec<f64>>());
                mean.map_or_else(String::new, |mean| format!("{mean:+}"))
            };
            let seed = |at: &u64| {
                own.get(at)
                    .map_or_else(|| "-".to_owned(), |accuracy| format!("{accuracy:.2}"))
            };
            let accuracies: Vec<f64> = own.values().copied().collect();
            table.row([
                method.to_owned(),
                Mean::of(&accuracies).map_or_else(String::new, |mean| mean.to_string()),
                above(Some(CONTROL)),
                above(pairing.peer(method)),
                runs.seeds().iter().map(seed).collect::<Vec<_>>().join(" "),
            ]);
        }
    }
    table.note(
        "Each seed has seed images, initial weights and random pairs of its own; means with 95 % intervals over the seeds that were run, the \
         differences paired by seed. 2,000 seed images, one round of 6,000. All but the last under `recipe: strong`.",
    );
    for machine in runs.machines() {
        table.note(machine);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mnist::runs::Point;
    use stillhouse_core::job::Job;
    use stillhouse_core::plan::Plan;

    #[test]
    fn every_job_is_valid_and_every_student_asks_eight_thousand() {
        for pairing in &PAIRINGS {
            let text = pairing.job(&Mnist::unchecked("/data"), "http://127.0.0.1:4000", 3);
            let job = Job::parse(&text).expect("valid");
            let plan = Plan::new(&job, SEED_IMAGES).expect("budget");
            assert_eq!(plan.rounds(), [6_000], "{}", pairing.name);
            assert_eq!(plan.queries(), job.spec.budget.queries, "no query is left over");
        }
    }

    #[test]
    fn every_choice_is_held_against_random_for_the_same_student() {
        let peer = |at: usize, method: &str| PAIRINGS[at].peer(method);
        assert_eq!(peer(0, CONTROL), None);
        assert_eq!(peer(2, "least confidence among 40,000 pairs, plain"), Some(CONTROL));
        assert_eq!(
            peer(3, "BALD among 40,000 pairs, ONE, one branch"),
            Some("random, ONE, one branch")
        );
    }

    #[test]
    fn differences_are_paired_by_seed() {
        let student = |method: &str, last| Student {
            method: method.to_owned(),
            rounds: vec![Point {
                round: 1,
                queries: 8_000,
                last,
                best: None,
                agreement: None,
            }],
        };
        let mut runs = Runs::default();
        let one = "random, ONE, one branch";
        let bald = "BALD among 40,000 pairs, ONE, one branch";
        for (seed, plain, random, chosen) in [(0, 98.0, 98.25, 98.5), (1, 99.0, 99.25, 99.5)] {
            runs.put(Run::new("plain", seed, vec![student(CONTROL, plain)]));
            runs.put(Run::new("one", seed, vec![student(one, random)]));
            runs.put(Run::new("bald-sample", seed, vec![student(bald, chosen)]));
        }
        runs.put(Run::new("bald-sample", 5, vec![student(bald, 90.0)]));
        let text = table(&runs).to_string();
        assert!(text.contains("+0.50 ± 0.00") && text.contains("+0.25 ± 0.00"), "{text}");
        assert!(
            text.contains("98.50 99.50 90.00") && text.contains("98.00 99.00 -"),
            "{text}"
        );
    }
}
