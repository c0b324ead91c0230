//! What an ordeal came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What must never happen, counted over all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Queries billed beyond a budget.
    pub over_budget: u64,
    /// Bills of one image beyond what the job allows: one under `hold`.
    pub sent_twice: u64,
    /// Labels that were paid for or kept, and are gone.
    pub labels_lost: u64,
    /// Anything else that is wrong, in words.
    pub others: Vec<String>,
}

impl Violations {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn add(&mut self, other: impl Into<String>) {
        self.others.push(other.into());
    }
}

/// What happened, and what it came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was drawn.
    pub seed: u64,
    /// For how long.
    pub took: Duration,
    /// Jobs begun.
    pub jobs: u64,
    /// Jobs that finished.
    pub finished: u64,
    /// Jobs that could not go on.
    pub ended_early: u64,
    /// Blows that fell, by name.
    pub blows: BTreeMap<&'static str, u64>,
    /// Lives of coordinators that ended by themselves before their job did, by exit code.
    pub gave_up: BTreeMap<String, u64>,
    /// Queries on the teacher's bills.
    pub billed: u64,
    /// Queries that the ledgers count as billed, those in doubt included.
    pub in_ledgers: u64,
    /// Those in doubt.
    pub in_doubt: u64,
    /// What must never happen.
    pub violations: Violations,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }
}

impl fmt::Display for Report {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.took.as_secs_f64() / 60.0;
        write!(
            f,
            "ordeal: {minutes:.1} minutes, {} jobs ({} finished, {} ended early)",
            self.jobs, self.finished, self.ended_early
        )?;
        write!(
            f,
            ", {} blows ({})",
            self.blows.values().sum::<u64>(),
            list(&self.blows)
        )?;
        write!(f, ", starts that gave up: {}", list(&self.gave_up))?;
        write!(
            f,
            ", {} queries billed by the teacher, {} in the ledgers ({} of them in doubt)",
            self.billed, self.in_ledgers, self.in_doubt
        )?;
        let Violations {
            over_budget,
            sent_twice,
            labels_lost,
            others,
        } = &self.violations;
        write!(
            f,
            ", over budget {over_budget}, sent twice {sent_twice}, labels lost {labels_lost}, other violations {}, seed {}",
            others.len(),
            self.seed
        )
    }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_that_says_what_went_wrong() {
        let mut report = Report::new(7);
        assert!(
            report
                .to_string()
                .ends_with("over budget 0, sent twice 0, labels lost 0, other violations 0, seed 7")
        );
        report.blows.insert("gateway killed", 3);
        report.violations.sent_twice = 1;
        let line = report.to_string();
        assert!(
            line.contains("3 blows (gateway killed 3)") && line.contains("sent twice 1"),
            "{line}"
        );
        assert!(!line.contains('\n') && !report.violations.is_empty());
    }
}
