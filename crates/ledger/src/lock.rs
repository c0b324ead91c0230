//! `ledger/lock`: one process writes, or any number read.

use std::fs::File;
use std::io;
use std::path::Path;

use fs4::fs_std::FileExt;

use crate::error::LedgerError;
use crate::store::{file, old_file};

/// The right to use a job directory's ledger, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child process that is just being started has the file, too.
        let _ = FileExt::unlock(&self.file);
    }
}

/// Who else may hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Nobody,
    Readers,
}

impl Lock {
    /// Locks the ledger of job directory `dir`; makes its folder for a writer.
    pub(crate) fn take(dir: &Path, sharing: Sharing) -> Result<Self, LedgerError> {
        let folder = dir.join("ledger");
        let path = file(dir);
        if sharing == Sharing::Readers && !path.exists() && !old_file(dir).exists() {
            return Err(LedgerError::Missing { path });
        }
        let lock = match sharing {
            Sharing::Nobody => make(&folder),
            // Whoever only reads need not be allowed to write.
            Sharing::Readers => File::open(folder.join("lock")).or_else(|_| make(&folder)),
        };
        let lock = lock.map_err(LedgerError::of)?;
        let taken = match sharing {
            Sharing::Nobody => FileExt::try_lock_exclusive(&lock),
            Sharing::Readers => FileExt::try_lock_shared(&lock),
        };
        if !taken.map_err(LedgerError::of)? {
            return Err(LedgerError::Locked { path });
        }
        Ok(Self { file: lock })
    }
}

fn make(folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
}
