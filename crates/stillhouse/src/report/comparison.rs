//! Two jobs beside each other, at equal queries. Pure: summaries in, text or JSON out.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::number::{count, counted, money, percent, points, seconds, short};
use super::summary::{RoundSummary, Summary, acquisition_name};
use super::terminal::{Color, aligned, columns, indent, or_dash, plain};
use super::verdict::{difference, half_width};

/// A job to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Where it is.
    pub directory: String,
    /// What it wrote.
    pub summary: Summary,
}

/// Two jobs, from the first to the second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What the two are called: by their jobs' names, or by their directories when those are equal.
    pub jobs: [String; 2],
    /// Why the figures cannot be compared; empty when nothing speaks against it.
    pub warnings: Vec<String>,
    /// What differs in how they were set up.
    pub setup: Vec<Differing>,
    /// Active students by queries, in rising order.
    pub rounds: Vec<AtQueries>,
    /// What each cost.
    pub spent: [Spent; 2],
}

/// Something that the jobs do not share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// What it is.
    pub what: &'static str,
    /// How each job has it.
    pub values: [String; 2],
}

/// Both active students after as many queries each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtQueries {
    /// Queries of each student, seed images included.
    pub queries: u64,
    /// Accuracy after the last epoch.
    pub accuracy: Measured,
    /// Agreement with the teacher.
    pub agreement: Measured,
}

/// One figure of both jobs, as fractions of 1. Nothing stands in for a round that was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Each job's.
    pub values: [Option<f64>; 2],
    /// The second minus the first, where both are known.
    pub difference: Option<f64>,
    /// Half the width of a 95 % interval of the difference, as if each job had images of its own;
    /// `None` when the number of images is not known.
    pub half_width: Option<f64>,
}

/// What a job cost, of both of its students.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// Queries billed.
    pub billed: u64,
    /// Price of them, in the job's own currency.
    pub cost: Option<f64>,
    /// Scoring the pool and rescoring the guard band.
    pub score_seconds: f64,
    /// Asking the teacher.
    pub query_seconds: f64,
    /// Training and evaluating.
    pub train_seconds: f64,
    /// From the first start to the end, or to what it last wrote.
    pub lasted_seconds: f64,
}

impl Measured {
    /// `values` of fractions that were measured on so many `images` each.
    fn of(values: [Option<f64>; 2], images: [u32; 2]) -> Self {
        let [first, second] = values;
        let half = |at: usize| half_width(values[at]?, images[at]);
        Self {
            values,
            difference: difference(second, first),
            half_width: half(0).zip(half(1)).map(|(first, second)| first.hypot(second)),
        }
    }

    fn is_empty(&self) -> bool {
        self.values == [None, None]
    }

    fn cells(&self, color: Color) -> [String; 3] {
        let difference = match (self.difference, self.half_width) {
            (Some(gain), Some(half)) => format!("{} \u{b1} {:.2}", points(gain), half * 100.0),
            (gain, _) => or_dash(gain.map(points)),
        };
        let [first, second] = self.values.map(|value| or_dash(value.map(percent)));
        [first, second, color.gain(&difference)]
    }
}

impl AtQueries {
    /// Whether both were measured here.
    fn is_met(&self) -> bool {
        self.accuracy.difference.or(self.agreement.difference).is_some()
    }
}

impl Spent {
    fn of(summary: &Summary) -> Self {
        let rounds = || {
            summary
                .arms()
                .flat_map(|(_, arm)| &arm.rounds)
                .map(|round| &round.timings)
        };
        Self {
            billed: summary.budget.billed.total,
            cost: summary.budget.cost,
            score_seconds: rounds().map(|times| times.scan_seconds + times.rescore_seconds).sum(),
            query_seconds: rounds().map(|times| times.query_seconds).sum(),
            train_seconds: rounds().map(|times| times.train_seconds).sum(),
            lasted_seconds: summary.lasted_seconds(),
        }
    }
}

