//! Reads a ledger query by query and says everything that is wrong with it, for `ledger verify`.

use std::collections::HashSet;
use std::path::Path;

use stillhouse_core::{Key, SoftLabel};

use crate::error::LedgerError;
use crate::handle::{Entry, Genesis};
use crate::lock::{Lock, Sharing};
use crate::permit::{Record, State};
use crate::store::{Head, Store, file};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which query; `None` when it is about the whole.
    pub key: Option<Key>,
    /// What.
    pub what: String,
}

/// What a ledger holds, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Audit {
    /// What the ledger is for.
    pub genesis: Genesis,
    /// Queries that may be billed: the job's budget, or more when it was raised.
    pub budget: u64,
    /// Every query, in order of keys, as the job's next start will find it.
    pub entries: Vec<Entry>,
    /// The journal, oldest first.
    pub journal: Vec<Vec<u8>>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Audits the ledger in `dir`; changes nothing. Every frame of the file has a checksum, so what
    /// can be read is what was written.
    ///
    /// # Errors
    /// When there is none, a job is running on it, or a frame is not as it was written.
    pub fn of(dir: &Path) -> Result<Self, LedgerError> {
        let _lock = Lock::take(dir, Sharing::Readers)?;
        let missing = || LedgerError::Missing { path: file(dir) };
        let (store, replay) = Store::load(dir, Sharing::Readers)?.ok_or_else(missing)?;
        let head = replay.head;
        let mut findings = Findings::default();
        let mut entries: Vec<Entry> = Vec::with_capacity(replay.records.len());
        for (at, (key, record)) in replay.records.into_iter().enumerate() {
            let label = store.label(at).unwrap_or_else(|error| {
                findings.add(Some(key), error.to_string());
                None
            });
            findings.record(key, &record, label.as_ref(), &head);
            // As its next life will see it.
            let mut record = record;
            record.outlive(head.epoch + 1);
            entries.push(Entry::new(key, &record, label));
        }
        entries.sort_unstable_by_key(|entry| entry.key);
        findings.budget(&entries, head.budget());
        Ok(Self {
            budget: head.budget(),
            genesis: head.genesis,
            entries,
            journal: store.journal()?,
            findings: findings.0,
        })
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, key: Option<Key>, what: impl Into<String>) {
        self.0.push(Finding { key, what: what.into() });
    }

    fn record(&mut self, key: Key, record: &Record, label: Option<&SoftLabel>, head: &Head) {
        let epoch = head.epoch;
        let key = Some(key);
        let of = |wanted: fn(&State) -> bool| record.charges.iter().filter(|charge| wanted(&charge.state)).count();
        let committed = of(|state| matches!(state, State::Committed));
        let open = of(|state| matches!(state, State::Reserved | State::Renewed(_) | State::Sent));
        if committed > 1 {
            self.add(
                key,
                format!("{committed} charges brought the label, expected at most one"),
            );
        }
        if open > 1 {
            self.add(key, format!("{open} charges are open at once, expected at most one"));
        }
        let numbers: HashSet<u32> = record.charges.iter().map(|charge| charge.number).collect();
        if numbers.len() < record.charges.len() {
            self.add(key, "two charges have one number");
        }
        if let Some(beyond) = numbers.iter().find(|number| !(1..=record.issued).contains(*number)) {
            self.add(key, format!("charge {beyond} of {} permits", record.issued));
        }
        if let Some(later) = record.charges.iter().find(|charge| charge.epoch > epoch) {
            self.add(
                key,
                format!("a charge of epoch {}, but it is epoch {epoch}", later.epoch),
            );
        }
        match (record.is_labelled(), label) {
            (true, None) => self.add(key, "a query that was answered has no label"),
            (false, Some(_)) => self.add(key, "a label that no charge paid for and nobody imported"),
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn budget(&mut self, entries: &[Entry], budget: u64) {
        let charges: u64 = entries.iter().map(|entry| entry.charges.len() as u64).sum();
        if charges > budget {
            self.add(None, format!("{charges} charges, but the budget is {budget} queries"));
        }
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_core::plan::Arm;
    use stillhouse_core::{Fingerprint, Sample};

    use super::*;
    use crate::OnAmbiguous;
    use crate::permit::Charge;
    use crate::store::Changes;

    fn charge(number: u32, epoch: u64, state: State) -> Charge {
        Charge {
            number,
            sends: 1,
            epoch,
            request: None,
            state,
        }
    }

    /// What an audit finds in a ledger of one query, whose budget is two.
    fn found(issued: u32, charges: Vec<Charge>, is_labelled: bool) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a folder");
        let lock = Lock::take(dir.path(), Sharing::Nobody).expect("free");
        let head = Head {
            genesis: Genesis {
                job_digest: [0; 32],
                fingerprint: Fingerprint([0; 32]),
                budget: 2,
                classes: 2,
                on_ambiguous: OnAmbiguous::Hold,
            },
            epoch: 3,
            raised: 0,
        };
        let mut store = Store::draft(dir.path(), &head).expect("written");
        let record = Record {
            issued,
            charges: charges.into(),
            ..Record::new(Sample::Seed(1), Arm::Active)
        };
        let label = SoftLabel::from_probabilities(vec![0.5, 0.5], 2).expect("sound");
        let changes = Changes {
            labels: is_labelled.then_some((0, label)).into_iter().collect(),
            ..Changes::default()
        };
        let records = std::iter::once((0, &Key([9; 32]), &record));
        store.append(records, &changes).expect("written");
        store.publish().expect("written");
        drop(lock);
        let audit = Audit::of(dir.path()).expect("it can be read");
        audit.findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_sound_ledger_has_no_findings() {
        assert_eq!(
            found(1, vec![charge(1, 3, State::Committed)], true),
            Vec::<String>::new()
        );
        assert_eq!(found(2, vec![], false), Vec::<String>::new());
    }

    #[test]
    fn labels_without_charges_and_charges_without_labels_are_found() {
        let missing = found(1, vec![charge(1, 3, State::Committed)], false);
        assert_eq!(missing, ["a query that was answered has no label"]);
        let unpaid = found(1, vec![charge(1, 3, State::Reserved)], true);
        assert_eq!(unpaid, ["a label that no charge paid for and nobody imported"]);
    }

    #[test]
    fn charges_that_cannot_be_are_found() {
        let twice = vec![charge(1, 3, State::Committed); 3];
        assert_eq!(
            found(1, twice, true),
            [
                "3 charges brought the label, expected at most one",
                "two charges have one number",
                "3 charges, but the budget is 2 queries",
            ]
        );
        let open = vec![charge(1, 3, State::Sent), charge(2, 3, State::Reserved)];
        assert_eq!(
            found(2, open, false),
            ["2 charges are open at once, expected at most one"]
        );
        assert_eq!(
            found(1, vec![charge(2, 3, State::Sent)], false),
            ["charge 2 of 1 permits"]
        );
        let later = found(1, vec![charge(1, 4, State::Sent)], false);
        assert_eq!(later, ["a charge of epoch 4, but it is epoch 3"]);
    }
}
