//! What a trial came to, for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::cost::{Cost, Fallen, costs};
use super::life::Lives;
use super::reckon::Reckoning;
use super::schedule::{Kind, Target};
use super::trial::Outcome;
use super::twin::Twin;
use crate::report::number::{count, counted, percent, seconds, short};
use crate::report::terminal::{Color, aligned, indent, pairs, plain};

/// Version of the JSON.
const VERSION: u32 = 1;

/// A blow, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blow {
    /// After the beginning.
    pub at_ms: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What was done.
    pub kind: Kind,
    /// To what.
    pub target: Target,
    /// `worker N`, `coordinator`, or the name of a gateway.
    pub name: String,
    /// Process id of whoever was struck; `null` for a link.
    pub process: Option<u32>,
    /// How long it lasted; `null` for what is over at once.
    pub time_ms: Option<u64>,
    /// In a sentence.
    pub what: String,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Everything about a trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The job directory.
    pub directory: PathBuf,
    /// What fixed the blows.
    pub seed: u64,
    /// Mean time between two.
    pub mtbf_ms: u64,
    /// From the beginning of the trial to the end of the job.
    pub took_ms: u64,
    /// The blows, in order.
    pub blows: Vec<Blow>,
    /// How often the job was started; `null` when somebody else did that.
    pub lives: Option<Lives>,
    /// Budget, labels, student.
    #[serde(flatten)]
    pub reckoning: Reckoning,
    /// The unharmed job; `null` when there was none.
    pub twin: Option<Twin>,
    /// Whether the job finished and everything holds.
    pub holds: bool,
}

/// What a trial was made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The job directory.
    pub directory: PathBuf,
    /// What fixed the blows.
    pub seed: u64,
    /// Mean time between two.
    pub mtbf: std::time::Duration,
    /// What happened.
    pub outcome: &'a Outcome,
    /// What must hold.
    pub reckoning: Reckoning,
    /// The unharmed job.
    pub twin: Option<Twin>,
}

