//! `stillhouse ledger import`: labels of other jobs, kept in the job directory until they are asked for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use stillhouse_core::{Key, SoftLabel};

use crate::books::Books;
use crate::export::{Header, encode_labels};
use crate::failure::{Failure, Kind};
use crate::job_dir::JobDir;
use crate::report::number::counted;
use crate::reuse::{FOLDER, Library, Wanted, resolve};

/// Takes the labels of `sources` that the job in `dir` does not know yet.
///
/// # Errors
/// When the job is running, or a source is missing, unreadable or of another teacher; then nothing
/// was taken.
pub(super) fn import(dir: &Path, sources: &[PathBuf]) -> Result<String, Failure> {
    let books = Books::read(dir)?;
    let lock = JobDir::open(dir)?;
    let wanted = Wanted {
        fingerprint: books.genesis.fingerprint,
        classes: books.genesis.classes,
    };
    let sources = resolve(sources, Path::new(""))?;
    let before = Library::gather(&[], dir, wanted)?;
    let library = Library::gather(&sources, dir, wanted)?;
    let paid: HashSet<Key> = books
        .entries
        .iter()
        .filter(|entry| entry.label.is_some())
        .map(|entry| entry.key)
        .collect();
    let all = library.into_sorted().into_iter();
    let new: Vec<(Key, SoftLabel)> = all
        .filter(|(key, _)| !paid.contains(key) && before.get(key).is_none())
        .collect();
    let name = books.name();
    if new.is_empty() {
        return Ok(format!(
            "{name}: nothing new, every label of these sources is there already"
        ));
    }
    let taken = counted(new.len() as u64, "label", "labels");
    keep(&lock, &books, &new)?;
    Ok(format!(
        "{name}: {taken} at hand at no cost; the job uses those that it asks for when it is run again"
    ))
}

/// Writes labels into the folder of the job that its next run looks into.
fn keep(dir: &JobDir, books: &Books, labels: &[(Key, SoftLabel)]) -> Result<(), Failure> {
    let header = Header {
        job: books.name(),
        fingerprint: books.genesis.fingerprint,
        classes: books.genesis.classes,
        shape: None,
    };
    let bytes = encode_labels(&header, labels)?;
    let folder = dir.path().join(FOLDER);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot make {}", folder.display())))?;
    let digest = blake3::hash(&bytes).to_hex();
    dir.write(&format!("{FOLDER}/{}.safetensors", &digest[..16]), &bytes)
}
