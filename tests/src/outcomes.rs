//! What a job left in its directory, read as a stranger reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use stillhouse_core::key::hex;
use stillhouse_teacher::BillFile;

/// A job directory.
#[derive(Clone, Debug)]
pub struct Outcome {
    dir: PathBuf,
}

/// What two runs of one job must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Essence {
    /// Digests of the query batches of every round, by student.
    pub batches: BTreeMap<String, Vec<String>>,
    /// BLAKE3 of every trained student, by file name.
    pub students: BTreeMap<String, String>,
    /// Images with a label, as BLAKE3 of their bytes.
    pub labelled: BTreeSet<String>,
}

impl Outcome {
    /// The outcome in `dir`.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A file of the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.file(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `summary.json`.
    ///
    /// # Panics
    /// When it is missing or not JSON.
    #[must_use]
    pub fn summary(&self) -> Value {
        serde_json::from_slice(&self.bytes("summary.json")).expect("JSON")
    }

    /// A count of the summary, by JSON pointer.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn count(&self, pointer: &str) -> u64 {
        let summary = self.summary();
        let count = summary.pointer(pointer).and_then(Value::as_u64);
        count.unwrap_or_else(|| panic!("no count at {pointer} of {summary:#}"))
    }

    /// Digests of the query batches, round by round; `arm` is `active` or `control`.
    ///
    /// # Panics
    /// When the summary has no such arm.
    #[must_use]
    pub fn batches(&self, arm: &str) -> Vec<String> {
        let summary = self.summary();
        let rounds = summary[arm]["rounds"]
            .as_array()
            .unwrap_or_else(|| panic!("no {arm} in {summary:#}"));
        let digest = |round: &Value| round["digest"].as_str().expect("a digest").to_owned();
        rounds.iter().map(digest).collect()
    }

    /// The event log so far; none when it has not begun. A line that is being written is left out.
    ///
    /// # Panics
    /// When a whole line is not JSON.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("events.jsonl")).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
            .collect()
    }

    /// Whether the log has an event called `event` of `student` (as in `active-001`).
    #[must_use]
    pub fn has_event(&self, event: &str, student: &str) -> bool {
        self.position(event, student).is_some()
    }

    /// The position of that event.
    #[must_use]
    pub fn position(&self, event: &str, student: &str) -> Option<usize> {
        self.events()
            .iter()
            .position(|line| line["event"] == event && line["student"] == student)
    }

    /// How many events are called `event`.
    #[must_use]
    pub fn events_called(&self, event: &str) -> usize {
        self.events().iter().filter(|line| line["event"] == event).count()
    }

    /// Every labelled image with its label.
    ///
    /// # Panics
    /// When `labels.safetensors` is not what the documentation says.
    #[must_use]
    pub fn labels(&self) -> Vec<(Vec<u8>, Vec<f32>)> {
        let bytes = self.bytes("labels.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let images = file.tensor("images").expect("images");
        let probabilities = file.tensor("probabilities").expect("probabilities");
        let (n, size) = (images.shape()[0], images.shape()[1..].iter().product());
        assert_eq!(probabilities.shape()[0], n, "one answer for each image");
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let labels = probabilities.data().chunks_exact(4 * probabilities.shape()[1]);
        let labels = labels.map(|label| label.chunks_exact(4).map(number).collect());
        images
            .data()
            .chunks_exact(size)
            .map(<[u8]>::to_vec)
            .zip(labels)
            .collect()
    }

    /// Every labelled image, as the BLAKE3 of its bytes: what the teacher writes on its bill.
    ///
    /// # Panics
    /// When `labels.safetensors` is not what the documentation says.
    #[must_use]
    pub fn labelled(&self) -> BTreeSet<String> {
        let labels = self.labels();
        let digests = labels.iter().map(|(image, _)| hex(&BillFile::digest(image)));
        let digests: BTreeSet<String> = digests.collect();
        assert_eq!(digests.len(), labels.len(), "an image is labelled twice");
        digests
    }

    /// What two runs of one job must have in common.
    ///
    /// # Panics
    /// When something is missing.
    #[must_use]
    pub fn essence(&self) -> Essence {
        let arms = ["active", "control"]
            .into_iter()
            .filter(|arm| !self.summary()[arm].is_null());
        let students = std::fs::read_dir(self.file("students")).expect("a folder of students");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("readable").file_name().into_string().expect("UTF-8")
        };
        let digest = |name: String| {
            let bytes = self.bytes(&format!("students/{name}"));
            (name, hex(&BillFile::digest(&bytes)))
        };
        Essence {
            batches: arms.map(|arm| (arm.to_owned(), self.batches(arm))).collect(),
            students: students.map(name).map(digest).collect(),
            labelled: self.labelled(),
        }
    }

    /// Checks the books of a finished job against the teacher's own bill: nothing billed twice,
    /// nothing beyond the budget, nothing paid for lost, nothing claimed that was not billed.
    ///
    /// # Panics
    /// When the books do not agree.
    pub fn settle(&self, bill: &[String]) {
        let billed: BTreeSet<&String> = bill.iter().collect();
        assert_eq!(billed.len(), bill.len(), "an image was billed twice");
        let (budget, total) = (self.count("/budget/queries"), self.count("/budget/billed/total"));
        let (ambiguous, left) = (self.count("/budget/ambiguous"), self.count("/budget/left"));
        assert!(bill.len() as u64 <= budget, "{} billed of {budget}", bill.len());
        assert_eq!(total + ambiguous + left, budget, "the budget adds up");
        let labelled = self.labelled();
        let unpaid = labelled.iter().filter(|image| !billed.contains(image)).count();
        assert_eq!(unpaid, 0, "labels of images that were never billed");
        let lost = billed.iter().filter(|image| !labelled.contains(**image)).count() as u64;
        assert!(
            lost <= ambiguous,
            "{lost} billed images have no label, but only {ambiguous} are in doubt"
        );
        assert_eq!(
            labelled.len() as u64,
            total,
            "every billed query of the summary has its label"
        );
    }
}