impl Comparison {
    /// Sets `second` beside `first`.
    #[must_use]
    pub fn of(first: &Side, second: &Side) -> Self {
        let sides = [first, second];
        let names = sides.map(|side| side.summary.job.name.clone());
        let jobs = match names[0] == names[1] {
            true => sides.map(|side| side.directory.clone()),
            false => names,
        };
        let both = sides.map(|side| &side.summary);
        Self {
            jobs,
            warnings: warnings(both),
            setup: setup(both),
            rounds: at_queries(both),
            spent: both.map(Spent::of),
        }
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = json!(self);
        value["version"] = 1.into();
        format!("{value:#}")
    }

    /// Warnings first, then what differs, the figures at equal queries, and what each job cost.
    #[must_use]
    pub fn text(&self, color: Color) -> String {
        let jobs = self.jobs.each_ref().map(|name| plain(name));
        let mut text = format!("{}  and  {}\n", color.strong(&jobs[0]), color.strong(&jobs[1]));
        for warning in &self.warnings {
            text += &format!("\n{} {}", color.strong("not comparable:"), plain(warning));
        }
        if !self.warnings.is_empty() {
            text += "\n";
        }
        text += &format!("\n{}", indent(&self.setup_table(&jobs, color)));
        for (name, figure) in FIGURES {
            if let Some(table) = self.figures(&jobs, name, figure, color) {
                text += &format!("\n{}", indent(&table));
            }
        }
        if self.rounds.iter().any(AtQueries::is_met) {
            let note = format!(
                "difference: {} minus {} in percentage points, \u{b1} half a 95 % interval",
                jobs[1], jobs[0]
            );
            text += &format!("\n{}", indent(&color.soft(&note)));
        }
        text += &format!("\n{}", indent(&self.spent_table(&jobs, color)));
        text.trim_end().to_owned()
    }

    fn setup_table(&self, jobs: &[String; 2], color: Color) -> String {
        if self.setup.is_empty() {
            return "the setups do not differ".to_owned();
        }
        let mut rows = vec![head("differs in", jobs, color)];
        for differing in &self.setup {
            let mut row = vec![differing.what.to_owned()];
            row.extend(differing.values.each_ref().map(|value| plain(value)));
            rows.push(row);
        }
        aligned(&rows, |_| false)
    }

    /// A row for each number of queries at which one of the two has this figure; `None` without any.
    fn figures(&self, jobs: &[String; 2], name: &str, figure: Figure, color: Color) -> Option<String> {
        let measured = self.rounds.iter().filter(|at| !figure(at).is_empty());
        let mut rows = vec![head(name, jobs, color)];
        rows[0].push(color.soft("difference"));
        for at in measured {
            let mut row = vec![counted(at.queries, "query", "queries")];
            row.extend(figure(at).cells(color));
            rows.push(row);
        }
        (rows.len() > 1).then(|| columns(&rows))
    }

    fn spent_table(&self, jobs: &[String; 2], color: Color) -> String {
        let row = |name: &str, cell: &dyn Fn(&Spent) -> String| {
            let [first, second] = self.spent.each_ref().map(cell);
            vec![name.to_owned(), first, second]
        };
        let mut rows = vec![
            head("spent", jobs, color),
            row("queries billed", &|spent| count(spent.billed)),
        ];
        if self.spent.iter().any(|spent| spent.cost.is_some()) {
            rows.push(row("cost", &|spent| or_dash(spent.cost.map(money))));
        }
        rows.extend([
            row("scoring", &|spent| seconds(spent.score_seconds)),
            row("querying", &|spent| seconds(spent.query_seconds)),
            row("training", &|spent| seconds(spent.train_seconds)),
            row("from start to end", &|spent| seconds(spent.lasted_seconds)),
        ]);
        columns(&rows)
    }
}

type Figure = fn(&AtQueries) -> &Measured;

