//! Labels of other jobs: what was paid for once is not paid for again.
//!
//! A source is a job directory, a folder of job directories, or a file that `ledger export` wrote.
//! Its labels are checked again and kept in memory by key. They enter a job's ledger when the job
//! asks for a key that it computed itself from its own bytes, so nothing else in a source matters:
//! not its indices, not its order, not its arms.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use stillhouse_core::{Fingerprint, Key, SoftLabel};
use stillhouse_ledger::{LedgerError, Reader};

use crate::books::ledger_failure;
use crate::export::{self, Known};
use crate::failure::{Failure, Kind};

/// Where `ledger import` keeps labels in a job directory.
pub const FOLDER: &str = "reuse";

/// Labels by key.
#[derive(Debug, Default)]
pub struct Library {
    labels: HashMap<Key, SoftLabel>,
}

/// Whose labels can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The teacher.
    pub fingerprint: Fingerprint,
    /// Values of a label.
    pub classes: u32,
}

impl Library {
    /// Reads the labels of every source, and those that were imported into the job directory `own`.
    /// Where two sources have a label for one key, the first wins. `own` among the sources is
    /// skipped: its labels are in its ledger already.
    ///
    /// # Errors
    /// When a source is missing, cannot be read, is in use, or belongs to another teacher. In a
    /// folder of job directories those are skipped.
    pub fn gather(sources: &[PathBuf], own: &Path, wanted: Wanted) -> Result<Self, Failure> {
        let mut library = Self::default();
        for source in sources {
            let known = if source.is_file() {
                vec![from_file(source, wanted)?]
            } else if is_job(source) {
                from_job(source, own, wanted)?.into_iter().collect()
            } else {
                from_folder(source, own, wanted)?
            };
            let before = library.labels.len();
            known.into_iter().for_each(|known| library.add(known));
            let (source, labels) = (source.display(), library.labels.len() - before);
            tracing::info!(%source, labels, "labels of other jobs are at hand at no cost");
        }
        for file in imported(own)? {
            library.add(from_file(&file, wanted)?);
        }
        Ok(library)
    }

    fn add(&mut self, known: Known) {
        for (key, label) in known.labels {
            self.labels.entry(key).or_insert(label);
        }
    }

    /// The label of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&SoftLabel> {
        self.labels.get(key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Every label, in order of keys.
    #[must_use]
    pub fn into_sorted(self) -> Vec<(Key, SoftLabel)> {
        let mut labels: Vec<(Key, SoftLabel)> = self.labels.into_iter().collect();
        labels.sort_unstable_by_key(|(key, _)| *key);
        labels
    }
}

/// The sources that `paths` name, each relative to `base`; a name with wildcards stands for all
/// that match, in order of names.
///
/// # Errors
/// When one is not there, or nothing matches.
pub fn resolve(paths: &[PathBuf], base: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        let whole = base.join(path);
        if whole.exists() {
            found.push(whole);
            continue;
        }
        let missing = || {
            let message = format!("labels to reuse: expected {}, found nothing there", whole.display());
            Failure::message(Kind::Usage, message).hint("name a job directory, a folder of them, or an exported file")
        };
        let pattern = whole.to_str().ok_or_else(missing)?;
        let matches = glob::glob(pattern).map_err(|error| Failure::new(Kind::Usage, error).context(missing()))?;
        let before = found.len();
        found.extend(matches.filter_map(Result::ok));
        if found.len() == before {
            return Err(missing());
        }
    }
    Ok(found)
}

/// Files that `ledger import` put into the job directory `dir`, in order of names.
///
/// # Errors
/// When the folder cannot be read.
pub fn imported(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let files = children(&folder)?.into_iter();
    Ok(files
        .filter(|file| file.extension().is_some_and(|end| end == "safetensors"))
        .collect())
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Usage, error).context(format!("cannot read the folder {}", folder.display()))
    };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(failed)?;
    paths.sort_unstable();
    Ok(paths)
}

fn is_job(dir: &Path) -> bool {
    stillhouse_ledger::file(dir).is_file()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some() && real(one) == real(other)
}

fn from_file(path: &Path, wanted: Wanted) -> Result<Known, Failure> {
    let known = export::read(path)?;
    let found = Wanted {
        fingerprint: known.fingerprint,
        classes: known.classes,
    };
    mismatch(wanted, found).map_or(Ok(known), |what| Err(other_teacher(path, &what)))
}

/// Labels of the job in `dir`; `None` when it is `own`.
fn from_job(dir: &Path, own: &Path, wanted: Wanted) -> Result<Option<Known>, Failure> {
    if is_same(dir, own) {
        return Ok(None);
    }
    let reader = Reader::open(dir).map_err(|error| ledger_failure(error, dir))?;
    match mismatch(wanted, teacher_of(&reader)) {
        Some(what) => Err(other_teacher(dir, &what)),
        None => labels(&reader, dir).map(Some),
    }
}

/// Labels of every job in `folder` that has some of this teacher and is not running.
fn from_folder(folder: &Path, own: &Path, wanted: Wanted) -> Result<Vec<Known>, Failure> {
    let inside = children(folder)?;
    let jobs: Vec<&PathBuf> = inside.iter().filter(|dir| is_job(dir)).collect();
    // The first job of a sweep finds nothing but its own directory.
    if jobs.is_empty() && !inside.iter().any(|dir| is_same(dir, own)) {
        let message = format!(
            "expected a job directory or a folder of them, found {}",
            folder.display()
        );
        return Err(
            Failure::message(Kind::Usage, message).hint("a job directory has a ledger once its teacher was reached")
        );
    }
    let mut known = Vec::new();
    for dir in jobs.into_iter().filter(|dir| !is_same(dir, own)) {
        let reader = match Reader::open(dir) {
            Ok(reader) => reader,
            Err(LedgerError::Locked { .. }) => {
                tracing::info!(job = %dir.display(), "no labels are taken from a job that is running");
                continue;
            }
            Err(error) => return Err(ledger_failure(error, dir)),
        };
        match mismatch(wanted, teacher_of(&reader)) {
            Some(what) => {
                tracing::info!(job = %dir.display(), what, "no labels are taken from a job of another teacher")
            }
            None => known.push(labels(&reader, dir)?),
        }
    }
    Ok(known)
}

