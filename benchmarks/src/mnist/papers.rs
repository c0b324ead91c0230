//! The tables of the papers on MNIST, rerun: methods at the papers' 26,000 queries and at what they have on the way there,
//! last and best epoch, over seeds, and the queries that each needs to reach an accuracy.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use crate::cli::PapersArgs;
use crate::machine::Machine;
use crate::mnist::JobRun;
use crate::mnist::job::Setting;
use crate::mnist::summary::{Accuracy, Round, Summary};
use crate::mnist::teacher::{Recipe, Teacher};
use crate::places::{Mnist, Places, publish_in, quoted};
use crate::statistics::Mean;
use crate::table::Table;

const SEED_IMAGES: u32 = 2_000;
/// What the others are held against, at equal queries.
const CONTROL: &str = "random pairs, strong";
/// Accuracies whose price is asked, in percent.
const GOALS: [f64; 3] = [98.5, 99.0, 99.2];

/// A job and the methods that its students are.
struct Study {
    name: &'static str,
    /// The lines of its spec that make the strategy.
    strategy: &'static str,
    per_round: u32,
    rounds: u32,
    methods: &'static [Method],
}

/// A student of a job after some of its rounds.
struct Method {
    name: &'static str,
    is_control: bool,
    /// Rounds that have figures of their own.
    rounds: &'static [u32],
    /// What the paper has after the last of them, in percent.
    published: Option<&'static str>,
}

const STUDIES: [Study; 5] = [
    Study {
        name: "fs-bbt-half",
        strategy: "preset: fs-bbt\n  student: { architecture: lenet5-half }",
        per_round: 24_000,
        rounds: 1,
        methods: &[Method {
            name: "FS-BBT, half the student",
            is_control: false,
            rounds: &[0, 1],
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
            rounds: &[0, 1],
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
            rounds: &[1, 4],
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
                rounds: &[1, 4],
                published: None,
            },
            Method {
                name: "`preset: auto`",
                is_control: false,
                rounds: &[1, 4],
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
                rounds: &[1, 4],
                published: None,
            },
            Method {
                name: "Active Mixup, short schedule",
                is_control: false,
                rounds: &[1, 4],
                published: Some("98.74"),
            },
        ],
    },
];

impl Study {
    /// The job file of `seed` for a teacher at `url`.
    fn job(&self, data: &Mnist, url: &str, seed: u64) -> String {
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
        let [images, test_images, test_labels] =
            [data.train_images(), data.test_images(), data.test_labels()].map(|path| quoted(&path));
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
  images:      {{ source: idx, path: {images}, take: {SEED_IMAGES}, seed: {seed} }}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  {strategy}
  budget:      {{ queries: {queries}, perRound: {per_round} }}
  evaluation:  {{ images: {test_images}, labels: {test_labels}, everyEpochs: 10 }}
"#
        )
    }

    fn run_name(&self, seed: u64) -> String {
        match self.strategy {
            "" => format!("{}-seed-{seed}", Setting::PUBLISHED.name),
            _ => format!("papers-{}-seed-{seed}", self.name),
        }
    }
}

/// What a method has after so many queries, over seeds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figure {
    method: &'static str,
    queries: u64,
    published: Option<&'static str>,
    /// Percent, in order of seeds.
    last: Vec<f64>,
    best: Vec<f64>,
}