const FIGURES: [(&str, Figure); 2] = [
    ("accuracy, last epoch, after", |at| &at.accuracy),
    ("agreement with the teacher, after", |at| &at.agreement),
];

fn head(first: &str, jobs: &[String; 2], color: Color) -> Vec<String> {
    [first, &jobs[0], &jobs[1]].map(|name| color.soft(name)).to_vec()
}

/// What makes figures of the two mean different things. Of evaluation images a summary knows the
/// number alone, so two sets of one size pass.
fn warnings(both: [&Summary; 2]) -> Vec<String> {
    let mut warnings = Vec::new();
    let [first, second] = both.map(|summary| short(&summary.teacher.fingerprint));
    if both[0].teacher.fingerprint != both[1].teacher.fingerprint {
        warnings.push(format!("they learn from different teachers, {first} and {second}"));
    }
    let [first, second] = both.map(evaluation);
    if first != second {
        warnings.push(format!("they are measured on different images: {first}, and {second}"));
    }
    let [first, second] = both.map(|summary| summary.student.classes);
    if first != second {
        warnings.push(format!("they tell {first} and {second} classes apart"));
    }
    warnings
}

fn evaluation(summary: &Summary) -> String {
    match &summary.evaluation {
        None => "none".to_owned(),
        Some(of) => {
            let (accuracy, agreement) = (count(of.images.into()), count(of.agreement_images.into()));
            format!("{accuracy} for accuracy and {agreement} for agreement")
        }
    }
}

