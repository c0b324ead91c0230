//! The ledger against the teacher's bill.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use stillhouse_core::job::{BudgetSpec, OnAmbiguous};
use stillhouse_ledger::{Counts, Sight, Witness};
use stillhouse_teacher::bill::repeats;

use super::report::Violations;
use crate::jobs::{CLASSES, SHAPE};
use crate::outcomes::Outcome;
use crate::teacher::predict;

/// What the ledger of one job has shown so far.
pub(super) struct Books {
    witness: Witness,
    budget: BudgetSpec,
    /// The charges of the last look.
    pub(super) counts: Option<Counts>,
}

impl Books {
    /// Nothing yet, of a job in `dir` that may spend `budget`. Copies of the ledger go to `copy`.
    pub(super) fn new(dir: PathBuf, copy: PathBuf, budget: &BudgetSpec) -> Self {
        Self {
            witness: Witness::new(&dir, &copy),
            budget: budget.clone(),
            counts: None,
        }
    }

    /// Looks into the ledger while no coordinator runs: in a copy, so that the next coordinator
    /// finds the file as the last one left it. The `bill` was read before, since what is billed is
    /// announced in the ledger first.
    ///
    /// # Errors
    /// When the file cannot be copied.
    pub(super) fn look(&mut self, bill: &[String], violations: &mut Violations) -> anyhow::Result<()> {
        self.check_bill(bill, violations);
        match self.witness.look().context("copy the ledger")? {
            Ok(sight) => {
                self.compare(&sight, bill, violations);
                Ok(())
            }
            // None yet, or a process died while it made the file.
            Err(_) if bill.is_empty() && self.counts.is_none() => Ok(()),
            Err(error) => {
                violations.add(format!("{} queries are billed, and the ledger: {error}", bill.len()));
                Ok(())
            }
        }
    }

    fn compare(&mut self, sight: &Sight, bill: &[String], violations: &mut Violations) {
        let counts = sight.counts;
        if (bill.len() as u64) > counts.billed() {
            let unknown = bill.len() as u64 - counts.billed();
            violations.add(format!("{unknown} billed queries are in no ledger: {counts:?}"));
        }
        let beyond = counts.billed().saturating_sub(counts.budget);
        violations.over_budget = violations.over_budget.max(beyond);
        violations.labels_lost += sight.lost;
        violations.others.extend(sight.findings.iter().cloned());
        self.counts = Some(counts);
    }

    /// Checks the bill alone: it never exceeds the budget, and names no image too often.
    pub(super) fn check_bill(&self, bill: &[String], violations: &mut Violations) {
        let beyond = (bill.len() as u64).saturating_sub(self.budget.queries);
        violations.over_budget = violations.over_budget.max(beyond);
        let allowed = match self.budget.on_ambiguous {
            OnAmbiguous::Hold => 1,
            OnAmbiguous::Resend(attempts) | OnAmbiguous::IdempotencyKey(attempts) => 1 + u64::from(attempts),
        };
        violations.sent_twice = violations.sent_twice.max(repeats(bill, allowed));
    }
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

#[cfg(test)]
mod tests;
