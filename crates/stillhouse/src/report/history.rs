//! The jobs of a folder, newest first. Pure: summaries in, text or JSON out.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::number::{count, counted, money, percent, points, seconds};
use super::summary::{Accuracy, State, Summary, Timestamp};
use super::terminal::{Color, aligned, or_dash, plain};
use super::verdict::verdict;
use crate::failure::Failure;

/// One job of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub directory: String,
    /// What it last wrote of itself.
    pub state: State,
    /// First start.
    pub started: Timestamp,
    /// From the first start to its end, or to what it last wrote.
    pub lasted_seconds: f64,
    /// Queries billed.
    pub billed: u64,
    /// Queries that may be billed.
    pub budget: u64,
    /// Price of those billed, in the job's own currency.
    pub cost: Option<f64>,
    /// Accuracy of the latest round.
    pub accuracy: Option<Accuracy>,
    /// Agreement of the latest round.
    pub agreement: Option<f64>,
    /// Accuracy above the random control's at equal queries, as a fraction of 1.
    pub above_control: Option<f64>,
}

/// A job directory whose summary cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Where it is.
    pub directory: String,
    /// Why, with the file that was looked for.
    pub reason: String,
}

/// The jobs of a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Newest first.
    pub jobs: Vec<Entry>,
    /// In order of their names.
    pub unreadable: Vec<Unreadable>,
}

impl Entry {
    fn of(directory: String, summary: &Summary) -> Self {
        Self {
            name: summary.job.name.clone(),
            directory,
            state: summary.state.clone(),
            started: summary.started.clone(),
            lasted_seconds: summary.lasted_seconds(),
            billed: summary.budget.billed.total,
            budget: summary.budget.queries,
            cost: summary.budget.cost,
            accuracy: summary.active.accuracy,
            agreement: summary.active.agreement,
            above_control: verdict(summary).and_then(|standing| standing.accuracy),
        }
    }

    fn cells(&self, color: Color) -> Vec<String> {
        let gain = or_dash(self.above_control.map(points));
        vec![
            color.strong(&plain(&self.name)),
            plain(&self.directory),
            self.state.name().to_owned(),
            self.started.minute(),
            seconds(self.lasted_seconds),
            format!("{} of {}", count(self.billed), count(self.budget)),
            or_dash(self.cost.map(money)),
            color.strong(&or_dash(self.accuracy.map(|accuracy| percent(accuracy.last)))),
            or_dash(self.agreement.map(percent)),
            color.gain(&gain),
        ]
    }
}

impl History {
    /// Orders what was `read`: directories with their summaries, or why those cannot be read.
    #[must_use]
    pub fn of(read: Vec<(String, Result<Summary, Failure>)>) -> Self {
        let mut history = Self::default();
        for (directory, summary) in read {
            match summary {
                Ok(summary) => history.jobs.push(Entry::of(directory, &summary)),
                Err(failure) => history.unreadable.push(Unreadable {
                    directory,
                    reason: failure.reason(),
                }),
            }
        }
        history.jobs.sort_by(|a, b| {
            let newest = b.started.unix_ms.cmp(&a.started.unix_ms);
            newest.then_with(|| a.directory.cmp(&b.directory))
        });
        history.unreadable.sort_by(|a, b| a.directory.cmp(&b.directory));
        history
    }

    /// One JSON object with the lists `jobs` and `unreadable`.
    #[must_use]
    pub fn json(&self) -> String {
        format!(
            "{:#}",
            json!({ "version": 1, "jobs": self.jobs, "unreadable": self.unreadable })
        )
    }

    /// A line a job, then a line for each that cannot be read.
    #[must_use]
    pub fn text(&self, folder: &Path, color: Color) -> String {
        let mut text = match self.jobs.len() {
            0 => format!("no jobs in {}\n", plain(&folder.display().to_string())),
            _ => self.table(color),
        };
        if !self.unreadable.is_empty() {
            let jobs = counted(self.unreadable.len() as u64, "job", "jobs");
            text += &format!("\n{jobs} cannot be read:\n");
        }
        for job in &self.unreadable {
            text += &format!("{}\n", plain(&job.reason));
        }
        text.trim_end().to_owned()
    }

    fn table(&self, color: Color) -> String {
        const HEAD: [&str; 10] = [
            "job",
            "directory",
            "state",
            "started",
            "took",
            "queries",
            "cost",
            "accuracy",
            "agreement",
            "over random",
        ];
        const COST: usize = 6;
        let mut rows = vec![HEAD.map(|name| color.soft(name)).to_vec()];
        rows.extend(self.jobs.iter().map(|job| job.cells(color)));
        let has_cost = self.jobs.iter().any(|job| job.cost.is_some());
        if !has_cost {
            rows.iter_mut().for_each(|row| drop(row.remove(COST)));
        }
        aligned(&rows, |column| column > 3)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::failure::Kind;

    fn job(name: &str, started: u64) -> Summary {
        let mut summary = example::summary();
        summary.job.name = name.to_owned();
        summary.started = Timestamp::from_unix_ms(summary.started.unix_ms + started);
        summary
    }

    fn three() -> History {
        let mut alone = job("alone", 60_000);
        (alone.control, alone.budget.cost) = (None, None);
        alone.state = State::Stopped {
            reason: "the teacher is gone".to_owned(),
        };
        let torn = Failure::message(Kind::Directory, "jobs/torn/summary.json: expected a summary in JSON");
        History::of(vec![
            ("jobs/older".to_owned(), Ok(job("older", 0))),
            ("jobs/torn".to_owned(), Err(torn)),
            ("jobs/b".to_owned(), Ok(alone)),
        ])
    }

    #[test]
    fn the_newest_job_comes_first_and_one_that_cannot_be_read_says_why() {
        let text = three().text(Path::new("jobs"), Color::Never);
        let expected = include_str!("testdata/history.txt").trim_end();
        assert!(text == expected, "found:\n{text}\nexpected:\n{expected}");
    }

    #[test]
    fn a_price_that_no_job_names_has_no_column() {
        let mut history = three();
        history.jobs.iter_mut().for_each(|job| job.cost = None);
        let text = history.text(Path::new("jobs"), Color::Never);
        assert!(!text.contains("cost") && text.contains("99.15 %"), "{text}");
    }

    #[test]
    fn programs_get_one_object() {
        let value: serde_json::Value = serde_json::from_str(&three().json()).unwrap();
        assert_eq!(value["jobs"][0]["name"], "alone");
        assert_eq!(value["jobs"][0]["state"]["name"], "stopped");
        assert_eq!(value["jobs"][0]["aboveControl"], serde_json::Value::Null);
        assert_eq!(value["jobs"][1]["billed"], 50_420);
        assert_eq!(value["jobs"][1]["accuracy"]["last"], 0.9915);
        assert_eq!(value["unreadable"][0]["directory"], "jobs/torn");
    }

    #[test]
    fn a_folder_without_jobs_says_so_and_names_cannot_steer_the_terminal() {
        assert_eq!(
            History::default().text(Path::new("jobs"), Color::Never),
            "no jobs in jobs"
        );
        let history = History::of(vec![("x\u{1b}[2J".to_owned(), Ok(job("a\u{1b}b\n", 0)))]);
        let text = history.text(Path::new("jobs"), Color::Never);
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text}");
    }
}
