//! Every check of ledger, images and files against each other.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use stillhouse_core::{Fingerprint, Job, Key, Pool};
use stillhouse_ledger::{Audit, Entry};
use stillhouse_protocol::Transition;

use super::images::Images;
use super::ledger_failure;
use super::tally::Tallies;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};
use crate::labels_file::Columns;
use crate::report::summary::{State, Summary};

/// What was checked, and what is wrong.
#[derive(Debug)]
pub struct Verdict {
    /// Queries read.
    pub queries: u64,
    /// Labels among them.
    pub labels: u64,
    /// Keys recomputed from the images.
    pub keys: u64,
    /// What was not checked, and why.
    pub notes: Vec<String>,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// Checks the job in `dir`; changes nothing.
///
/// # Errors
/// When there is no ledger, a job is running on it, or nothing of it can be read.
pub fn audit(dir: &Path) -> Result<Verdict, Failure> {
    let audit = Audit::of(dir).map_err(|error| ledger_failure(error, dir))?;
    let findings = audit.findings.iter().map(|finding| match finding.key {
        Some(key) => format!("query {key}: {}", finding.what),
        None => finding.what.clone(),
    });
    let mut verdict = Verdict {
        queries: audit.entries.len() as u64,
        labels: audit.entries.iter().filter(|entry| entry.label.is_some()).count() as u64,
        keys: 0,
        notes: Vec::new(),
        findings: findings.collect(),
    };
    verdict.journal(&audit);
    let images = read_images(dir);
    match &images {
        Ok(images) => verdict.keys(&audit, images),
        Err(_) if audit.entries.is_empty() => {}
        Err(failure) => verdict.findings.push(cause(failure)),
    }
    let pool = images.ok().map(|images| images.pool());
    let summary = dir.join("summary.json").exists().then(|| results::read_summary(dir));
    match summary.transpose() {
        Ok(Some(summary)) => {
            verdict.summary(&audit, &summary);
            verdict.labels_file(&audit, dir, pool, summary.state == State::Finished);
        }
        Ok(None) => verdict.labels_file(&audit, dir, pool, false),
        Err(failure) => verdict.findings.push(cause(&failure)),
    }
    Ok(verdict)
}

/// A failure on one line, without its hint.
fn cause(failure: &Failure) -> String {
    let text = failure.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

impl Verdict {
    fn journal(&mut self, audit: &Audit) {
        let Some((first, rest)) = audit.journal.split_first() else {
            return;
        };
        if serde_json::from_slice::<u64>(first).is_err() {
            self.findings
                .push("journal entry 0: expected the moment of the first start".into());
        }
        for (at, entry) in rest.iter().enumerate() {
            if let Err(error) = serde_json::from_slice::<Transition>(entry) {
                self.findings.push(format!("journal entry {}: {error}", at + 1));
            }
        }
    }

    /// Renders every sample again and compares its key.
    fn keys(&mut self, audit: &Audit, images: &Images) {
        let mut unknown = 0;
        for entry in &audit.entries {
            match images.pixels(entry.sample) {
                Some(pixels) if Key::of(audit.genesis.fingerprint, images.shape(), &pixels) == entry.key => {
                    self.keys += 1;
                }
                Some(_) => {
                    let what = "its image does not have this key (the images or the record were changed)";
                    self.findings.push(format!("query {}: {what}", entry.key));
                }
                None if matches!(entry.sample, stillhouse_core::Sample::Evaluation(_)) => unknown += 1,
                None => self.findings.push(format!(
                    "query {}: it names an image that the job does not have",
                    entry.key
                )),
            }
        }
        if unknown > 0 {
            let note = "keys of evaluation images were not recomputed: the directory does not have these images";
            self.notes.push(format!("{unknown} {note}"));
        }
    }

    fn summary(&mut self, audit: &Audit, summary: &Summary) {
        if summary.state == State::Running {
            self.notes
                .push("summary.json was not compared: the job was killed and has done more since".into());
            return;
        }
        let tallies = Tallies::of(&audit.entries);
        let total = tallies.total();
        let budget = &summary.budget;
        let used = total.billed() + total.in_doubt() + total.reserved;
        let counts = [
            ("budget.queries", budget.queries, audit.budget),
            ("budget.billed.real", budget.billed.real, tallies.seed.billed()),
            (
                "budget.billed.synthetic",
                budget.billed.synthetic,
                tallies.active.billed() + tallies.control.billed(),
            ),
            (
                "budget.billed.evaluation",
                budget.billed.evaluation,
                tallies.evaluation.billed(),
            ),
            ("budget.billed.total", budget.billed.total, total.billed()),
            ("budget.ambiguous", budget.ambiguous, total.in_doubt()),
            ("budget.left", budget.left, audit.budget.saturating_sub(used)),
        ];
        for (name, said, counted) in counts.into_iter().filter(|(_, said, counted)| said != counted) {
            self.findings
                .push(format!("summary.json says {name} {said}, the ledger has {counted}"));
        }
        let fingerprint = audit.genesis.fingerprint.to_string();
        if summary.teacher.fingerprint != fingerprint {
            let said = &summary.teacher.fingerprint;
            self.findings.push(format!(
                "summary.json says teacher {said}, the ledger has {fingerprint}"
            ));
        }
    }

    /// Compares `labels.safetensors` with the ledger, bit for bit.
    fn labels_file(&mut self, audit: &Audit, dir: &Path, pool: Option<Pool>, is_whole: bool) {
        const NAME: &str = "labels.safetensors";
        let bytes = match std::fs::read(dir.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.findings.push(format!("{NAME}: {error}")),
        };
        let rows = match read_labels(&bytes, audit.genesis.fingerprint) {
            Ok(rows) => rows,
            Err(error) => return self.findings.push(format!("{NAME}: {error:#}")),
        };
        let entries = audit.entries.iter().filter(|entry| entry.label.is_some());
        let entries: HashMap<Key, &Entry> = entries.map(|entry| (entry.key, entry)).collect();
        for (at, row) in rows.iter().enumerate() {
            let wrong = match entries.get(&row.key) {
                None => Some("is an image that the ledger has no label of"),
                Some(entry) => row.differs(entry, pool),
            };
            self.findings
                .extend(wrong.map(|wrong| format!("{NAME}: row {at} {wrong} (query {})", row.key)));
        }
        if is_whole && rows.len() != entries.len() {
            self.findings.push(format!(
                "{NAME}: {} rows, the ledger has {} labels",
                rows.len(),
                entries.len()
            ));
        }
    }
}

fn read_images(dir: &Path) -> Result<Images, Failure> {
    let path = dir.join("job.yaml");
    let unreadable =
        |error: anyhow::Error| Failure::new(Kind::Storage, error).context(format!("cannot use {}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.into()))?;
    let job = Job::parse(&text).map_err(|error| unreadable(error.into()))?;
    Images::read(dir, &job)
}

/// A row of `labels.safetensors`.
struct Row {
    key: Key,
    sample: Columns,
    bits: Vec<u32>,
}

impl Row {
    /// What it says otherwise than the ledger.
    fn differs(&self, entry: &Entry, pool: Option<Pool>) -> Option<&'static str> {
        let label = entry.label.as_ref()?.probabilities().iter().map(|p| p.to_bits());
        if !label.eq(self.bits.iter().copied()) {
            return Some("has another label than the ledger");
        }
        let sample = Columns::of(&pool?, entry.sample);
        (sample != Some(self.sample)).then_some("names another sample than the ledger")
    }
}

/// The rows of `labels.safetensors`.
fn read_labels(bytes: &[u8], fingerprint: Fingerprint) -> anyhow::Result<Vec<Row>> {
    let file = SafeTensors::deserialize(bytes)?;
    let shape = results::image_shape(file.tensor("images")?.shape())?;
    let n = file.tensor("images")?.shape()[0];
    let classes = file.tensor("probabilities")?.shape().get(1).copied().unwrap_or(0);
    let rows = |name: &str, dtype: Dtype, bytes: usize| -> anyhow::Result<Vec<&[u8]>> {
        let tensor = file.tensor(name)?;
        let whole = tensor.dtype() == dtype && tensor.shape().first() == Some(&n) && bytes > 0;
        anyhow::ensure!(
            whole,
            "expected {name} of {dtype:?} with {n} rows, found {:?} {:?}",
            tensor.dtype(),
            tensor.shape()
        );
        Ok(tensor.data().chunks_exact(bytes).collect())
    };
    let (images, labels) = (
        rows("images", Dtype::U8, shape.len())?,
        rows("probabilities", Dtype::F32, 4 * classes)?,
    );
    let (kind, lambda) = (rows("kind", Dtype::U8, 1)?, rows("lambda", Dtype::U8, 1)?);
    let (first, second) = (rows("first", Dtype::U32, 4)?, rows("second", Dtype::U32, 4)?);
    let words = |bytes: &[u8]| -> Vec<u32> {
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    };
    let row = |at: usize| Row {
        key: Key::of(fingerprint, shape, images[at]),
        sample: Columns {
            kind: kind[at][0],
            first: words(first[at])[0],
            second: words(second[at])[0],
            lambda: lambda[at][0],
        },
        bits: words(labels[at]),
    };
    Ok((0..n).map(row).collect())
}
