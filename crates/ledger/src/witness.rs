//! Looks into the ledger of one job again and again, and says whether what it once held it still holds.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stillhouse_core::Key;

use crate::audit::Audit;
use crate::counts::Counts;
use crate::error::LedgerError;
use crate::reader::Reader;
use crate::store::file;

/// What the ledger of a job has shown so far.
#[derive(Debug)]
pub struct Witness {
    /// The job directory.
    dir: PathBuf,
    /// Where a copy of the ledger is looked at.
    copy: PathBuf,
    /// The labels of the last look.
    kept: HashMap<Key, Vec<f32>>,
}

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Charges by state, as the job's next start would find them.
    pub counts: Counts,
    /// Labels that are there.
    pub labels: u64,
    /// Labels of the look before that are gone, or are others.
    pub lost: u64,
    /// Everything else that is wrong.
    pub findings: Vec<String>,
}

impl Witness {
    /// Of the job in `dir`, which has not been looked at. Copies of its ledger go to `copy`.
    #[must_use]
    pub fn new(dir: &Path, copy: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            copy: copy.to_owned(),
            kept: HashMap::new(),
        }
    }

    /// Looks into a copy, so that the file stays as its last writer left it, and so that it does not matter whether it
    /// has one now: the file only grows, and a group that was half written when it was copied has not happened yet.
    ///
    /// # Errors
    /// When the file cannot be copied; inside, when there is none or it cannot be read.
    pub fn look(&mut self) -> io::Result<Result<Sight, LedgerError>> {
        if !self.copy_file()? {
            return Ok(Err(LedgerError::Missing { path: file(&self.dir) }));
        }
        Ok(self.compare())
    }

    /// `false` when there is nothing to copy.
    fn copy_file(&self) -> io::Result<bool> {
        let (from, to) = (file(&self.dir), file(&self.copy));
        fs::create_dir_all(to.parent().expect("the file is in a folder"))?;
        match fs::copy(&from, &to) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn compare(&mut self) -> Result<Sight, LedgerError> {
        let reader = Reader::open(&self.copy)?;
        let counts = reader.counts();
        let labelled = reader
            .entries()?
            .into_iter()
            .filter_map(|entry| Some((entry.key, entry.label?)));
        let kept: HashMap<Key, Vec<f32>> = labelled
            .map(|(key, label)| (key, label.probabilities().to_vec()))
            .collect();
        // Only one of them has the file.
        drop(reader);
        let is_lost = |(key, label): &(&Key, &Vec<f32>)| kept.get(key) != Some(label);
        let lost = self.kept.iter().filter(is_lost).count() as u64;
        let findings = Audit::of(&self.copy)?.findings;
        let labels = kept.len() as u64;
        self.kept = kept;
        Ok(Sight {
            counts,
            labels,
            lost,
            findings: findings.into_iter().map(|finding| finding.what).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_core::plan::Arm;
    use stillhouse_core::{Fingerprint, Sample, SoftLabel};

    use super::*;
    use crate::{Admission, Genesis, Ledger, OnAmbiguous, Permit, Request, RequestId};

    /// Asks and labels `queries` queries in `dir`, and keeps the ledger open.
    async fn ask(dir: &Path, queries: u8) -> Ledger {
        let genesis = Genesis {
            job_digest: [1; 32],
            fingerprint: Fingerprint([2; 32]),
            budget: 5,
            classes: 2,
            on_ambiguous: OnAmbiguous::Hold,
        };
        let ledger = Ledger::create_or_open(dir, &genesis).unwrap();
        let request = |number| Request {
            key: Key([number; 32]),
            sample: Sample::Seed(number.into()),
            arm: Arm::Active,
        };
        let admitted = ledger.admit((0..queries).map(request).collect()).await.unwrap();
        let permits: Vec<Permit> = admitted
            .iter()
            .filter_map(|admission| match admission {
                Admission::Permitted(permit) => Some(*permit),
                _ => None,
            })
            .collect();
        ledger.mark_sent(RequestId(7), permits.clone()).await.unwrap();
        let label = SoftLabel::from_probabilities(vec![0.5, 0.5], 2).unwrap();
        let labels = permits.into_iter().map(|permit| (permit, label.clone()));
        ledger.commit(labels.collect()).await.unwrap();
        ledger
    }

    #[tokio::test]
    async fn a_ledger_in_use_can_be_looked_at_and_what_it_lost_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, copy) = (folder.path().join("job"), folder.path().join("copy"));
        let mut witness = Witness::new(&dir, &copy);
        assert!(matches!(witness.look().unwrap(), Err(LedgerError::Missing { .. })));
        let ledger = ask(&dir, 3).await;
        let sight = witness.look().unwrap().unwrap();
        assert_eq!((sight.labels, sight.lost, sight.counts.billed()), (3, 0, 3));
        assert_eq!(sight.findings, Vec::<String>::new());
        drop(ledger);
        fs::remove_dir_all(&dir).unwrap();
        let _ledger = ask(&dir, 1).await;
        assert_eq!(witness.look().unwrap().unwrap().lost, 2);
    }
}