/// Queries after which a method first had an accuracy, over seeds; none where it never had.
#[derive(Debug, Serialize)]
struct Price {
    method: &'static str,
    goal: f64,
    queries: Vec<Option<u64>>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Findings {
    figures: Vec<Figure>,
    prices: Vec<Price>,
}

/// Runs what was not run yet, and publishes the tables.
pub(crate) fn run(places: &Places, args: &PapersArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    let data = Mnist::find(places, &args.data)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    let wanted = |study: &&Study| args.only.is_empty() || args.only.iter().any(|name| name == study.name);
    let mut findings = Findings::default();
    for study in STUDIES.iter().filter(wanted) {
        for &seed in &args.seeds {
            let run = JobRun {
                places,
                teacher: &teacher,
                name: study.run_name(seed),
            };
            let (summary, ..) = run.finish(|url| study.job(&data, url, seed))?;
            findings.take(study, &summary)?;
        }
    }
    let text = format!("{}\n{}", accuracies(&findings), prices(&findings));
    let value = json!({ "machine": Machine::this(), "seeds": args.seeds, "findings": findings });
    publish_in(&places.results(), "papers", &text, &value)
}

impl Findings {
    /// Takes in a job of one seed.
    fn take(&mut self, study: &Study, summary: &Summary) -> anyhow::Result<()> {
        for method in study.methods {
            let arm = match method.is_control {
                true => summary.control.as_ref().context("a job with a control")?,
                false => &summary.active,
            };
            for &number in method.rounds {
                let round = arm.rounds.iter().find(|round| round.round == number);
                let round = round.with_context(|| format!("{} has no round {number}", method.name))?;
                let is_last = Some(&number) == method.rounds.last();
                let name = if number == 0 { "seed images alone" } else { method.name };
                let figure = self.figure(name_of(name, method.name), round.queries_total);
                figure.published = figure.published.or(method.published.filter(|_| is_last));
                let Accuracy { last, best } = accuracy(round)?;
                figure.last.push(last);
                figure.best.push(best);
            }
            for goal in GOALS {
                let reached = arm
                    .rounds
                    .iter()
                    .find(|round| accuracy(round).is_ok_and(|found| found.last >= goal));
                let reached = reached.map(|round| round.queries_total);
                self.price(method.name, goal).queries.push(reached);
            }
        }
        Ok(())
    }

    fn figure(&mut self, method: &'static str, queries: u64) -> &mut Figure {
        let at = self
            .figures
            .iter()
            .position(|known| (known.method, known.queries) == (method, queries));
        let at = at.unwrap_or_else(|| {
            self.figures.push(Figure {
                method,
                queries,
                published: None,
                last: vec![],
                best: vec![],
            });
            self.figures.len() - 1
        });
        &mut self.figures[at]
    }

