//! What must hold after every step.

use std::collections::HashMap;

use stillhouse_core::Key;
use stillhouse_ledger::book::Book;
use stillhouse_ledger::permit::{OnAmbiguous, Record, State};

use super::step::KEYS;
use super::{ATTEMPTS, Check, World, check, key, number};

impl World {
    pub(crate) fn invariants(&self) -> Check {
        self.invariant_bill_within_budget()?;
        self.invariant_every_key_is_charged_for_what_was_announced()?;
        self.invariant_nothing_is_billed_more_often_than_the_policy_allows()?;
        self.invariant_labels_stay()?;
        self.invariant_counts_are_sums()
    }

    fn invariant_bill_within_budget(&self) -> Check {
        let counts = self.newest().counts();
        check(counts.budget >= self.budget, "a granted budget was forgotten")?;
        check(
            counts.reserved + counts.billed() <= self.budget,
            "permits exceed the budget",
        )?;
        check(
            self.billed.iter().sum::<u64>() <= self.budget,
            "the bill exceeds the budget",
        )
    }

    fn invariant_every_key_is_charged_for_what_was_announced(&self) -> Check {
        let mut charged = [0; KEYS as usize];
        for (key, record) in self.newest().records() {
            let spent = record.charges.iter().filter(|charge| charge.state != State::Reserved);
            for charge in spent {
                charged[number(key)] += 1;
                let announced = self.announced.contains(&(*key, charge.number));
                check(announced, "the ledger charges what was never announced")?;
            }
        }
        let mut both = self.billed.iter().zip(charged);
        check(
            both.all(|(billed, charged)| *billed <= charged),
            "the ledger forgot a charge",
        )
    }

    fn invariant_nothing_is_billed_more_often_than_the_policy_allows(&self) -> Check {
        let most = match self.policy {
            OnAmbiguous::Hold | OnAmbiguous::IdempotencyKey { .. } => 1,
            OnAmbiguous::Resend { .. } => 1 + u64::from(ATTEMPTS),
        };
        let holds = self.billed.iter().all(|billed| *billed <= most);
        check(holds, "a query was billed too often")
    }

    fn invariant_labels_stay(&self) -> Check {
        let is_lost = |name: &u8| self.kept[usize::from(*name)] && !self.is_labelled(&key(*name));
        check(!(0..KEYS).any(|name| is_lost(&name)), "a label was lost")
    }

    fn invariant_counts_are_sums(&self) -> Check {
        let counts = self.newest().counts();
        let mut sums = [0; 6];
        for (_, record) in self.newest().records() {
            sums[5] += u64::from(record.imported);
            for charge in &record.charges {
                let at = match charge.state {
                    State::Reserved => 0,
                    State::Sent => 1,
                    State::Ambiguous(_) | State::Renewed(_) => 2,
                    State::Spent(_) => 3,
                    State::Committed => 4,
                };
                sums[at] += 1;
            }
        }
        let found = [
            counts.reserved,
            counts.sent,
            counts.ambiguous,
            counts.spent,
            counts.committed,
            counts.imported,
        ];
        check(found == sums, "counts are not the sums of charges")?;
        check(
            counts.by_category.seed == counts.spent + counts.committed,
            "categories do not add up to the bill",
        )
    }

    /// A new life makes the same of the disk as of what the newest coordinator answered.
    pub(crate) fn invariant_disk_holds_what_was_answered(&self) -> Check {
        let newest = self.newest();
        let answered = newest.records().map(|(key, record)| (*key, record.clone()));
        let lives = |records: HashMap<Key, Record>| {
            Book::open(
                self.budget,
                self.policy,
                newest.epoch() + 1,
                records.into_iter().collect(),
            )
        };
        let all = |book: Book| -> HashMap<Key, Record> {
            let records = book.records().map(|(key, record)| (*key, record.clone()));
            // A key that was only looked at is no record.
            records
                .filter(|(_, record)| record.issued > 0 || record.imported)
                .collect()
        };
        let answered = all(lives(answered.collect()));
        let stored = all(lives(self.disk.records.clone()));
        check(answered == stored, "the disk does not hold what was answered")
    }
}