impl Report {
    /// The report of a trial.
    #[must_use]
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts {
            directory,
            seed,
            mtbf,
            outcome,
            mut reckoning,
            twin,
        } = parts;
        reckoning.violations.extend(twin.iter().flat_map(Twin::violations));
        let costs = costs(&outcome.fallen, outcome.log.events());
        let blows = outcome
            .fallen
            .iter()
            .zip(costs)
            .map(|(fallen, cost)| blow(fallen, cost));
        Self {
            version: VERSION,
            directory,
            seed,
            mtbf_ms: ms(mtbf),
            took_ms: ms(outcome.took),
            blows: blows.collect(),
            lives: outcome.lives.clone(),
            holds: outcome.obstacle.is_none() && reckoning.student.is_some() && reckoning.violations.is_empty(),
            reckoning,
            twin,
        }
    }

    /// The JSON, indented.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }

    /// Text for a terminal.
    #[must_use]
    pub fn text(&self, color: Color) -> String {
        let head = format!(
            "{}  {} in {}, one every {} on average, seed {}",
            color.strong(&plain(&self.directory.display().to_string())),
            counted(self.blows.len() as u64, "blow", "blows"),
            time(self.took_ms),
            time(self.mtbf_ms),
            self.seed
        );
        let table = indent(&self.table());
        format!("{head}\n\n{table}\n{}", indent(&pairs(&self.facts(), color)))
    }

    fn table(&self) -> String {
        let row = |cells: [String; 4]| cells.to_vec();
        let head = ["at", "blow", "noticed after", "next step after"].map(str::to_owned);
        let or_dash = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), time);
        let blows = self.blows.iter().map(|blow| {
            row([
                time(blow.at_ms),
                plain(&blow.what),
                or_dash(blow.cost.noticed_after_ms),
                or_dash(blow.cost.next_step_after_ms),
            ])
        });
        let rows: Vec<_> = std::iter::once(row(head)).chain(blows).collect();
        aligned(&rows, |column| column != 1)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("blows", self.counts())];
        if let Some(Lives {
            started,
            killed,
            gave_up,
        }) = &self.lives
        {
            let ends = gave_up
                .iter()
                .map(|end| format!(", gave up with {end}"))
                .collect::<String>();
            facts.push((
                "job",
                format!("started {}, killed {}{ends}", times(*started), times(*killed)),
            ));
        }
        facts.extend(self.reckoning.spent.map(|spent| {
            let of = counted(spent.budget, "query", "queries");
            let bill = spent
                .bill
                .map(|bill| format!("; {} on the teacher's bill", count(bill)));
            let doubt = count(spent.in_doubt);
            (
                "budget",
                format!(
                    "{} of {of} billed, {doubt} of them in doubt{}",
                    count(spent.billed),
                    bill.unwrap_or_default()
                ),
            )
        }));
        let labels = self.reckoning.labels;
        let (before, after, lost) = (count(labels.before), count(labels.after), count(labels.lost));
        facts.push((
            "labels",
            format!("{after}, {before} of them before; {lost} lost or changed"),
        ));
        facts.push(("student", self.student()));
        facts.extend(self.twin.as_ref().map(|twin| ("twin", twin_words(twin))));
        facts.extend(self.reckoning.violations.iter().map(|found| ("violated", plain(found))));
        let verdict = if self.holds {
            "the job finished, and everything holds"
        } else {
            "not everything holds"
        };
        facts.push(("verdict", verdict.to_owned()));
        facts
    }

    fn counts(&self) -> String {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for blow in &self.blows {
            *counts.entry(kind_words(blow.kind, blow.target)).or_default() += 1;
        }
        match counts.is_empty() {
            true => "none".to_owned(),
            false => counts
                .iter()
                .map(|(what, n)| format!("{what} {n}"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn student(&self) -> String {
        let Some(student) = &self.reckoning.student else {
            return "not finished".to_owned();
        };
        let mut text = format!("finished after {}", counted(student.rounds, "round", "rounds"));
        if let Some(accuracy) = student.accuracy {
            text += &format!(", accuracy {}", percent(accuracy));
        }
        if let Some(agreement) = student.agreement {
            text += &format!(", agreement {}", percent(agreement));
        }
        text + &format!(", {}", short(&student.digest))
    }
}

fn blow(fallen: &Fallen, cost: Cost) -> Blow {
    Blow {
        at_ms: ms(fallen.at),
        unix_ms: fallen.unix_ms,
        kind: fallen.blow.kind(),
        target: fallen.blow.target(),
        name: fallen.name.clone(),
        process: fallen.process,
        time_ms: fallen.blow.time().map(ms),
        what: fallen.blow.words(&fallen.name),
        cost,
    }
}

fn kind_words(kind: Kind, target: Target) -> String {
    let who = match target {
        Target::Worker => "worker",
        Target::Coordinator => "coordinator",
        Target::Link => "link",
    };
    let what = match kind {
        Kind::Kill => "killed",
        Kind::Stop => "stopped",
        Kind::Cut => "cut",
        Kind::Slow => "slowed",
    };
    format!("{who} {what}")
}

fn twin_words(twin: &Twin) -> String {
    let same = |is_same: bool| if is_same { "the same" } else { "other" };
    let (batches, students) = (same(twin.same_batches), same(twin.same_students));
    let dir = plain(&twin.directory.display().to_string());
    format!(
        "{batches} queries, {students} students, for {} in {dir}",
        counted(twin.queries, "query", "queries")
    )
}

fn times(n: u32) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> String {
    seconds(ms as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::super::reckon::{Labels, Spent, Student};
    use super::*;

    fn report() -> Report {
        let blow = |at_ms, kind, target, name: &str, what: &str, cost: [Option<u64>; 2]| Blow {
            at_ms,
            unix_ms: 1_000 + at_ms,
            kind,
            target,
            name: name.into(),
            process: None,
            time_ms: None,
            what: what.into(),
            cost: Cost {
                noticed_after_ms: cost[0],
                next_step_after_ms: cost[1],
            },
        };
        Report {
            version: VERSION,
            directory: "my-job".into(),
            seed: 7,
            mtbf_ms: 2_000,
            took_ms: 65_000,
            blows: vec![
                blow(
                    1_500,
                    Kind::Kill,
                    Target::Worker,
                    "worker 1",
                    "worker 1 killed",
                    [Some(20), Some(900)],
                ),
                blow(
                    12_000,
                    Kind::Stop,
                    Target::Worker,
                    "worker 0",
                    "worker 0 stopped for 2.0 s",
                    [None, Some(3_000)],
                ),
            ],
            lives: Some(Lives {
                started: 2,
                killed: 1,
                gave_up: vec![],
            }),
            reckoning: Reckoning {
                spent: Some(Spent {
                    budget: 530,
                    billed: 530,
                    in_doubt: 2,
                    bill: Some(529),
                }),
                labels: Labels {
                    before: 0,
                    after: 528,
                    lost: 0,
                },
                student: Some(Student {
                    digest: "ab".repeat(32),
                    rounds: 3,
                    accuracy: Some(0.954),
                    agreement: None,
                }),
                violations: vec![],
            },
            twin: None,
            holds: true,
        }
    }

    #[test]
    fn a_report_says_what_fell_what_it_cost_and_what_holds() {
        let text = report().text(Color::Never);
        let expected = format!(
            "\
my-job  2 blows in 1 min 05 s, one every 2.0 s on average, seed 7

     at  blow                        noticed after  next step after
  1.5 s  worker 1 killed                     0.0 s            0.9 s
   12 s  worker 0 stopped for 2.0 s              -            3.0 s

  blows    worker killed 1, worker stopped 1
  job      started 2 times, killed once
  budget   530 of 530 queries billed, 2 of them in doubt; 529 on the teacher's bill
  labels   528, 0 of them before; 0 lost or changed
  student  finished after 3 rounds, accuracy 95.40 %, {}
  verdict  the job finished, and everything holds
",
            short(&"ab".repeat(32))
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_violated_is_said_and_a_report_is_json() {
        let mut report = report();
        report.reckoning.violations.push("1 label is\u{1b}[2J gone".into());
        report.holds = false;
        let text = report.text(Color::Never);
        assert!(text.contains("violated 1 label is\u{fffd}[2J gone\n"), "{text}");
        assert!(text.contains("verdict  not everything holds"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["blows"][0]["noticedAfterMs"], 20);
        assert_eq!(json["spent"]["inDoubt"], 2);
        assert_eq!(json["lives"]["gaveUp"], serde_json::json!([]));
        assert_eq!(json["holds"], false);
    }
}
