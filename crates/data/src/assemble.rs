//! Many pictures of one shape.

use std::fmt::Display;
use std::path::Path;

use stillhouse_core::job::Size;
use stillhouse_core::{ImageSet, ImageShape};

use crate::error::DataError;
use crate::limits::{Limit, MAX_DECODED_BYTES, MAX_SIDE};
use crate::picture::Picture;

/// Which images of a data set are wanted.
pub(crate) enum Picks {
    /// Every image.
    All,
    /// These indices, ascending and without repeats.
    Some(Vec<u32>),
}

impl Picks {
    /// How many of `available` images are wanted.
    pub(crate) fn count(&self, available: u32) -> usize {
        match self {
            Self::All => available as usize,
            Self::Some(indices) => indices.len(),
        }
    }

    /// Position of image `index` in the result, if it is wanted.
    pub(crate) fn slot(&self, index: u32) -> Option<usize> {
        match self {
            Self::All => Some(index as usize),
            Self::Some(indices) => indices.binary_search(&index).ok(),
        }
    }

    /// The wanted indices, ascending.
    pub(crate) fn indices(&self, available: u32) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::All => Box::new(0..available),
            Self::Some(indices) => Box::new(indices.iter().copied()),
        }
    }
}

/// Collects pictures, in any order, into an image set.
pub(crate) struct Assembler {
    wanted: usize,
    size: Option<Size>,
    first: Option<(String, ImageShape)>,
    bytes: Vec<u8>,
    filled: usize,
}

impl Assembler {
    /// Expects `wanted` pictures and resizes each to `size`, if there is one.
    pub(crate) fn new(wanted: usize, size: Option<Size>) -> Result<Self, DataError> {
        if let Some(size) = size {
            let sides = [size.height, size.width];
            if sides.iter().any(|&side| side == 0 || u64::from(side) > MAX_SIDE) {
                return Err(DataError::BadSize { size });
            }
        }
        Ok(Self {
            wanted,
            size,
            first: None,
            bytes: Vec::new(),
            filled: 0,
        })
    }

    /// Puts a picture at `slot`, each slot once; `place` names the picture in errors.
    pub(crate) fn put(&mut self, slot: usize, picture: Picture<'_>, place: &dyn Display) -> Result<(), DataError> {
        let picture = match self.size {
            Some(size) => picture.resized(size),
            None => picture,
        };
        let shape = self.accept(&picture, place)?;
        let start = slot * shape.len();
        if self.bytes.len() < start + shape.len() {
            self.bytes.resize(start + shape.len(), 0);
        }
        // Grey in a colour set: the one plane fills all three.
        for target in self.bytes[start..start + shape.len()].chunks_exact_mut(picture.shape.len()) {
            target.copy_from_slice(&picture.pixels);
        }
        self.filled += 1;
        Ok(())
    }

    /// The set of all pictures from `path`.
    pub(crate) fn finish(self, path: &Path) -> Result<ImageSet, DataError> {
        let changed = || DataError::Changed { path: path.to_owned() };
        let (_, shape) = self.first.ok_or_else(changed)?;
        if self.filled != self.wanted || self.bytes.len() != self.wanted * shape.len() {
            return Err(changed());
        }
        ImageSet::new(shape, self.bytes).map_err(|_| changed())
    }

    /// The shape of the set once `picture` belongs to it.
    fn accept(&mut self, picture: &Picture<'_>, place: &dyn Display) -> Result<ImageShape, DataError> {
        let Some((first, shape)) = &mut self.first else {
            check_total(self.wanted, picture.shape, place)?;
            self.first = Some((place.to_string(), picture.shape));
            return Ok(picture.shape);
        };
        let first_size = Size {
            height: shape.height,
            width: shape.width,
        };
        if first_size != picture.size() {
            return Err(DataError::SizesDiffer {
                first: first.clone(),
                first_size,
                second: place.to_string(),
                second_size: picture.size(),
            });
        }
        if shape.channels < picture.shape.channels {
            check_total(self.wanted, picture.shape, place)?;
            let planes = self.bytes.chunks_exact(shape.len());
            self.bytes = planes.flat_map(|plane| [plane; 3]).flatten().copied().collect();
            *shape = picture.shape;
        }
        Ok(*shape)
    }
}

fn check_total(images: usize, shape: ImageShape, place: &dyn Display) -> Result<(), DataError> {
    let found = images as u64 * shape.len() as u64;
    if found > MAX_DECODED_BYTES {
        return Err(DataError::TooLarge {
            place: format!("{images} images of {shape}, the first of them {place}"),
            limit: Limit::DecodedBytes,
            found,
        });
    }
    Ok(())
}
