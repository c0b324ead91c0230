//! Every check of ledger, images and files against each other.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use stillhouse_core::{Fingerprint, Job, Key, SoftLabel};
use stillhouse_ledger::Audit;
use stillhouse_protocol::Transition;

use super::images::Images;
use super::ledger_failure;
use super::tally::Tallies;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};
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
    if !audit.entries.is_empty() {
        verdict.images(&audit, dir);
    }
    let summary = dir.join("summary.json").exists().then(|| results::read_summary(dir));
    match summary.transpose() {
        Ok(Some(summary)) => {
            verdict.summary(&audit, &summary);
            verdict.labels_file(&audit, dir, summary.state == State::Finished);
        }
        Ok(None) => verdict.labels_file(&audit, dir, false),
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
    fn images(&mut self, audit: &Audit, dir: &Path) {
        let images = match read_images(dir) {
            Ok(images) => images,
            Err(failure) => return self.findings.push(cause(&failure)),
        };
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
    fn labels_file(&mut self, audit: &Audit, dir: &Path, is_whole: bool) {
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
        let labels = audit
            .entries
            .iter()
            .filter_map(|entry| Some((entry.key, entry.label.as_ref()?)));
        let labels: HashMap<Key, &SoftLabel> = labels.collect();
        for (at, (key, floats)) in rows.iter().enumerate() {
            let same = |label: &&SoftLabel| {
                label
                    .probabilities()
                    .iter()
                    .map(|p| p.to_bits())
                    .eq(floats.iter().copied())
            };
            match labels.get(key) {
                None => self
                    .findings
                    .push(format!("{NAME}: row {at} is an image that the ledger has no label of")),
                Some(label) if !same(label) => {
                    self.findings
                        .push(format!("{NAME}: row {at} has another label than query {key}"));
                }
                Some(_) => {}
            }
        }
        if is_whole && rows.len() != labels.len() {
            self.findings.push(format!(
                "{NAME}: {} rows, the ledger has {} labels",
                rows.len(),
                labels.len()
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

/// Keys and bits of the labels of `labels.safetensors`.
fn read_labels(bytes: &[u8], fingerprint: Fingerprint) -> anyhow::Result<Vec<(Key, Vec<u32>)>> {
    let file = SafeTensors::deserialize(bytes)?;
    let (images, labels) = (file.tensor("images")?, file.tensor("probabilities")?);
    let shape = results::image_shape(images.shape())?;
    let (n, classes) = match (images.shape(), labels.shape()) {
        ([n, ..], [m, classes]) if n == m && *classes > 0 && !shape.is_empty() => (*n, *classes),
        (images, labels) => anyhow::bail!("expected as many images as labels, found {images:?} and {labels:?}"),
    };
    anyhow::ensure!(
        (images.dtype(), labels.dtype()) == (Dtype::U8, Dtype::F32),
        "expected images of u8 and labels of f32"
    );
    let bits = |label: &[u8]| {
        let (floats, _) = label.as_chunks::<4>();
        floats.iter().map(|float| u32::from_le_bytes(*float)).collect()
    };
    let keys = images
        .data()
        .chunks_exact(shape.len())
        .map(|pixels| Key::of(fingerprint, shape, pixels));
    let rows: Vec<(Key, Vec<u32>)> = keys.zip(labels.data().chunks_exact(4 * classes).map(bits)).collect();
    anyhow::ensure!(rows.len() == n, "expected {n} rows, found {}", rows.len());
    Ok(rows)
}
