//! Ways to choose and to train, side by side on MNIST at equal queries: 2,000 seed images and one round
//! of 6,000, LeNet-5 to LeNet-5, over seeds. Random under the strong recipe is what the others are
//! held against.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use crate::cli::MethodsArgs;
use crate::machine::Machine;
use crate::mnist::JobRun;
use crate::mnist::summary::{Arm, Summary};
use crate::mnist::teacher::{Recipe, Teacher};
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

const PAIRINGS: [Pairing; 6] = [
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

    /// The methods with the last accuracy of each, in percent.
    fn accuracies(&self, summary: &Summary) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let active = last(&summary.active)?;
        Ok(match (self.active, self.random) {
            (Some((_, method)), Some(random)) => {
                let control = summary.control.as_ref().context("a job with a control")?;
                vec![(random, last(control)?), (method, active)]
            }
            (Some((_, method)), None) | (None, Some(method)) => vec![(method, active)],
            (None, None) => vec![],
        })
    }
}

fn last(arm: &Arm) -> anyhow::Result<f64> {
    let round = arm.rounds.last().context("a finished student has rounds")?;
    ensure!(
        round.queries_total == u64::from(SEED_IMAGES + PER_ROUND),
        "a student asked {} queries",
        round.queries_total
    );
    Ok(100.0 * round.accuracy.context("the test labels are known")?.last)
}

/// A method and its accuracy of each seed.
#[derive(Debug, Serialize)]
struct Method {
    name: &'static str,
    /// Random pairs for the same student, trained alike, if this is not it.
    peer: Option<&'static str>,
    accuracies: Vec<f64>,
}

/// Runs what was not run yet, and publishes the table.
pub(crate) fn run(places: &Places, args: &MethodsArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    let data = Mnist::find(places, &args.data)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    let mut methods: Vec<Method> = Vec::new();
    for &seed in &args.seeds {
        for pairing in &PAIRINGS {
            let run = JobRun {
                places,
                teacher: &teacher,
                name: format!("methods-{}-seed-{seed}", pairing.name),
            };
            let (summary, ..) = run.finish(|url| pairing.job(&data, url, seed))?;
            for (name, accuracy) in pairing.accuracies(&summary)? {
                match methods.iter_mut().find(|method| method.name == name) {
                    Some(method) => method.accuracies.push(accuracy),
                    None => methods.push(Method {
                        name,
                        peer: pairing.peer(name),
                        accuracies: vec![accuracy],
                    }),
                }
            }
        }
    }
    let table = table(&methods, args.seeds.len());
    let value = json!({ "machine": Machine::this(), "seeds": args.seeds, "methods": methods });
    publish_in(&places.results(), "methods", &table.to_string(), &value)
}

fn table(methods: &[Method], seeds: usize) -> Table {
    let title = "Ways to choose and to train, LeNet-5 on MNIST after 8,000 queries, last epoch";
    let header = [
        "method",
        "accuracy, %",
        "above random, plain",
        "above random, same student",
        "a seed",
    ];
    let mut table = Table::new(title, header);
    let above = |method: &Method, other: Option<&str>| {
        let other = methods
            .iter()
            .find(|found| Some(found.name) == other && found.name != method.name);
        let differences = other.map(|other| {
            let pairs = method.accuracies.iter().zip(&other.accuracies);
            pairs.map(|(own, theirs)| own - theirs).collect::<Vec<f64>>()
        });
        let mean = differences.and_then(|differences| Mean::of(&differences));
        mean.map_or_else(String::new, |mean| format!("{mean:+}"))
    };
    for method in methods {
        let seeds: Vec<String> = method
            .accuracies
            .iter()
            .map(|accuracy| format!("{accuracy:.2}"))
            .collect();
        table.row([
            method.name.to_owned(),
            Mean::of(&method.accuracies).map_or_else(String::new, |mean| mean.to_string()),
            above(method, Some(CONTROL)),
            above(method, method.peer),
            seeds.join(" "),
        ]);
    }
    table.note(format!(
        "{seeds} seeds, each with seed images, initial weights and random pairs of its own; means with 95 % intervals, the \
         differences paired by seed. 2,000 seed images, one round of 6,000. All but the last under `recipe: strong`."
    ));
    table.note(Machine::this().line());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let method = |name, peer, accuracies: &[f64]| Method {
            name,
            peer,
            accuracies: accuracies.to_vec(),
        };
        let methods = [
            method(CONTROL, None, &[98.0, 99.0]),
            method("branches", None, &[98.25, 99.25]),
            method("other", Some("branches"), &[98.5, 99.5]),
        ];
        let text = table(&methods, 2).to_string();
        assert!(text.contains("+0.50 ± 0.00") && text.contains("+0.25 ± 0.00"), "{text}");
        assert!(text.contains("98.50 99.50"), "{text}");
    }
}
