//! `summary.json`: what a job spent and what that bought. Stable and documented in
//! `docs/summary.md`; a test holds that table to these types.

use serde::{Deserialize, Serialize};
use stillhouse_core::guard::Verdict;
use stillhouse_core::plan::Arm;
use stillhouse_core::score::Acquisition;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use round::{Accuracy, ArmSummary, ClassProbability, GuardSummary, HARDEST, Hardest, RoundSummary, Timings};

mod round;

/// Version of the format. A key may be added without changing it; none changes its meaning.
pub const VERSION: u32 = 1;

/// Everything that `summary.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// [`VERSION`].
    pub version: u32,
    /// The job.
    pub job: JobSummary,
    /// Whether it still runs.
    pub state: State,
    /// First start, over all runs of the job directory.
    pub started: Timestamp,
    /// When this summary was written.
    pub updated: Timestamp,
    /// When the job ended; `null` while it runs.
    pub finished: Option<Timestamp>,
    /// Who was asked.
    pub teacher: TeacherSummary,
    /// What was trained.
    pub student: StudentSummary,
    /// What could be asked.
    pub pool: PoolSummary,
    /// What accuracy and agreement are measured on; `null` when the job has no evaluation images.
    pub evaluation: Option<EvaluationSummary>,
    /// What was spent.
    pub budget: BudgetSummary,
    /// The student whose queries the acquisition function chose.
    pub active: ArmSummary,
    /// The random control; `null` when the job has none.
    pub control: Option<ArmSummary>,
    /// What the guard found; `null` without one, and before its first comparison.
    #[serde(default)]
    pub comparison: Option<ComparisonSummary>,
}

/// Whether active selection pays, by short trainings on equally many chosen and random candidates, compared on seed images that
/// neither has seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparisonSummary {
    /// `pays`, `harms` or `undecided`.
    pub verdict: Verdict,
    /// Images compared on, over all rounds.
    pub images: u64,
    /// Of those, where the training on chosen candidates names the teacher's class.
    pub active: u64,
    /// Where the training on random candidates does.
    pub random: u64,
    /// The difference in standard errors.
    pub deviations: f64,
    /// Whether later batches shift towards what works.
    pub shifts: bool,
}

/// The job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSummary {
    /// Its name.
    pub name: String,
    /// BLAKE3 over what makes it this job, hexadecimal.
    pub digest: String,
}

/// Whether a job still runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase")]
pub enum State {
    /// Rounds are left.
    Running,
    /// It asks nothing for a while; it goes on by itself.
    Paused {
        /// What it waits for.
        reason: String,
    },
    /// Budget, pool or stopping rule ended it.
    Finished,
    /// Something else ended it; it can go on.
    Stopped {
        /// What ended it.
        reason: String,
    },
}

impl State {
    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Finished => "finished",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// A moment, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
    /// The same in RFC 3339, UTC.
    pub rfc3339: String,
}

impl Timestamp {
    /// The moment `unix_ms` milliseconds after 1970-01-01 in UTC; one past the year 9999 is written
    /// as the end of that year.
    #[must_use]
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        const YEAR_9999_MS: u64 = 253_402_300_799_999;
        let nanos = i128::from(unix_ms.min(YEAR_9999_MS)) * 1_000_000;
        let rfc3339 = OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .expect("not after the year 9999")
            .format(&Rfc3339)
            .expect("a year of four digits in UTC");
        Self { unix_ms, rfc3339 }
    }

    /// Date and minute for people: `2026-03-01 12:30 UTC`. Falls back on the whole text.
    #[must_use]
    pub fn minute(&self) -> String {
        match (self.rfc3339.get(..10), self.rfc3339.get(11..16)) {
            (Some(date), Some(minute)) => format!("{date} {minute} UTC"),
            _ => self.rfc3339.clone(),
        }
    }
}