/// The rows that are not the same in both.
fn setup(both: [&Summary; 2]) -> Vec<Differing> {
    type Describe = fn(&Summary) -> String;
    let rows: [(&'static str, Describe); 7] = [
        ("student", |of| {
            let parameters = counted(of.student.parameters, "parameter", "parameters");
            format!("{}, {parameters}", of.student.architecture)
        }),
        ("teacher", |of| {
            format!("{} ({})", of.teacher.model, short(&of.teacher.fingerprint))
        }),
        ("acquisition", |of| acquisition_name(of.pool.acquisition)),
        ("pool", pool),
        ("budget", |of| counted(of.budget.queries, "query", "queries")),
        ("random control", |of| {
            let control = if of.control.is_some() { "yes" } else { "no" };
            control.to_owned()
        }),
        ("evaluation images", evaluation),
    ];
    let rows = rows.into_iter().map(|(what, of)| Differing {
        what,
        values: both.map(of),
    });
    rows.filter(|row| row.values[0] != row.values[1]).collect()
}

fn pool(summary: &Summary) -> String {
    let pool = &summary.pool;
    let mut text = format!(
        "{}, {} at {}",
        counted(pool.seeds.into(), "seed image", "seed images"),
        counted(pool.pairs, "pair", "pairs"),
        counted(pool.lambdas.into(), "weight", "weights"),
    );
    if pool.generated > 0 {
        text += &format!(", {} generated", count(pool.generated.into()));
    }
    text
}

/// Both active students by queries. Of rounds of one student after equally many queries the last
/// counts.
fn at_queries(both: [&Summary; 2]) -> Vec<AtQueries> {
    let mut found: BTreeMap<u64, [Option<&RoundSummary>; 2]> = BTreeMap::new();
    for (at, summary) in both.into_iter().enumerate() {
        for round in &summary.active.rounds {
            found.entry(round.queries_total).or_default()[at] = Some(round);
        }
    }
    let images = both.map(|summary| summary.evaluation.as_ref());
    let for_accuracy = images.map(|of| of.map_or(0, |of| of.images));
    let for_agreement = images.map(|of| of.map_or(0, |of| of.agreement_images));
    let rows = found.into_iter().map(|(queries, rounds)| AtQueries {
        queries,
        accuracy: Measured::of(rounds.map(|round| Some(round?.accuracy?.last)), for_accuracy),
        agreement: Measured::of(rounds.map(|round| round?.agreement), for_agreement),
    });
    rows.filter(|row| !row.accuracy.is_empty() || !row.agreement.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use stillhouse_core::{Acquisition, Fingerprint};

    fn side(name: &str) -> Side {
        let mut summary = example::summary();
        summary.job.name = name.to_owned();
        Side {
            directory: format!("jobs/{name}"),
            summary,
        }
    }

    /// Another job whose rounds meet those of the first at 2,000 and 14,000 queries.
    fn other() -> Side {
        let mut other = side("entropy");
        let summary = &mut other.summary;
        summary.pool.acquisition = Acquisition::Entropy;
        summary.student.architecture = "lenet5-half".to_owned();
        summary.budget.cost = None;
        summary.control = None;
        summary.active.rounds.truncate(3);
        summary.active.rounds[1].queries_total = 10_000;
        summary.active.rounds[2].accuracy = summary.active.accuracy;
        other
    }

    #[test]
    fn two_jobs_are_compared_where_both_were_measured() {
        let text = Comparison::of(&side("least-confidence"), &other()).text(Color::Never);
        let expected = include_str!("testdata/comparison.txt").trim_end();
        assert!(text == expected, "found:\n{text}\nexpected:\n{expected}");
    }

    #[test]
    fn nothing_stands_in_for_a_round_that_does_not_meet_another() {
        let comparison = Comparison::of(&side("a"), &other());
        let at = |queries| {
            comparison
                .rounds
                .iter()
                .find(|at| at.queries == queries)
                .unwrap()
                .accuracy
        };
        assert_eq!(at(8_000).values, [Some(0.9853), None]);
        assert_eq!(at(10_000).values, [None, Some(0.9853)]);
        assert_eq!((at(10_000).difference, at(10_000).half_width), (None, None));
        assert_eq!(at(14_000).difference, Some(0.9915 - 0.9892));
        let half = (1.96_f64.powi(2) * (0.9892 * 0.0108 + 0.9915 * 0.0085) / 10_000.0).sqrt();
        assert!((at(14_000).half_width.unwrap() - half).abs() < 1e-12);
    }

    #[test]
    fn without_a_number_of_images_a_difference_has_no_interval() {
        let (first, mut second) = (side("a"), side("b"));
        second.summary.evaluation = None;
        let comparison = Comparison::of(&first, &second);
        assert_eq!(comparison.rounds[0].accuracy.difference, Some(0.0));
        assert_eq!(comparison.rounds[0].accuracy.half_width, None);
        assert_eq!(
            comparison.warnings,
            ["they are measured on different images: 10,000 for accuracy and 500 for agreement, and none"]
        );
    }

    #[test]
    fn another_teacher_is_warned_of_even_under_the_same_name() {
        let (first, mut second) = (side("a"), side("b"));
        assert_eq!(Comparison::of(&first, &second).warnings, Vec::<String>::new());
        second.summary.teacher.fingerprint = Fingerprint::of(&["another"]).to_string();
        let comparison = Comparison::of(&first, &second);
        assert_eq!(comparison.setup[0].what, "teacher");
        let text = comparison.text(Color::Never);
        assert!(
            text.contains("not comparable: they learn from different teachers"),
            "{text}"
        );
    }

    #[test]
    fn jobs_of_one_name_are_told_apart_by_their_directories() {
        let (first, mut second) = (side("a"), side("a"));
        second.directory = "jobs/again".to_owned();
        assert_eq!(Comparison::of(&first, &second).jobs, ["jobs/a", "jobs/again"]);
    }

    #[test]
    fn programs_get_the_same_figures() {
        let json = Comparison::of(&side("a"), &other()).json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["rounds"][1]["accuracy"]["values"][1], serde_json::Value::Null);
        assert_eq!(value["spent"][0]["billed"], 50_420);
        assert_eq!(value["setup"][0]["what"], "student");
    }
}