fn teacher_of(reader: &Reader) -> Wanted {
    Wanted {
        fingerprint: reader.genesis().fingerprint,
        classes: reader.genesis().classes,
    }
}

fn labels(reader: &Reader, dir: &Path) -> Result<Known, Failure> {
    let Wanted { fingerprint, classes } = teacher_of(reader);
    let entries = reader.entries().map_err(|error| ledger_failure(error, dir))?;
    let labels = entries.into_iter().filter_map(|entry| Some((entry.key, entry.label?)));
    Ok(Known {
        fingerprint,
        classes,
        labels: labels.collect(),
    })
}

/// What differs between the teacher of a job and that of a source.
fn mismatch(wanted: Wanted, found: Wanted) -> Option<String> {
    if wanted.fingerprint != found.fingerprint {
        return Some(format!(
            "expected teacher {}, found {}",
            wanted.fingerprint, found.fingerprint
        ));
    }
    let (wanted, found) = (wanted.classes, found.classes);
    (wanted != found).then(|| format!("expected labels of {wanted} classes, found {found}"))
}

fn other_teacher(path: &Path, what: &str) -> Failure {
    let message = format!("the labels in {} are of another teacher: {what}", path.display());
    Failure::message(Kind::Usage, message)
        .hint("a teacher is its protocol, model, version and response; leave this source out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Format, Header, Row};
    use crate::labels_file::Columns;
    use stillhouse_core::plan::Arm;

    fn wanted() -> Wanted {
        Wanted {
            fingerprint: Fingerprint::of(&["a"]),
            classes: 2,
        }
    }

    /// A file of two labels whose first value is `value`.
    fn export(path: &Path, fingerprint: Fingerprint, value: f32) {
        let row = |at| Row {
            key: Key([at; 32]),
            sample: Columns {
                kind: 0,
                first: 0,
                second: 0,
                lambda: 100,
            },
            arm: Arm::Active,
            state: "committed",
            charges: 1,
            request: None,
            cause: None,
            label: Some(SoftLabel::from_probabilities(vec![value, 1.0 - value], 2).expect("a label")),
        };
        let header = Header {
            job: "a".into(),
            fingerprint,
            classes: 2,
            shape: None,
        };
        let bytes = export::encode(Format::of(path).expect("known"), &header, &[row(1), row(2)]).expect("encoded");
        std::fs::write(path, bytes).expect("writable");
    }

    #[test]
    fn the_first_of_two_sources_wins_and_another_teacher_is_refused() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let [one, two, other] = ["a.parquet", "b.safetensors", "c.parquet"].map(|name| folder.path().join(name));
        export(&one, wanted().fingerprint, 0.25);
        export(&two, wanted().fingerprint, 0.75);
        export(&other, Fingerprint::of(&["b"]), 0.5);
        let own = folder.path().join("job");
        let library = Library::gather(&[one.clone(), two], &own, wanted()).expect("both");
        assert_eq!(library.len(), 2);
        let label = library.get(&Key([1; 32])).expect("there");
        assert_eq!(label.probabilities(), [0.25, 0.75]);
        let failure = Library::gather(&[other], &own, wanted()).expect_err("another teacher");
        assert_eq!(failure.kind(), Kind::Usage);
        let said = failure.to_string();
        for teacher in ["a", "b"] {
            assert!(said.contains(&Fingerprint::of(&[teacher]).to_string()), "{said}");
        }
        let classes = Wanted { classes: 3, ..wanted() };
        let said = Library::gather(&[one], &own, classes)
            .expect_err("other classes")
            .to_string();
        assert!(said.contains("expected labels of 3 classes, found 2"), "{said}");
    }

    #[test]
    fn what_was_imported_is_found_without_being_named() {
        let own = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(own.path().join(FOLDER)).expect("writable");
        export(
            &own.path().join(FOLDER).join("a.safetensors"),
            wanted().fingerprint,
            0.5,
        );
        let library = Library::gather(&[], own.path(), wanted()).expect("its own");
        assert_eq!(
            library
                .into_sorted()
                .iter()
                .map(|(key, _)| key.0[0])
                .collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[test]
    fn sources_are_found_beside_the_job_file_and_by_wildcards() {
        let folder = tempfile::tempdir().expect("temporary directory");
        for name in ["run-1.parquet", "run-2.parquet", "other"] {
            std::fs::write(folder.path().join(name), "").expect("writable");
        }
        let names = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let found = resolve(&paths, folder.path())?;
            let name = |path: &PathBuf| path.file_name().expect("a file").to_string_lossy().into_owned();
            Ok::<_, Failure>(found.iter().map(name).collect::<Vec<_>>())
        };
        let found = names(&["other", "run-*.parquet"]).expect("all there");
        assert_eq!(found, ["other", "run-1.parquet", "run-2.parquet"]);
        for missing in ["nowhere", "none-*"] {
            let failure = names(&[missing]).expect_err("missing");
            assert_eq!(failure.kind(), Kind::Usage);
            assert!(failure.to_string().contains(missing), "{failure}");
        }
    }
}