/// Who was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeacherSummary {
    /// Address without user, password, query or fragment.
    pub url: String,
    /// Model name.
    pub model: String,
    /// Fingerprint of the teacher, hexadecimal.
    pub fingerprint: String,
}

impl TeacherSummary {
    /// A teacher at `url`, of which everything is left out that may hold a secret.
    #[must_use]
    pub fn new(url: &str, model: &str, fingerprint: stillhouse_core::Fingerprint) -> Self {
        Self {
            url: without_secrets(url),
            model: model.to_owned(),
            fingerprint: fingerprint.to_string(),
        }
    }
}

/// Scheme, host, port and path of `url`.
fn without_secrets(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(url) if url.has_host() => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}{}", url.scheme(), url.path())
        }
        _ => "(not an address)".to_owned(),
    }
}

/// What was trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StudentSummary {
    /// Name of the network, or of the TorchScript file.
    pub architecture: String,
    /// Trainable values.
    pub parameters: u64,
    /// Classes it tells apart.
    pub classes: u32,
    /// Their names in order; empty when the job has none.
    pub class_names: Vec<String>,
}

impl StudentSummary {
    /// Name of `class`: its number when it has no name.
    #[must_use]
    pub fn class_name(&self, class: u32) -> String {
        let name = self.class_names.get(class as usize);
        name.cloned().unwrap_or_else(|| class.to_string())
    }
}

/// What could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSummary {
    /// Seed images.
    pub seeds: u32,
    /// Pairs of seed images.
    pub pairs: u64,
    /// Images that were generated for the pool.
    #[serde(default)]
    pub generated: u32,
    /// Mixing weights tried a pair.
    pub lambdas: u32,
    /// What a candidate is scored by.
    pub acquisition: Acquisition,
}

/// Name of an acquisition function in the file.
#[must_use]
pub fn acquisition_name(acquisition: Acquisition) -> String {
    let name = serde_json::to_value(acquisition).expect("a name");
    name.as_str().unwrap_or_default().to_owned()
}

/// What accuracy and agreement are measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSummary {
    /// Images with a true label, for accuracy.
    pub images: u32,
    /// Images that the teacher labelled, for agreement.
    pub agreement_images: u32,
}

/// What was spent, in queries unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetSummary {
    /// May be billed in all.
    pub queries: u64,
    /// Were billed.
    pub billed: Billed,
    /// Sent with an unknown outcome: they may have been billed and count against the budget.
    pub ambiguous: u64,
    /// The ambiguous ones among them that wait for a decision (`onAmbiguous: hold`).
    pub held: u64,
    /// Can still be asked.
    pub left: u64,
    /// Labels of other jobs that were used and cost nothing.
    #[serde(default)]
    pub reused: u64,
    /// What was billed when, in order of time: a few hundred points, however long the job lasts.
    #[serde(default)]
    pub history: Vec<Spending>,
    /// Price of one query, in the job's own currency; `null` when the job names none.
    pub price_per_query: Option<f64>,
    /// Price of everything billed.
    pub cost: Option<f64>,
}

/// What was billed up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spending {
    /// The moment, in milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
    /// Queries that were billed, or may have been.
    pub billed: u64,
}

/// Queries that were billed, by what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Billed {
    /// Seed images.
    pub real: u64,
    /// Candidates of the pool, of all students together.
    pub synthetic: u64,
    /// Evaluation images.
    pub evaluation: u64,
    /// All of them.
    pub total: u64,
}

/// A file that is no summary this version can read.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// Not JSON, or not a summary.
    #[error("expected a summary in JSON")]
    Syntax(#[source] serde_json::Error),
    /// Written by another version.
    #[error("expected summary version {VERSION}, found {found}")]
    Version {
        /// The version in the file.
        found: u64,
    },
}

