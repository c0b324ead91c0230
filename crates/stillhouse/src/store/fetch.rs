//! What a job reads from `s3://` addresses, brought to a folder of this machine for as long as it is read.

use std::future::ready;
use std::path::{Path as FilePath, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use stillhouse_core::job::{ImageFormat, Spec, is_remote};
use stillhouse_data::{is_hidden, is_picture};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::{Place, S3_HINT, words};
use crate::failure::{Failure, Kind};

/// Most bytes that one address may stand for.
const MAX_BYTES: u64 = 64 << 30;
/// Most objects that one address may stand for: images of a data set.
const MAX_OBJECTS: usize = stillhouse_data::limits::MAX_IMAGES as usize;
/// Requests at once.
const HANDS: usize = 16;

/// A job's spec whose paths are all of this machine. What was brought here goes when this is dropped.
#[derive(Debug)]
pub struct Fetched {
    /// The spec to read by; the job itself keeps the addresses.
    pub spec: Spec,
    _folder: Option<TempDir>,
}

/// What an address stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// One object.
    File,
    /// Every object below, with names that the format reads.
    Tree(ImageFormat),
}

/// Brings everything of `spec` that lies in a store.
///
/// # Errors
/// When a store cannot be read, something is not there, or this machine has no room for it.
pub fn fetch(spec: &Spec) -> Result<Fetched, Failure> {
    let mut spec = spec.clone();
    let extent = match spec.images.source {
        ImageFormat::Idx | ImageFormat::Tar => Extent::File,
        tree @ (ImageFormat::CifarBinary | ImageFormat::Folder) => Extent::Tree(tree),
    };
    let (images, labels) = match spec.evaluation.as_mut() {
        Some(of) => (Some(&mut of.images), of.labels.as_mut()),
        None => (None, None),
    };
    let paths = [
        (Some(&mut spec.images.path), extent),
        (images, extent),
        (labels, Extent::File),
        (spec.student.torchscript.as_mut(), Extent::File),
    ];
    let remote = paths.into_iter().filter_map(|(path, extent)| Some((path?, extent)));
    let remote: Vec<_> = remote.filter(|(path, _)| is_remote(path)).collect();
    if remote.is_empty() {
        return Ok(Fetched { spec, _folder: None });
    }
    let folder = tempfile::Builder::new().prefix("stillhouse-").tempdir();
    let folder = folder.map_err(|error| no_room(error, &std::env::temp_dir()))?;
    crate::commands::runtime()?.block_on(async {
        for (number, (path, extent)) in remote.into_iter().enumerate() {
            let url = path.to_string_lossy().into_owned();
            *path = bring(&url, extent, &folder.path().join(number.to_string())).await?;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(Fetched {
        spec,
        _folder: Some(folder),
    })
}

/// Brings what `url` stands for into `folder`; where it is now.
async fn bring(url: &str, extent: Extent, folder: &FilePath) -> Result<PathBuf, Failure> {
    let unusable = |error| Failure::new(Kind::Usage, anyhow::Error::context(error, url.to_owned()));
    let place = Place::open(url).map_err(unusable)?;
    let objects = list(&place, extent).await.map_err(|error| unreadable(error, url))?;
    let (count, total) = (objects.len(), objects.iter().map(|object| object.size).sum::<u64>());
    if total > MAX_BYTES || count > MAX_OBJECTS {
        let text = format!(
            "{url}: expected at most {MAX_OBJECTS} objects of {MAX_BYTES} bytes together, found {count} of {total}"
        );
        return Err(Failure::message(Kind::Data, text).hint("name a smaller part of it"));
    }
    let is_itself = objects.iter().any(|object| object.location == place.folder);
    tracing::info!(url, objects = count, bytes = total, "fetching");
    let copies = objects.into_iter().map(|object| copy(&place, object, url, folder));
    stream::iter(copies).buffer_unordered(HANDS).try_collect::<()>().await?;
    Ok(if is_itself {
        folder.join(name(&place.folder))
    } else {
        folder.to_owned()
    })
}

/// The objects that an address stands for: those below it, or the one that it is.
async fn list(place: &Place, extent: Extent) -> Result<Vec<ObjectMeta>, object_store::Error> {
    if let Extent::Tree(format) = extent {
        let found = place.store.list(Some(&place.folder));
        let mine = found.try_filter(|object| ready(is_read(place, format, &object.location)));
        let below: Vec<_> = mine.take(MAX_OBJECTS + 1).try_collect().await?;
        if !below.is_empty() {
            return Ok(below);
        }
    }
    Ok(vec![place.store.head(&place.folder).await?])
}

/// Whether a data set of this format has a use for an object.
fn is_read(place: &Place, format: ImageFormat, location: &Path) -> bool {
    let below: Vec<_> = location.prefix_match(&place.folder).into_iter().flatten().collect();
    let below: Vec<&str> = below.iter().map(AsRef::as_ref).collect();
    let name = below.join("/");
    match format {
        ImageFormat::Folder => is_picture(name.as_bytes()) && !is_hidden(name.as_bytes()),
        ImageFormat::CifarBinary | ImageFormat::Idx | ImageFormat::Tar => below.len() == 1 && name.ends_with(".bin"),
    }
}

/// The last part of an object's name.
fn name(location: &Path) -> &str {
    location.filename().unwrap_or_default()
}

/// Copies one object to its place below `folder`: its own name where it is all that was named.
async fn copy(place: &Place, object: ObjectMeta, url: &str, folder: &FilePath) -> Result<(), Failure> {
    let below = object.location.prefix_match(&place.folder).into_iter().flatten();
    let mut to = folder.to_owned();
    to.extend(below.map(|part| part.as_ref().to_owned()));
    if to == folder {
        to.push(name(&object.location));
    }
    let parent = to.parent().unwrap_or(folder);
    let made = tokio::fs::create_dir_all(parent).await;
    made.map_err(|error| no_room(error, parent))?;
    let mut file = tokio::fs::File::create(&to)
        .await
        .map_err(|error| no_room(error, &to))?;
    let got = place.store.get(&object.location).await;
    let mut pieces = got.map_err(|error| unreadable(error, url))?.into_stream();
    let mut left = object.size;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| unreadable(error, url))?;
        // Never more than was said.
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| changed(&object, url))?;
        file.write_all(&piece).await.map_err(|error| no_room(error, &to))?;
    }
    if left > 0 {
        return Err(changed(&object, url));
    }
    file.flush().await.map_err(|error| no_room(error, &to))
}

fn changed(object: &ObjectMeta, url: &str) -> Failure {
    let text = format!("{url}: {} changed while it was read", object.location);
    Failure::message(Kind::Data, text).hint("run the same command again: nothing was spent")
}

/// A store that says no says it again; one that is away may come back.
fn unreadable(error: object_store::Error, url: &str) -> Failure {
    use object_store::Error::{InvalidPath, NotFound, PermissionDenied, Unauthenticated};
    let (kind, hint) = match error {
        NotFound { .. } | InvalidPath { .. } => (Kind::Data, "check the address: bucket and key"),
        PermissionDenied { .. } | Unauthenticated { .. } => (Kind::Data, S3_HINT),
        _ => (Kind::Storage, S3_HINT),
    };
    Failure::message(kind, words(&error))
        .context(format!("cannot read {url} (nothing was spent)"))
        .hint(hint)
}

fn no_room(error: std::io::Error, path: &FilePath) -> Failure {
    Failure::new(Kind::Storage, error)
        .context(format!("cannot write {} (nothing was spent)", path.display()))
        .hint("fetched images need room in the folder that TMPDIR names, /tmp by default, while they are read")
}
