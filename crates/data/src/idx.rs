//! IDX, the format of MNIST, optionally gzipped.
//!
//! | bytes | holds |
//! |---|---|
//! | 2 | zero |
//! | 1 | element type; only `0x08`, `u8`, is read |
//! | 1 | number of dimensions `d`: 1 for labels, 3 or 4 for images |
//! | 4 d | the dimensions, big-endian `u32` |
//! | product of the dimensions | elements, last dimension fastest |
//!
//! Images are `[n, h, w]`, `[n, c, h, w]` or `[n, h, w, c]` with `c` of 1 or 3.
//! Source: <http://yann.lecun.com/exdb/mnist/>.

use std::path::{Path, PathBuf};

use stillhouse_core::job::Size;
use stillhouse_core::{ImageSet, ImageShape};

use crate::assemble::{Assembler, Picks};
use crate::error::DataError;
use crate::limits::{Limit, MAX_DECODED_BYTES, MAX_IMAGES};
use crate::picture::{Picture, check_side};
use crate::stream::Stream;

const UNSIGNED_BYTES: u8 = 0x08;

/// An IDX images file whose header is sound.
pub(crate) struct IdxSource {
    path: PathBuf,
    header: ImagesHeader,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct ImagesHeader {
    images: u32,
    shape: ImageShape,
    channels_last: bool,
}

impl IdxSource {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let (_, header) = open_images(path)?;
        Ok(Self {
            path: path.to_owned(),
            header,
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.header.images
    }

    /// Reads the whole file, so that its length and checksum are verified whatever is picked.
    pub(crate) fn read(&self, picks: &Picks, size: Option<Size>) -> Result<ImageSet, DataError> {
        let (mut stream, header) = open_images(&self.path)?;
        if header != self.header {
            return Err(DataError::Changed {
                path: self.path.clone(),
            });
        }
        let mut assembler = Assembler::new(picks.count(header.images), size)?;
        let mut buffer = vec![0; header.shape.len()];
        let expected = u64::from(header.images) * buffer.len() as u64;
        for index in 0..header.images {
            let length = stream.fill(&mut buffer)?;
            if length < buffer.len() {
                let found = u64::from(index) * buffer.len() as u64 + length as u64;
                return Err(truncated(&self.path, "pixels", expected, found));
            }
            if let Some(slot) = picks.slot(index) {
                let place = format_args!("{}: image {index}", self.path.display());
                assembler.put(slot, header.picture(&buffer), &place)?;
            }
        }
        check_end(&mut stream, &self.path, "pixels", expected)?;
        assembler.finish(&self.path)
    }
}

impl ImagesHeader {
    fn picture(self, pixels: &[u8]) -> Picture<'_> {
        let ImageShape {
            channels,
            height,
            width,
        } = self.shape;
        if self.channels_last {
            Picture::from_interleaved(channels, height, width, pixels)
        } else {
            Picture::from_planes(self.shape, pixels)
        }
    }
}

/// Reads an IDX labels file.
pub(crate) fn read_labels(path: &Path) -> Result<Vec<u16>, DataError> {
    let mut stream = Stream::open(path)?;
    let dims = read_header(&mut stream, path, "an IDX labels file")?;
    let &[count] = dims.as_slice() else {
        return Err(DataError::IdxDimensions {
            path: path.to_owned(),
            labels: true,
            found: dims.len() as u8,
        });
    };
    let count = u64::from(count);
    if count > MAX_IMAGES {
        return Err(too_large(path, Limit::Images, count));
    }
    let mut labels = vec![0; count as usize];
    let found = stream.fill(&mut labels)? as u64;
    if found < count {
        return Err(truncated(path, "labels", count, found));
    }
    check_end(&mut stream, path, "labels", count)?;
    Ok(labels.into_iter().map(u16::from).collect())
}

fn open_images(path: &Path) -> Result<(Stream, ImagesHeader), DataError> {
    let mut stream = Stream::open(path)?;
    let dims = read_header(&mut stream, path, "an IDX images file")?;
    let header = images_header(&dims, path)?;
    Ok((stream, header))
}

/// The dimensions of a file with up to 4 of them.
fn read_header(stream: &mut Stream, path: &Path, expected: &'static str) -> Result<Vec<u32>, DataError> {
    let mut magic = [0; 4];
    let length = stream.fill(&mut magic)?;
    let [0, 0, kind, dimensions] = magic else {
        return Err(stream.is_not(expected));
    };
    if length < magic.len() || dimensions == 0 || !(UNSIGNED_BYTES..=0x0e).contains(&kind) {
        return Err(stream.is_not(expected));
    }
    if dimensions > 4 || dimensions == 2 {
        return Err(DataError::IdxDimensions {
            path: path.to_owned(),
            labels: expected.contains("labels"),
            found: dimensions,
        });
    }
    if kind != UNSIGNED_BYTES {
        return Err(DataError::IdxType {
            path: path.to_owned(),
            found: kind,
        });
    }
    let mut bytes = vec![0; 4 * usize::from(dimensions)];
    let found = stream.fill(&mut bytes)?;
    if found < bytes.len() {
        return Err(truncated(path, "dimensions", bytes.len() as u64, found as u64));
    }
    let words = bytes.as_chunks::<4>().0;
    Ok(words.iter().map(|&word| u32::from_be_bytes(word)).collect())
}

fn images_header(dims: &[u32], path: &Path) -> Result<ImagesHeader, DataError> {
    let layout = |problem| DataError::IdxLayout {
        path: path.to_owned(),
        dims: dims.to_vec(),
        problem,
    };
    let is_channels = |side: u32| side == 1 || side == 3;
    let (images, [channels, height, width], channels_last) = match *dims {
        [n, h, w] => (n, [1, h, w], false),
        [n, a, b, c] => match (is_channels(a), is_channels(c)) {
            (true, false) => (n, [a, b, c], false),
            (false, true) => (n, [c, a, b], true),
            (true, true) => return Err(layout("either the second or the last may count channels")),
            (false, false) => return Err(layout("expected 1 or 3 channels in the second or the last")),
        },
        _ => {
            return Err(DataError::IdxDimensions {
                path: path.to_owned(),
                labels: false,
                found: dims.len() as u8,
            });
        }
    };
    if height == 0 || width == 0 {
        return Err(layout("expected at least one row and one column"));
    }
    check_side(u64::from(height.max(width)), &path.display().to_string())?;
    let shape = ImageShape {
        channels,
        height,
        width,
    };
    let total = u64::from(images) * shape.len() as u64;
    if total > MAX_DECODED_BYTES {
        return Err(too_large(path, Limit::DecodedBytes, total));
    }
    Ok(ImagesHeader {
        images,
        shape,
        channels_last,
    })
}

fn truncated(path: &Path, what: &'static str, expected: u64, found: u64) -> DataError {
    DataError::Truncated {
        path: path.to_owned(),
        what,
        expected,
        found,
    }
}

fn too_large(path: &Path, limit: Limit, found: u64) -> DataError {
    DataError::TooLarge {
        place: path.display().to_string(),
        limit,
        found,
    }
}

fn check_end(stream: &mut Stream, path: &Path, what: &'static str, expected: u64) -> Result<(), DataError> {
    if stream.is_at_end()? {
        return Ok(());
    }
    Err(DataError::Trailing {
        path: path.to_owned(),
        what,
        expected,
    })
}