impl Summary {
    /// Reads `summary.json`. Unknown keys are skipped, so that a newer minor version can be read.
    ///
    /// # Errors
    /// When the text is no summary, or one of another version.
    pub fn parse(text: &str) -> Result<Self, SummaryError> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let head: Head = serde_json::from_str(text).map_err(SummaryError::Syntax)?;
        if head.version != u64::from(VERSION) {
            return Err(SummaryError::Version { found: head.version });
        }
        serde_json::from_str(text).map_err(SummaryError::Syntax)
    }

    /// The text of `summary.json`, indented, with a final line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a summary has only text keys");
        text + "\n"
    }

    /// Seconds from the first start to the end, or to when this was written.
    #[must_use]
    pub fn lasted_seconds(&self) -> f64 {
        let end = self.finished.as_ref().unwrap_or(&self.updated);
        end.unix_ms.saturating_sub(self.started.unix_ms) as f64 / 1e3
    }

    /// The students and what was bought for them, in order.
    pub fn arms(&self) -> impl Iterator<Item = (Arm, &ArmSummary)> {
        let control = self.control.iter().map(|arm| (Arm::Control, arm));
        std::iter::once((Arm::Active, &self.active)).chain(control)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../../docs/summary.md");

    /// Paths of all keys, arrays written as `[]`.
    fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = if at.is_empty() {
                        key.clone()
                    } else {
                        format!("{at}.{key}")
                    };
                    paths(value, &path, found);
                    found.insert(path);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{at}[]"), found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The first column of the tables of the documentation.
    fn documented() -> BTreeSet<String> {
        let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('`').next())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_key_is_documented_and_nothing_else() {
        let mut summary = example::summary();
        summary.state = State::Stopped {
            reason: "the teacher is gone".to_owned(),
        };
        summary.student.class_names = vec!["zero".to_owned()];
        summary.comparison = Some(ComparisonSummary {
            verdict: Verdict::Pays,
            images: 400,
            active: 390,
            random: 380,
            deviations: 1.7,
            shifts: true,
        });
        let mut found = BTreeSet::new();
        let value = serde_json::to_value(&summary).expect("plain data");
        paths(&value, "", &mut found);
        // Both students have one form, which is documented once.
        let found: BTreeSet<String> = found.iter().map(|path| path.replace("control.", "active.")).collect();
        assert_eq!(documented(), found);
    }

    #[test]
    fn a_summary_survives_being_written_and_read() {
        let summary = example::summary();
        let text = summary.to_json();
        assert_eq!(Summary::parse(&text).expect("its own text"), summary);
        assert!(
            text.contains("\"lambda\": 0.3,"),
            "a weight is written as a short decimal"
        );
    }

    #[test]
    fn newer_keys_are_skipped_and_other_versions_refused() {
        let mut value = serde_json::to_value(example::summary()).expect("plain data");
        value["later"] = Value::from(1);
        assert!(Summary::parse(&value.to_string()).is_ok());
        value["version"] = Value::from(2);
        let error = Summary::parse(&value.to_string()).expect_err("another version");
        assert_eq!(error.to_string(), "expected summary version 1, found 2");
        assert!(matches!(Summary::parse("{}"), Err(SummaryError::Syntax(_))));
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (url, want) in [
            ("http://user:pass@host:8080/v2/x?key=1#f", "http://host:8080/v2/x"),
            ("https://token@teacher.example", "https://teacher.example/"),
            ("http://[::1]:80/a", "http://[::1]/a"),
            ("user:pass@host", "(not an address)"),
        ] {
            assert_eq!(without_secrets(url), want);
        }
    }

    #[test]
    fn moments_are_written_for_people_too() {
        let moment = Timestamp::from_unix_ms(1_772_368_200_250);
        assert_eq!(moment.rfc3339, "2026-03-01T12:30:00.25Z");
        assert_eq!(moment.minute(), "2026-03-01 12:30 UTC");
        assert_eq!(Timestamp::from_unix_ms(u64::MAX).rfc3339, "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_unix_ms(0).rfc3339, "1970-01-01T00:00:00Z");
    }
}
