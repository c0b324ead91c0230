//! What a finished job leaves, copied to `spec.results.url`.
//!
//! ```text
//! NAME-DIGEST/student.pt, labels.safetensors, ...    as in the job directory
//! NAME-DIGEST/manifest.json                          what there is, with sizes and digests; written last
//! ```
//!
//! Copying again sends what changed and nothing else, so a run that was stopped in the middle is only run again.

use std::path::Path as FilePath;
use std::sync::Arc;

use anyhow::Context;
use object_store::buffered::BufWriter;
use serde::{Deserialize, Serialize};
use stillhouse_core::job::{ResultsSpec, S3};
use stillhouse_core::key::hex;
use tokio::io::AsyncWriteExt;

use super::{Place, S3_HINT, folder_of, words};
use crate::commands::runtime;
use crate::coordinate::results::RESULTS;
use crate::failure::{Failure, Kind};

const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;
/// Larger than any of ours.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// What lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    version: u32,
    job: String,
    files: Vec<Delivered>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivered {
    name: String,
    bytes: u64,
    blake3: String,
}

/// Copies the results in `dir` of the job `name` with `digest`; says where they are.
///
/// # Errors
/// When they cannot be read or written: run again, only the rest is copied.
pub fn deliver(spec: &ResultsSpec, name: &str, digest: &[u8; 32], dir: &FilePath) -> Result<String, Failure> {
    let folder = folder_of(name, digest);
    let shown = format!("{}/{folder}", spec.url.trim_end_matches('/'));
    let runtime = runtime()?;
    let copied =
        Place::open(&spec.url).and_then(|place| runtime.block_on(copy(&place.inner(&folder), hex(digest), dir)));
    match copied {
        Ok(sent) => {
            tracing::info!(to = shown, files = sent, "results copied");
            Ok(shown)
        }
        Err(error) => {
            let hint = if spec.url.starts_with(S3) {
                S3_HINT
            } else {
                "see that the folder can be written"
            };
            Err(Failure::message(Kind::Storage, words(error.as_ref()))
                .context(format!(
                    "the job is done and its results are in {}, but they cannot be copied to {shown}",
                    dir.display()
                ))
                .hint(format!("run the same command again, it copies the rest: {hint}")))
        }
    }
}

/// How many files were sent.
async fn copy(place: &Place, job: String, dir: &FilePath) -> anyhow::Result<usize> {
    let there = manifest(place).await?;
    let mut files = Vec::new();
    let mut sent = 0;
    for name in RESULTS {
        let path = dir.join(name);
        let Some(file) = digest(&path, name)? else { continue };
        if !there.files.contains(&file) {
            let what = || format!("cannot copy {name}");
            send(place, &path, name).await.with_context(what)?;
            sent += 1;
        }
        files.push(file);
    }
    let manifest = Manifest {
        version: VERSION,
        job,
        files,
    };
    if manifest != there {
        let text = serde_json::to_vec_pretty(&manifest)?;
        place.put(MANIFEST, text).await?;
    }
    Ok(sent)
}

/// What was copied before; nothing where no manifest of this version says so.
async fn manifest(place: &Place) -> anyhow::Result<Manifest> {
    let bytes = match place.get(MANIFEST).await? {
        Some(found) if found.meta.size <= MAX_MANIFEST_BYTES => found.bytes().await?,
        _ => return Ok(Manifest::default()),
    };
    let read: Option<Manifest> = serde_json::from_slice(&bytes).ok();
    Ok(read.filter(|manifest| manifest.version == VERSION).unwrap_or_default())
}

/// Size and digest of a result; `None` of one that this job does not have.
fn digest(path: &FilePath, name: &str) -> anyhow::Result<Option<Delivered>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(Some(Delivered {
        name: name.to_owned(),
        bytes: hasher.count(),
        blake3: hasher.finalize().to_hex().to_string(),
    }))
}

/// Sends a file: in parts where it is large.
async fn send(place: &Place, path: &FilePath, name: &str) -> anyhow::Result<()> {
    let mut from = tokio::fs::File::open(path).await?;
    let mut to = BufWriter::new(Arc::clone(&place.store), place.file(name));
    match tokio::io::copy(&mut from, &mut to).await {
        Ok(_) => Ok(to.shutdown().await?),
        Err(error) => {
            let _aborted = to.abort().await;
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_copied_whole_and_again_only_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, there) = (folder.path().join("job"), folder.path().join("there"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("student.pt"), [1; 5]).unwrap();
        std::fs::write(dir.join("summary.json"), "{}").unwrap();
        std::fs::write(dir.join("token"), "secret").unwrap();
        let url = url::Url::from_file_path(&there).unwrap();
        let spec = ResultsSpec { url: url.to_string() };
        let shown = deliver(&spec, "mnist", &[7; 32], &dir).expect("copied");
        assert!(shown.ends_with("/there/mnist-070707070707"), "{shown}");
        let own = there.join("mnist-070707070707");
        assert_eq!(std::fs::read(own.join("student.pt")).unwrap(), [1; 5]);
        assert!(!own.join("token").exists(), "results, and nothing else");

        // What is there and did not change is not sent again; what changed is.
        std::fs::write(own.join("student.pt"), "touched").unwrap();
        std::fs::write(dir.join("summary.json"), "{ }").unwrap();
        deliver(&spec, "mnist", &[7; 32], &dir).expect("copied");
        assert_eq!(std::fs::read(own.join("student.pt")).unwrap(), b"touched");
        assert_eq!(std::fs::read(own.join("summary.json")).unwrap(), b"{ }");
        let manifest = std::fs::read_to_string(own.join(MANIFEST)).unwrap();
        let manifest: Manifest = serde_json::from_str(&manifest).unwrap();
        let sizes: Vec<_> = manifest
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.bytes))
            .collect();
        assert_eq!(sizes, [("summary.json", 3), ("student.pt", 5)]);
    }
}
