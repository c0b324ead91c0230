//! Images as everything here sees them: `u8`, channel-major (`[channels, height, width]`).

use serde::{Deserialize, Serialize};

/// Shape of one image: `[channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageShape {
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl ImageShape {
    /// Bytes (and pixels times channels) of one image.
    #[must_use]
    pub fn len(self) -> usize {
        self.channels as usize * self.height as usize * self.width as usize
    }

    /// Whether the shape holds no pixel.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// A set of images of one shape, stored one after another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSet {
    shape: ImageShape,
    bytes: Vec<u8>,
}

/// The bytes given for an image set are not a whole number of images.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found} bytes are not a whole number of {shape} images ({} bytes each)", shape.len())]
pub struct RaggedImages {
    /// Shape that was asked for.
    pub shape: ImageShape,
    /// Bytes that were given.
    pub found: usize,
}

impl ImageSet {
    /// Makes a set of `bytes.len() / shape.len()` images.
    ///
    /// # Errors
    /// When `bytes` is not a whole number of images, or the shape is empty.
    pub fn new(shape: ImageShape, bytes: Vec<u8>) -> Result<Self, RaggedImages> {
        if shape.is_empty() || !bytes.len().is_multiple_of(shape.len()) {
            return Err(RaggedImages {
                shape,
                found: bytes.len(),
            });
        }
        Ok(Self { shape, bytes })
    }

    /// Shape of each image.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.shape.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Pixels of image `index`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.bytes.chunks_exact(self.shape.len()).nth(index)
    }

    /// All pixels, image after image.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3, in a context of its own, over channels, height and width as little-endian `u32` and then
    /// all pixels: equal digests are equal image sets.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse image set v1");
        for side in [self.shape.channels, self.shape.height, self.shape.width] {
            hasher.update(&side.to_le_bytes());
        }
        hasher.update(&self.bytes);
        *hasher.finalize().as_bytes()
    }

    /// The images at `indices`, in that order. Indices past the end are a bug of the caller.
    ///
    /// # Panics
    /// When an index is past the end.
    #[must_use]
    pub fn subset(&self, indices: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(indices.len() * self.shape.len());
        for &index in indices {
            bytes.extend_from_slice(self.get(index as usize).expect("index within the image set"));
        }
        Self {
            shape: self.shape,
            bytes,
        }
    }
}

impl std::fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageSet({} images of {})", self.len(), self.shape)
    }
}
