//! The ledger against the teacher's bill.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context;
use stillhouse_core::Key;
use stillhouse_core::job::OnAmbiguous;
use stillhouse_ledger::{Counts, LedgerError, Reader, store};

use super::report::Violations;
use super::stage::Stage;
use crate::jobs::{CLASSES, SHAPE};
use crate::outcomes::Outcome;
use crate::teacher::predict;

/// What the ledger of one job has shown so far.
#[derive(Default)]
pub(super) struct Books {
    /// Labels that were on disk when a coordinator was dead.
    kept: HashMap<Key, Vec<f32>>,
    /// The charges of the last look.
    pub(super) counts: Option<Counts>,
}

impl Books {
    /// Looks into the ledger while no coordinator runs: in a copy, so that the next coordinator
    /// finds the file as the last one left it.
    ///
    /// # Errors
    /// When the file cannot be copied.
    pub(super) fn look(&mut self, stage: &Stage, violations: &mut Violations) -> anyhow::Result<()> {
        // Before the ledger: what is billed is announced there first.
        let bill = stage.bill().context("read the bill")?;
        check_bill(&bill, stage, violations);
        let copy = stage.folder.join("books");
        match read_copy(&stage.dir(), &copy)? {
            Ok(reader) => self.compare(&reader, &bill, violations),
            // None yet, or a process died while it made the file.
            Err(_) if bill.is_empty() && self.counts.is_none() => Ok(()),
            Err(error) => {
                violations.add(format!("{} queries are billed, and the ledger: {error}", bill.len()));
                Ok(())
            }
        }
    }

    fn compare(&mut self, reader: &Reader, bill: &[String], violations: &mut Violations) -> anyhow::Result<()> {
        let counts = reader.counts();
        if (bill.len() as u64) > counts.billed() {
            let unknown = bill.len() as u64 - counts.billed();
            violations.add(format!("{unknown} billed queries are in no ledger: {counts:?}"));
        }
        let beyond = counts.billed().saturating_sub(counts.budget);
        violations.over_budget = violations.over_budget.max(beyond);
        let entries = reader.entries().context("read the ledger's copy")?;
        let labelled = entries.into_iter().filter_map(|entry| Some((entry.key, entry.label?)));
        let kept: HashMap<Key, Vec<f32>> = labelled
            .map(|(key, label)| (key, label.probabilities().to_vec()))
            .collect();
        let lost = self
            .kept
            .iter()
            .filter(|(key, label)| kept.get(key) != Some(label))
            .count();
        violations.labels_lost += lost as u64;
        if counts.committed != kept.len() as u64 {
            violations.add(format!("{} labels are kept, but {counts:?}", kept.len()));
        }
        self.kept = kept;
        self.counts = Some(counts);
        Ok(())
    }
}

/// Checks the bill alone: it never exceeds the budget, and names no image too often.
pub(super) fn check_bill(bill: &[String], stage: &Stage, violations: &mut Violations) {
    let budget = &stage.job.spec.budget;
    let beyond = (bill.len() as u64).saturating_sub(budget.queries);
    violations.over_budget = violations.over_budget.max(beyond);
    let allowed = match budget.on_ambiguous {
        OnAmbiguous::Hold => 1,
        OnAmbiguous::Resend(attempts) | OnAmbiguous::IdempotencyKey(attempts) => 1 + u64::from(attempts),
    };
    let mut times: BTreeMap<&str, u64> = BTreeMap::new();
    bill.iter().for_each(|image| *times.entry(image).or_default() += 1);
    let twice = times.values().map(|times| times.saturating_sub(allowed)).sum();
    violations.sent_twice = violations.sent_twice.max(twice);
}

/// Checks what a finished job says of itself against the bill: nothing paid for is lost, nothing is
/// claimed that was not billed, every label is the teacher's.
pub(super) fn settle(outcome: &Outcome, bill: &[String], violations: &mut Violations) {
    let (budget, total) = (outcome.count("/budget/queries"), outcome.count("/budget/billed/total"));
    let (ambiguous, left) = (outcome.count("/budget/ambiguous"), outcome.count("/budget/left"));
    if total + ambiguous + left != budget {
        violations.add(format!(
            "{total} billed, {ambiguous} in doubt and {left} left are not {budget}"
        ));
    }
    if bill.len() as u64 > total + ambiguous {
        violations.add(format!(
            "{} billed, but the summary counts {total} and {ambiguous}",
            bill.len()
        ));
    }
    let billed: BTreeSet<&String> = bill.iter().collect();
    let labelled = outcome.labelled();
    let unpaid = labelled.iter().filter(|image| !billed.contains(image)).count();
    if unpaid > 0 {
        violations.add(format!("{unpaid} labels of images that were never billed"));
    }
    if labelled.len() as u64 != total {
        violations.add(format!("{} labels of {total} billed queries", labelled.len()));
    }
    let lost = billed.iter().filter(|image| !labelled.contains(**image)).count() as u64;
    violations.labels_lost += lost.saturating_sub(ambiguous);
    let strange = outcome
        .labels()
        .into_iter()
        .filter(|(image, label)| !is_the_teachers(image, label))
        .count();
    if strange > 0 {
        violations.add(format!("{strange} labels are not the teacher's answer"));
    }
}

fn is_the_teachers(image: &[u8], label: &[f32]) -> bool {
    let pixels = stillhouse_teacher::Pixels::Uint8(image.to_vec());
    let answer = predict(SHAPE, CLASSES)(pixels, 1);
    answer.is_ok_and(|answer| answer.iter().zip(label).all(|(a, b)| (a - b).abs() < 1e-5))
}

/// Opens a copy of the ledger in `dir`.
fn read_copy(dir: &Path, copy: &Path) -> anyhow::Result<Result<Reader, LedgerError>> {
    let (from, to) = (store::file(dir), store::file(copy));
    if !from.exists() {
        return Ok(Err(LedgerError::Missing { path: from }));
    }
    std::fs::create_dir_all(to.parent().expect("the file is in a folder"))?;
    std::fs::copy(&from, &to).context("copy the ledger")?;
    Ok(Reader::open(copy))
}
