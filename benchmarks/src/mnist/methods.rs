//! Ways to choose and to train, side by side at equal queries over seeds: 2,000 seed images and 6,000 mixes, LeNet-5 to
//! LeNet-5, on MNIST or on CIFAR-10, where that knows much less. Random under the strong recipe is what the others are
//! held against.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

use crate::cli::{DataSetName, MethodsArgs};
use crate::data_set::DataSet;
use crate::mnist::runs::{Run, Runs, Student};
use crate::mnist::summary::Summary;
use crate::mnist::teacher::{Recipe, Teacher};
use crate::mnist::{JobRun, check_names, is_wanted};
use crate::places::{Places, publish_in};
use crate::statistics::Mean;
use crate::table::Table;

const SEED_IMAGES: u32 = 2_000;
/// Queries of a student after its seed images.
const MIXES: u32 = 6_000;
/// What the differences are taken to.
const CONTROL: &str = "random, plain";

/// Where methods are compared.
struct Setting {
    /// Name of the results, and how those of its jobs begin.
    name: &'static str,
    title: &'static str,
    teacher: Recipe,
    /// Rounds, in which the mixes are asked.
    rounds: u32,
    /// What every job's `spec.training` says besides its recipe and seed.
    training: &'static str,
    /// What is said below the table.
    note: &'static str,
}

const MNIST: Setting = Setting {
    name: "methods",
    title: "Ways to choose and to train, LeNet-5 on MNIST after 8,000 queries, last epoch",
    teacher: Recipe::PUBLISHED,
    rounds: 1,
    training: "",
    note: "2,000 seed images, one round of 6,000. All but the last under `recipe: strong`.",
};

const CIFAR10: Setting = Setting {
    name: "methods-cifar10",
    title: "Ways to choose and to train, LeNet-5 on CIFAR-10 after 8,000 queries, last epoch",
    teacher: Recipe::CIFAR10,
    // So that the guard can act on what it sees.
    rounds: 2,
    training: ", augmentation: crop-flip",
    note: "2,000 seed images, two rounds of 3,000. Under `recipe: strong` with `augmentation: crop-flip`.",
};

impl Setting {
    fn of(name: DataSetName) -> Self {
        match name {
            DataSetName::Mnist => MNIST,
            DataSetName::Cifar10 => CIFAR10,
        }
    }

    fn data(&self, places: &Places, args: &MethodsArgs) -> anyhow::Result<DataSet> {
        match args.data_set {
            DataSetName::Mnist => DataSet::mnist(places, &args.data),
            DataSetName::Cifar10 => DataSet::cifar10(places, &args.data),
        }
    }
}

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

const PAIRINGS: [Pairing; 9] = [
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
    // What the preset fills in.
    Pairing {
        name: "auto",
        student: ", one: {}",
        recipe: "strong",
        active: Some((
            "{ score: bald, sample: 40000, guard: { shift: true } }",
            "`preset: auto`",
        )),
        random: Some("random, ONE, one branch"),
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
    fn job(&self, setting: &Setting, data: &DataSet, url: &str, seed: u64) -> String {
        let Self {
            name, student, recipe, ..
        } = self;
        let Setting {
            name: prefix,
            training,
            rounds,
            ..
        } = setting;
        let (arms, control) = match (self.active, self.random) {
            (Some(_), Some(_)) => (2, "random"),
            _ => (1, "none"),
        };
        let (queries, per_round) = (SEED_IMAGES + arms * MIXES, MIXES / rounds);
        let acquisition = self.active.map_or("{ score: random }", |(acquisition, _)| acquisition);
        let (images, test) = (data.seed_images(SEED_IMAGES, seed), data.evaluation());
        format!(
            r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: {prefix}-{name}-{seed} }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5{student} }}
  acquisition: {acquisition}
  control:     {control}
  budget:      {{ queries: {queries}, perRound: {per_round} }}
  training:    {{ recipe: {recipe}, seed: {seed}{training} }}
  evaluation:  {{ {test}, everyEpochs: 10 }}
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
        let queries = u64::from(SEED_IMAGES + MIXES);
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
    let setting = Setting::of(args.data_set);
    let data = setting.data(places, args)?;
    let teacher = Teacher::trained(places, &data, &setting.teacher)?;
    for &seed in &args.seeds {
        for pairing in PAIRINGS.iter().filter(|pairing| is_wanted(&args.only, pairing.name)) {
            let job = JobRun {
                places,
                teacher: &teacher,
                name: format!("{}-{}-seed-{seed}", setting.name, pairing.name),
            };
            let (summary, ..) = job.finish(|url| pairing.job(&setting, &data, url, seed))?;
            // After each job, and read anew: two calls may share the seeds between them.
            let mut runs = Runs::load(&places.results(), setting.name)?;
            runs.put(Run::new(pairing.name, seed, pairing.students(&summary)?));
            let table = table(&setting, &runs).to_string();
            publish_in(&places.results(), setting.name, &table, &serde_json::to_value(&runs)?)?;
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

fn table(setting: &Setting, runs: &Runs) -> Table {
    let header = [
        "method",
        "accuracy, %",
        "above random, plain",
        "above random, same student",
        "a seed",
    ];
    let mut table = Table::new(setting.title, header);
    let mut shown = BTreeSet::new();
    for pairing in &PAIRINGS {
        for method in pairing.methods() {
            let own = last(runs, method);
            if own.is_empty() || !shown.insert(method) {
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
    table.note(format!(
        "Each seed has seed images, initial weights and random pairs of its own; means with 95 % intervals over the seeds that were run, the \
         differences paired by seed. {}",
        setting.note
    ));
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
        for (setting, rounds) in [(MNIST, vec![6_000]), (CIFAR10, vec![3_000; 2])] {
            for pairing in &PAIRINGS {
                let text = pairing.job(&setting, &DataSet::unchecked("/data"), "http://127.0.0.1:4000", 3);
                let job = Job::parse(&text).expect("valid");
                let plan = Plan::new(&job, SEED_IMAGES).expect("budget");
                assert_eq!(plan.rounds(), rounds, "{}", pairing.name);
                assert_eq!(plan.queries(), job.spec.budget.queries, "no query is left over");
            }
        }
    }

    #[test]
    fn the_pairing_named_auto_is_what_the_preset_says() {
        let auto = PAIRINGS.iter().find(|pairing| pairing.name == "auto").expect("there");
        let text = auto.job(&MNIST, &DataSet::unchecked("/data"), "http://127.0.0.1:4000", 3);
        let bare = text
            .lines()
            .filter(|line| !line.contains("acquisition:"))
            .map(|line| line.replace(", one: {}", "").replace("recipe: strong, ", ""));
        let preset = bare
            .collect::<Vec<_>>()
            .join("\n")
            .replace("spec:", "spec:\n  preset: auto");
        let mut filled_in = Job::parse(&preset).expect("valid").spec;
        assert!(filled_in.preset.take().is_some());
        assert_eq!(Job::parse(&text).expect("valid").spec, filled_in);
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
        let text = table(&MNIST, &runs).to_string();
        assert!(text.contains("+0.50 ± 0.00") && text.contains("+0.25 ± 0.00"), "{text}");
        assert!(
            text.contains("98.50 99.50 90.00") && text.contains("98.00 99.00 -"),
            "{text}"
        );
    }
}
