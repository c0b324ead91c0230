//! What must hold after a trial, whatever fell.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use stillhouse_core::key::hex;
use stillhouse_ledger::OnAmbiguous;
use stillhouse_teacher::BillFile;
use stillhouse_teacher::bill::repeats;

use super::trial::Seen;
use crate::books::{Books, audit};
use crate::coordinate::results;
use crate::failure::{Failure, Kind};
use crate::report::summary::{State, Summary};

/// What was spent, by the ledger and by the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// Queries that may be billed.
    pub budget: u64,
    /// Queries that are or may be billed, by the ledger.
    pub billed: u64,
    /// Those of them that are in doubt.
    pub in_doubt: u64,
    /// Queries on the teacher's own bill, where that was given.
    pub bill: Option<u64>,
}

/// Labels over the time of the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Labels {
    /// At the beginning.
    pub before: u64,
    /// At the end.
    pub after: u64,
    /// Seen once, and then gone or another.
    pub lost: u64,
}

/// The student that came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Student {
    /// BLAKE3 of `student.safetensors`, hexadecimal.
    pub digest: String,
    /// Rounds after that of the seed images.
    pub rounds: u64,
    /// Accuracy of the last round, as a fraction of 1.
    pub accuracy: Option<f64>,
    /// Agreement of the last round, as a fraction of 1.
    pub agreement: Option<f64>,
}

/// Everything that a trial came to, beside its blows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reckoning {
    /// What was spent; none when the job never had a ledger.
    pub spent: Option<Spent>,
    /// Labels.
    pub labels: Labels,
    /// The student; none when the job is not finished.
    pub student: Option<Student>,
    /// What does not hold, in words.
    pub violations: Vec<String>,
}

/// Reckons up the job in `dir` with what was `seen` of it. `bill` is the teacher's own, of this job alone. Of a job that goes
/// on (not `is_over`), nothing but what was seen is known for certain.
///
/// # Errors
/// When the bill or the student cannot be read.
pub fn reckon(dir: &Path, seen: &Seen, bill: Option<&Path>, is_over: bool) -> Result<Reckoning, Failure> {
    let (counts, after) = seen.last.map_or((None, 0), |(counts, labels)| (Some(counts), labels));
    let mut violations = seen.findings.clone();
    let labels = Labels {
        before: seen.before,
        after,
        lost: seen.lost,
    };
    if labels.lost > 0 {
        violations.push(format!(
            "{} labels that were there are gone, or are others",
            labels.lost
        ));
    }
    if seen.beyond > 0 {
        violations.push(format!("{} queries are billed beyond the budget", seen.beyond));
    }
    let bill = bill.map(BillFile::read).transpose();
    let bill = bill.map_err(|error| Failure::new(Kind::Usage, error).context("cannot read the teacher's bill"))?;
    let spent = counts.map(|counts| Spent {
        budget: counts.budget,
        billed: counts.billed(),
        in_doubt: counts.ambiguous + counts.sent,
        bill: bill.as_ref().map(|bill| bill.len() as u64),
    });
    if let Some(spent) = spent.filter(|_| is_over) {
        if let Some(bill) = &bill {
            violations.extend(compare(spent, bill, allowed(dir)?));
        }
        violations.extend(audit::audit(dir)?.findings);
    }
    Ok(Reckoning {
        spent,
        labels,
        student: student(dir)?,
        violations,
    })
}

/// How often one image may be on a bill.
fn allowed(dir: &Path) -> Result<u64, Failure> {
    Ok(match Books::read(dir)?.genesis.on_ambiguous {
        OnAmbiguous::Hold | OnAmbiguous::IdempotencyKey { .. } => 1,
        OnAmbiguous::Resend { attempts } => 1 + u64::from(attempts),
    })
}

/// What is wrong with a bill beside the ledger.
fn compare(spent: Spent, bill: &[String], allowed: u64) -> Vec<String> {
    let (billed, twice) = (bill.len() as u64, repeats(bill, allowed));
    let mut found = Vec::new();
    if billed > spent.budget {
        found.push(format!(
            "the teacher billed {billed} queries of a budget of {}",
            spent.budget
        ));
    }
    if billed > spent.billed {
        found.push(format!(
            "the teacher billed {billed} queries, the ledger knows of {}",
            spent.billed
        ));
    }
    if twice > 0 {
        found.push(format!(
            "{twice} queries are on the teacher's bill more often than {allowed} times"
        ));
    }
    found
}

/// The student that the job in `dir` left; none when it is not finished.
fn student(dir: &Path) -> Result<Option<Student>, Failure> {
    let Ok(summary) = results::read_summary(dir) else {
        return Ok(None);
    };
    if summary.state != State::Finished {
        return Ok(None);
    }
    let active = &summary.active;
    Ok(Some(Student {
        digest: digest(&dir.join("student.safetensors"))?,
        rounds: active.rounds.len().saturating_sub(1) as u64,
        accuracy: active.accuracy.map(|accuracy| accuracy.last),
        agreement: active.agreement,
    }))
}

fn digest(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let bytes = bytes.map_err(|error| Failure::new(Kind::Storage, error))?;
    Ok(hex(blake3::hash(&bytes).as_bytes()))
}

/// What does not depend on what happened to a job: digests of its query batches, and of its students.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Essence {
    /// By student, in order of rounds.
    pub batches: Vec<(String, Vec<String>)>,
    /// By file name.
    pub students: BTreeMap<String, String>,
}

impl Essence {
    /// The essence of the finished job in `dir`.
    ///
    /// # Errors
    /// When something of it cannot be read.
    pub fn of(dir: &Path) -> Result<Self, Failure> {
        let summary = results::read_summary(dir)?;
        Ok(Self {
            batches: batches(&summary),
            students: students(&dir.join("students"))?,
        })
    }
}

fn batches(summary: &Summary) -> Vec<(String, Vec<String>)> {
    let arms = summary.arms().map(|(arm, of)| {
        let digests = of.rounds.iter().map(|round| round.digest.clone());
        (arm.to_string(), digests.collect())
    });
    arms.collect()
}

fn students(folder: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Storage, error).context(format!("cannot read the students in {}", folder.display()))
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, digest(&entry.path())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_beyond_budget_or_ledger_and_one_that_repeats_itself_are_found() {
        let spent = Spent {
            budget: 4,
            billed: 3,
            in_doubt: 1,
            bill: None,
        };
        let bill = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(compare(spent, &bill(&["a", "b"]), 1).is_empty());
        assert!(compare(spent, &bill(&["a", "a"]), 2).is_empty());
        assert_eq!(compare(spent, &bill(&["a", "a"]), 1).len(), 1, "twice");
        assert_eq!(
            compare(spent, &bill(&["a", "b", "c", "d"]), 1).len(),
            1,
            "beyond the ledger"
        );
        assert_eq!(
            compare(spent, &bill(&["a", "b", "c", "d", "e"]), 1).len(),
            2,
            "beyond the budget, too"
        );
    }
}
