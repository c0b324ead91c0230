//! A file, gunzipped when it is gzip.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::DataError;
use crate::sniff::{Found, looks_like};

/// Enough to recognise every format: a tar shows itself at byte 257 of its first 512-byte block.
const HEAD_BYTES: usize = 512;

/// Large enough that a read costs little beside decompression.
const BUFFER_BYTES: usize = 1 << 16;

const GZIP_MAGIC: &[u8] = b"\x1f\x8b";

/// The bytes of a file; of its contents if it is gzip, which its first two bytes tell, not its name.
pub(crate) struct Stream {
    path: PathBuf,
    gzipped: bool,
    head: Vec<u8>,
    reader: Box<dyn Read>,
}

impl Stream {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let io_error = |source| DataError::Io {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::metadata(path).map_err(io_error)?;
        if !metadata.is_file() {
            return Err(DataError::WrongKind {
                path: path.to_owned(),
                expected: "a file",
                found: if metadata.is_dir() {
                    "a folder"
                } else {
                    "a device or socket"
                },
            });
        }
        let file = File::open(path).map_err(io_error)?;
        let mut buffered = BufReader::with_capacity(BUFFER_BYTES, file);
        let gzipped = buffered.fill_buf().map_err(io_error)?.starts_with(GZIP_MAGIC);
        let reader: Box<dyn Read> = if gzipped {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(buffered)))
        } else {
            Box::new(buffered)
        };
        Self {
            path: path.to_owned(),
            gzipped,
            head: Vec::new(),
            reader,
        }
        .with_head()
    }

    fn with_head(mut self) -> Result<Self, DataError> {
        let mut head = vec![0; HEAD_BYTES];
        let length = self.fill(&mut head)?;
        head.truncate(length);
        self.reader = Box::new(Cursor::new(head.clone()).chain(self.reader));
        self.head = head;
        Ok(self)
    }

    /// Whether the file is gzip.
    pub(crate) fn is_gzipped(&self) -> bool {
        self.gzipped
    }

    /// What the contents look like.
    pub(crate) fn looks_like(&self) -> Found {
        looks_like(&self.head)
    }

    /// What the file itself looks like: gzip, if it is gzip.
    pub(crate) fn found_on_disk(&self) -> Found {
        if self.gzipped {
            looks_like(GZIP_MAGIC)
        } else {
            self.looks_like()
        }
    }

    /// First bytes of the contents, at most 512.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Reads until `buffer` is full or the contents end; the number of bytes read.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DataError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    /// Whether the contents end here. For gzip this also verifies its checksum.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, DataError> {
        Ok(self.fill(&mut [0])? == 0)
    }

    /// The contents are not `expected`.
    pub(crate) fn is_not(&self, expected: &'static str) -> DataError {
        DataError::WrongFormat {
            path: self.path.clone(),
            expected,
            found: self.looks_like(),
        }
    }

    fn failed(&self, source: io::Error) -> DataError {
        let path = self.path.clone();
        // An error without a code of the operating system comes from the decompressor.
        if self.gzipped && source.raw_os_error().is_none() {
            return DataError::Corrupt {
                path,
                what: "gzip file",
                source,
            };
        }
        DataError::Io { path, source }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}
