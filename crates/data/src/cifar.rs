//! The binary version of CIFAR-10: records of 1 label byte (0 to 9) and 3,072 pixels,
//! `[3, 32, 32]`; one file, or every `*.bin` of a folder in name order.
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::path::{Path, PathBuf};

use stillhouse_core::job::Size;
use stillhouse_core::{ImageSet, ImageShape};

use crate::assemble::{Assembler, Picks};
use crate::error::DataError;
use crate::picture::Picture;
use crate::stream::Stream;

const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 32,
    width: 32,
};
const RECORD_BYTES: usize = 1 + 3 * 32 * 32;
const CLASSES: u8 = 10;

/// Files that are a whole number of records each.
pub(crate) struct CifarSource {
    path: PathBuf,
    files: Vec<File>,
    skipped: u64,
}

struct File {
    path: PathBuf,
    records: u64,
}

impl CifarSource {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let (paths, skipped) = if path.is_dir() {
            list(path)?
        } else {
            (vec![path.to_owned()], 0)
        };
        let files = paths.into_iter().map(measure).collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.to_owned(),
            files,
            skipped,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.files.iter().map(|file| file.records).sum()
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Reads every record, so that every label is verified whatever is picked; images and labels.
    pub(crate) fn read(&self, picks: &Picks, size: Option<Size>) -> Result<(ImageSet, Vec<u16>), DataError> {
        let wanted = picks.count(self.len() as u32);
        let mut assembler = Assembler::new(wanted, size)?;
        let mut labels = Vec::with_capacity(wanted);
        let mut index = 0;
        let mut buffer = [0; RECORD_BYTES];
        for file in &self.files {
            let mut stream = Stream::open(&file.path)?;
            for record in 0..file.records {
                let length = stream.fill(&mut buffer)?;
                let label = check_record(&buffer[..length], file, record, &stream)?;
                if let Some(slot) = picks.slot(index) {
                    let place = format_args!("{}: record {record}", file.path.display());
                    assembler.put(slot, Picture::from_planes(SHAPE, &buffer[1..]), &place)?;
                    labels.push(u16::from(label));
                }
                index += 1;
            }
        }
        Ok((assembler.finish(&self.path)?, labels))
    }
}

fn check_record(bytes: &[u8], file: &File, record: u64, stream: &Stream) -> Result<u8, DataError> {
    let label = match bytes.first() {
        Some(&label) if bytes.len() == RECORD_BYTES => label,
        Some(_) | None => {
            return Err(DataError::Changed {
                path: file.path.clone(),
            });
        }
    };
    if label < CLASSES {
        return Ok(label);
    }
    if record == 0 && stream.looks_like().is_known() {
        return Err(stream.is_not("CIFAR-10 binary"));
    }
    Err(DataError::CifarLabel {
        path: file.path.clone(),
        record,
        found: label,
    })
}

/// The `*.bin` files of a folder in name order, and the number of other files.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, u64), DataError> {
    let io_error = |source| DataError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    let mut skipped = 0;
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".bin") && !bytes.starts_with(b".") {
            paths.push(folder.join(name));
        } else {
            skipped += 1;
        }
    }
    paths.sort();
    let holds = |start: &str| {
        let name = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
        };
        paths.iter().any(name)
    };
    if holds("test_batch") && holds("data_batch") {
        return Err(DataError::CifarMixed {
            path: folder.to_owned(),
        });
    }
    Ok((paths, skipped))
}

fn measure(path: PathBuf) -> Result<File, DataError> {
    let stream = Stream::open(&path)?;
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(source) => return Err(DataError::Io { path, source }),
    };
    if stream.is_gzipped() || bytes == 0 {
        return Err(DataError::WrongFormat {
            path,
            expected: "CIFAR-10 binary",
            found: stream.found_on_disk(),
        });
    }
    if !bytes.is_multiple_of(RECORD_BYTES as u64) {
        if stream.looks_like().is_known() {
            return Err(stream.is_not("CIFAR-10 binary"));
        }
        return Err(DataError::CifarLength { path, found: bytes });
    }
    Ok(File {
        path,
        records: bytes / RECORD_BYTES as u64,
    })
}