    fn price(&mut self, method: &'static str, goal: f64) -> &mut Price {
        let at = self
            .prices
            .iter()
            .position(|known| (known.method, known.goal) == (method, goal));
        let at = at.unwrap_or_else(|| {
            self.prices.push(Price {
                method,
                goal,
                queries: vec![],
            });
            self.prices.len() - 1
        });
        &mut self.prices[at]
    }
}

/// The student of the seed images is plain distillation, named after whose training it had.
fn name_of(name: &str, method: &'static str) -> &'static str {
    match (name, method) {
        ("seed images alone", "FS-BBT") => "plain distillation, FS-BBT's training",
        ("seed images alone", _) => "plain distillation, FS-BBT's training, half the student",
        _ => method,
    }
}

/// Of a round, in percent.
fn accuracy(round: &Round) -> anyhow::Result<Accuracy> {
    let found = round.accuracy.context("the test labels are known")?;
    Ok(Accuracy {
        last: 100.0 * found.last,
        best: 100.0 * found.best,
    })
}

fn accuracies(findings: &Findings) -> Table {
    let title = "The papers' MNIST setting: 2,000 seed images, LeNet-5 teacher, accuracy in percent";
    let header = [
        "method",
        "queries",
        "published",
        "last epoch",
        "best epoch",
        "above random, strong",
        "a seed",
    ];
    let mut table = Table::new(title, header);
    let mean = |figures: &[f64]| Mean::of(figures).map_or_else(String::new, |mean| mean.to_string());
    let mut sorted: Vec<&Figure> = findings.figures.iter().collect();
    sorted.sort_by_key(|figure| figure.queries);
    for figure in &sorted {
        let control = sorted
            .iter()
            .find(|other| other.method == CONTROL && other.queries == figure.queries);
        let above =
            control.filter(|control| control.method != figure.method && control.last.len() == figure.last.len());
        let above = above.and_then(|control| {
            let differences: Vec<f64> = figure
                .last
                .iter()
                .zip(&control.last)
                .map(|(own, other)| own - other)
                .collect();
            Mean::of(&differences)
        });
        let seeds: Vec<String> = figure.last.iter().map(|last| format!("{last:.2}")).collect();
        table.row([
            figure.method.to_owned(),
            figure.queries.to_string(),
            figure.published.unwrap_or_default().to_owned(),
            mean(&figure.last),
            mean(&figure.best),
            above.map_or_else(String::new, |mean| format!("{mean:+}")),
            seeds.join(" "),
        ]);
    }
    table.note(
        "Means over seeds with 95 % intervals, the differences paired by seed. The best epoch is chosen on the test set, as the \
         papers' codes do; the last is what a user gets.",
    );
    table
}

fn prices(findings: &Findings) -> Table {
    let header = ["method", "98.5 %", "99.0 %", "99.2 %"];
    let mut table = Table::new(
        "Queries after which a seed first reached an accuracy, last epoch",
        header,
    );
    let mut methods: Vec<&'static str> = findings.prices.iter().map(|price| price.method).collect();
    methods.dedup();
    for method in methods {
        let of_goal = |goal: f64| {
            let price = findings
                .prices
                .iter()
                .find(|price| (price.method, price.goal) == (method, goal));
            let text =
                |queries: &Option<u64>| queries.map_or_else(|| "never".to_owned(), |queries| queries.to_string());
            price.map_or_else(String::new, |price| {
                price.queries.iter().map(text).collect::<Vec<_>>().join(" ")
            })
        };
        let [low, middle, high] = GOALS.map(of_goal);
        table.row([method.to_owned(), low, middle, high]);
    }
    table.note("Counted at the ends of rounds.");
    table.note(Machine::this().line());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::job::Job;
    use stillhouse_core::plan::Plan;

    #[test]
    fn every_job_is_valid_and_every_student_asks_twenty_six_thousand() {
        for study in &STUDIES {
            let text = study.job(&Mnist::unchecked("/data"), "http://127.0.0.1:4000", 3);
            let job = Job::parse(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", study.name));
            let plan = Plan::new(&job, SEED_IMAGES).expect("budget");
            assert_eq!(plan.rounds().iter().sum::<u64>(), 24_000, "{}", study.name);
            assert_eq!(plan.queries(), job.spec.budget.queries, "no query is left over");
            assert_eq!((job.spec.images.seed, job.spec.training.seed), (3, 3));
            let rounds = plan.rounds().len() as u32;
            assert!(study.methods.iter().all(|method| method.rounds.last() == Some(&rounds)));
            let is_controlled = job.arms().len() == 2;
            assert!(study.methods.iter().all(|method| is_controlled || !method.is_control));
        }
    }

    #[test]
    fn figures_are_sorted_by_queries_and_held_against_random_at_equal_ones() {
        let figure = |method, queries, last: &[f64]| Figure {
            method,
            queries,
            published: Some("98.42"),
            last: last.to_vec(),
            best: last.to_vec(),
        };
        let findings = Findings {
            figures: vec![
                figure("`preset: auto`", 26_000, &[99.5, 99.25]),
                figure(CONTROL, 8_000, &[98.0, 98.5]),
                figure(CONTROL, 26_000, &[99.25, 99.0]),
            ],
            prices: vec![Price {
                method: CONTROL,
                goal: 98.5,
                queries: vec![Some(8_000), None],
            }],
        };
        let text = accuracies(&findings).to_string();
        assert!(
            text.contains("+0.25 ± 0.00") && text.find("8000") < text.find("26000"),
            "{text}"
        );
        assert!(prices(&findings).to_string().contains("8000 never"));
    }
}
