//! How much is too much: bounds that hold before anything is decoded or allocated.

/// Bytes of decoded pixels in one set. Every worker and gateway keeps the seed images in memory;
/// 8 GiB is 2.8 million images of CIFAR's size or 57,000 of 3x224x224.
pub const MAX_DECODED_BYTES: u64 = 8 << 30;

/// Images in one data set, drawn or not: above ImageNet-21k (14.2 million). A draw permutes that
/// many indices, 64 MiB.
pub const MAX_IMAGES: u64 = 1 << 24;

/// Rows or columns of one image before it is resized. One decoded image of 16-bit RGBA at this size
/// takes 128 MiB.
pub const MAX_SIDE: u64 = 4096;

/// Bytes of one PNG or JPEG file: the largest image stored without compression, and 1 MiB for
/// headers and metadata.
pub const MAX_ENCODED_BYTES: u64 = MAX_SIDE * MAX_SIDE * 8 + (1 << 20);

/// Bytes of all paths in a folder or tar: 64 for each of [`MAX_IMAGES`].
pub const MAX_NAME_BYTES: u64 = 1 << 30;

/// A bound that an input exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`MAX_DECODED_BYTES`].
    DecodedBytes,
    /// [`MAX_IMAGES`].
    Images,
    /// [`MAX_SIDE`].
    Side,
    /// [`MAX_ENCODED_BYTES`].
    EncodedBytes,
    /// [`MAX_NAME_BYTES`].
    NameBytes,
}

impl Limit {
    /// The largest amount that is accepted.
    #[must_use]
    pub fn max(self) -> u64 {
        match self {
            Self::DecodedBytes => MAX_DECODED_BYTES,
            Self::Images => MAX_IMAGES,
            Self::Side => MAX_SIDE,
            Self::EncodedBytes => MAX_ENCODED_BYTES,
            Self::NameBytes => MAX_NAME_BYTES,
        }
    }

    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::DecodedBytes => "draw fewer images with `spec.images.take`, or smaller ones with `spec.images.size`",
            Self::Images => "keep the images to draw from in a smaller data set",
            Self::Side => "scale the images down before they are read",
            Self::EncodedBytes => "store the image anew; its file is larger than any image of an accepted size needs",
            Self::NameBytes => "shorten the paths, or keep the images to draw from in a smaller data set",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DecodedBytes => "bytes of pixels",
            Self::Images => "images",
            Self::Side => "rows or columns in one image",
            Self::EncodedBytes => "bytes in one image file",
            Self::NameBytes => "bytes of paths",
        })
    }
}
