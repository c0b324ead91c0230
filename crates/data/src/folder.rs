//! A folder tree of PNG and JPEG files.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use stillhouse_core::ImageSet;
use stillhouse_core::job::Size;

use crate::assemble::{Assembler, Picks};
use crate::error::DataError;
use crate::limits::{Limit, MAX_ENCODED_BYTES};
use crate::names::{Tally, is_hidden, is_picture};
use crate::picture::Picture;

/// The images of a folder tree in byte order of their paths; nothing is opened yet.
pub(crate) struct FolderSource {
    root: PathBuf,
    images: Vec<Image>,
    skipped: u64,
}

/// One image: its path below the root with `/` between components, and where it is.
struct Image {
    name: Vec<u8>,
    path: PathBuf,
}

enum Kind {
    Folder,
    File,
    /// A device, a socket, or a link to nowhere or to itself.
    Other,
}

impl FolderSource {
    /// Lists the tree. Links are followed, each folder is visited once, hidden entries are skipped.
    pub(crate) fn open(root: &Path) -> Result<Self, DataError> {
        let metadata = fs::metadata(root).map_err(|source| io_error(root, source))?;
        if !metadata.is_dir() {
            return Err(DataError::WrongKind {
                path: root.to_owned(),
                expected: "a folder",
                found: "a file",
            });
        }
        let mut source = Self {
            root: root.to_owned(),
            images: Vec::new(),
            skipped: 0,
        };
        source.walk()?;
        source.images.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(source)
    }

    pub(crate) fn len(&self) -> u64 {
        self.images.len() as u64
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.images.iter().map(|image| image.name.as_slice())
    }

    /// Opens and decodes the picked images only.
    pub(crate) fn read(&self, picks: &Picks, size: Option<Size>) -> Result<ImageSet, DataError> {
        let available = self.images.len() as u32;
        let mut assembler = Assembler::new(picks.count(available), size)?;
        for (slot, index) in picks.indices(available).enumerate() {
            let path = &self.images[index as usize].path;
            let place = path.display().to_string();
            let picture = Picture::decode(&read_encoded(path)?, &place)?;
            assembler.put(slot, picture, &place)?;
        }
        assembler.finish(&self.root)
    }

    fn walk(&mut self) -> Result<(), DataError> {
        let mut tally = Tally::default();
        let mut visited = HashSet::new();
        let mut pending = vec![(self.root.clone(), Vec::new())];
        while let Some((folder, prefix)) = pending.pop() {
            let real = fs::canonicalize(&folder).map_err(|source| io_error(&folder, source))?;
            if !visited.insert(real) {
                continue;
            }
            for entry in sorted_entries(&folder)? {
                let mut name = prefix.clone();
                name.extend_from_slice(entry.file_name().as_encoded_bytes());
                match kind(&entry)? {
                    Kind::Folder => {
                        name.push(b'/');
                        pending.push((entry.path(), name));
                    }
                    Kind::File if is_picture(&name) => {
                        tally.add(&name, &self.root)?;
                        let path = entry.path();
                        self.images.push(Image { name, path });
                    }
                    Kind::File | Kind::Other => self.skipped += 1,
                }
            }
        }
        Ok(())
    }
}

/// What is not hidden in `folder`, in name order so that a folder with several links to it is found
/// under the same name every time.
fn sorted_entries(folder: &Path) -> Result<Vec<DirEntry>, DataError> {
    let entries: io::Result<Vec<DirEntry>> = fs::read_dir(folder).and_then(Iterator::collect);
    let mut entries = entries.map_err(|source| io_error(folder, source))?;
    entries.retain(|entry| !is_hidden(entry.file_name().as_encoded_bytes()));
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn kind(entry: &DirEntry) -> Result<Kind, DataError> {
    let path = entry.path();
    let mut file_type = entry.file_type().map_err(|source| io_error(&path, source))?;
    if file_type.is_symlink() {
        file_type = match fs::metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(source) if is_picture(path.as_os_str().as_encoded_bytes()) => {
                return Err(io_error(&path, source));
            }
            Err(_) => return Ok(Kind::Other),
        };
    }
    Ok(if file_type.is_dir() {
        Kind::Folder
    } else if file_type.is_file() {
        Kind::File
    } else {
        Kind::Other
    })
}

fn read_encoded(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut encoded = Vec::new();
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    file.take(MAX_ENCODED_BYTES + 1)
        .read_to_end(&mut encoded)
        .map_err(|source| io_error(path, source))?;
    let found = encoded.len() as u64;
    if found > MAX_ENCODED_BYTES {
        return Err(DataError::TooLarge {
            place: path.display().to_string(),
            limit: Limit::EncodedBytes,
            found,
        });
    }
    Ok(encoded)
}

fn io_error(path: &Path, source: io::Error) -> DataError {
    DataError::Io {
        path: path.to_owned(),
        source,
    }
}
