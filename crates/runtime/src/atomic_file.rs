//! Replaces a file whole or not at all, and durably.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// How the name of an unfinished file ends.
const PARTIAL: &str = ".partial";

/// Why a file was not replaced. Unless said otherwise it holds what it held before.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system, the user's share of it or the limit for one file is full. Free some space
    /// and try again.
    #[error("no space left to write {path}")]
    StorageFull {
        /// The file that was to be replaced.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that the system or the writing function refused.
    #[error("failed to write {path}")]
    Io {
        /// The file that was to be replaced.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The new content is in place, but may not outlive a loss of power.
    #[error("failed to make the new {path} durable")]
    NotDurable {
        /// The file that was replaced.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Replaces `path` by `content`.
///
/// After a crash at any moment `path` holds the old content or the new; once this returns, the
/// new, whatever happens to the machine.
///
/// # Errors
/// [`WriteError`].
pub fn write(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    write_with(path, |file| file.write_all(content))
}

/// Replaces `path` by what `fill` writes, for content that is better not held in memory.
///
/// # Errors
/// [`WriteError`], with the error of `fill` as its source where that failed.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), WriteError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            WriteError::StorageFull {
                path: path.to_owned(),
                source,
            }
        }
        _ => WriteError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let directory = parent(path);
    replace(path, directory, fill).map_err(failed)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| WriteError::NotDurable {
            path: path.to_owned(),
            source,
        })
}

/// Removes what writers that were killed have left in `directory`; returns how many files.
///
/// Only for the one process that may write there.
///
/// # Errors
/// What the system said.
pub fn remove_partial(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(PARTIAL) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn replace(path: &Path, directory: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Dropping it on any error removes the unfinished file.
    let mut partial = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(PARTIAL)
        .permissions(readable())
        .tempfile_in(directory)?;
    fill(partial.as_file_mut())?;
    partial.as_file().sync_all()?;
    partial.persist(path)?;
    Ok(())
}

/// What any new file gets, less the process's mask.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        for content in ["first", "second, longer", ""] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(directory.path()), ["summary.json"]);
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_the_old_content_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(io::Error::other("the encoder failed"))
        });
        assert!(matches!(failed, Err(WriteError::Io { .. })), "{failed:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["checkpoint"]);
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        write(&path, b"old").unwrap();
        let full = write_with(&path, |_| {
            File::options().write(true).open("/dev/full")?.write_all(b"new")
        });
        assert!(
            matches!(&full, Err(WriteError::StorageFull { path: named, .. }) if *named == path),
            "{full:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let missing = write(&directory.path().join("no/such/directory"), b"new");
        assert!(matches!(missing, Err(WriteError::Io { .. })), "{missing:?}");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".checkpoint.Xy12ab.partial", "weights.partial", ".hidden", "checkpoint"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        assert_eq!(remove_partial(directory.path()).unwrap(), 1);
        assert_eq!(names(directory.path()), [".hidden", "checkpoint", "weights.partial"]);
    }
}
