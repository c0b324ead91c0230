//! One image: decode, deinterleave, resize.

use std::borrow::Cow;
use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Luma};
use stillhouse_core::ImageShape;
use stillhouse_core::job::Size;

use crate::error::DataError;
use crate::limits::{Limit, MAX_ENCODED_BYTES, MAX_SIDE};
use crate::sniff::looks_like;

/// Pixels of one image, channel-major; `pixels.len() == shape.len()`.
pub(crate) struct Picture<'a> {
    pub(crate) shape: ImageShape,
    pub(crate) pixels: Cow<'a, [u8]>,
}

impl Picture<'static> {
    /// Decodes a PNG or JPEG; `place` names it in errors.
    pub(crate) fn decode(encoded: &[u8], place: &str) -> Result<Self, DataError> {
        let format = match image::guess_format(encoded) {
            Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
            Ok(_) | Err(_) => {
                return Err(DataError::NotAnImage {
                    place: place.to_owned(),
                    found: looks_like(encoded),
                });
            }
        };
        if format == ImageFormat::Jpeg && !jpeg_is_whole(encoded) {
            return Err(DataError::TruncatedJpeg {
                place: place.to_owned(),
            });
        }
        let bad = |source| DataError::BadImage {
            place: place.to_owned(),
            source,
        };
        let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(2 * MAX_ENCODED_BYTES);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(bad)?;
        let (width, height) = decoder.dimensions();
        check_side(u64::from(width.max(height)), place)?;
        Ok(Self::from_decoded(&DynamicImage::from_decoder(decoder).map_err(bad)?))
    }

    fn from_decoded(decoded: &DynamicImage) -> Self {
        let (width, height) = (decoded.width(), decoded.height());
        let color = decoded.color();
        let interleaved = match (color.has_color(), color.has_alpha()) {
            (false, false) => decoded.to_luma8().into_raw(),
            (true, false) => decoded.to_rgb8().into_raw(),
            (false, true) => on_black::<2>(&decoded.to_luma_alpha8()),
            (true, true) => on_black::<4>(&decoded.to_rgba8()),
        };
        Self::from_interleaved(if color.has_color() { 3 } else { 1 }, height, width, &interleaved)
    }

    /// From `[height, width, channels]`, the channels of a pixel side by side.
    pub(crate) fn from_interleaved(channels: u32, height: u32, width: u32, interleaved: &[u8]) -> Self {
        let shape = ImageShape {
            channels,
            height,
            width,
        };
        let stride = channels as usize;
        let pixels = (0..stride)
            .flat_map(|channel| interleaved.iter().skip(channel).step_by(stride).copied())
            .collect();
        Self {
            shape,
            pixels: Cow::Owned(pixels),
        }
    }
}

impl<'a> Picture<'a> {
    /// From `[channels, height, width]`.
    pub(crate) fn from_planes(shape: ImageShape, pixels: &'a [u8]) -> Self {
        debug_assert_eq!(pixels.len(), shape.len());
        Self {
            shape,
            pixels: Cow::Borrowed(pixels),
        }
    }

    /// Rows and columns.
    pub(crate) fn size(&self) -> Size {
        Size {
            height: self.shape.height,
            width: self.shape.width,
        }
    }

    /// The same picture with `size` rows and columns.
    pub(crate) fn resized(self, size: Size) -> Self {
        if self.size() == size {
            return self;
        }
        let (height, width) = (self.shape.height, self.shape.width);
        let mut pixels = Vec::with_capacity(self.shape.channels as usize * size.height as usize * size.width as usize);
        for plane in self.pixels.chunks_exact(height as usize * width as usize) {
            let plane: ImageBuffer<Luma<u8>, &[u8]> =
                ImageBuffer::from_raw(width, height, plane).expect("a plane has height x width bytes");
            pixels.extend(imageops::resize(&plane, size.width, size.height, FilterType::Triangle).into_raw());
        }
        Self {
            shape: ImageShape {
                channels: self.shape.channels,
                height: size.height,
                width: size.width,
            },
            pixels: Cow::Owned(pixels),
        }
    }
}

/// Refuses images that are too large to decode.
pub(crate) fn check_side(side: u64, place: &str) -> Result<(), DataError> {
    if side > MAX_SIDE {
        return Err(DataError::TooLarge {
            place: place.to_owned(),
            limit: Limit::Side,
            found: side,
        });
    }
    Ok(())
}

/// Drops alpha, the last of `N` channels, after scaling the others by it (rounded to nearest).
fn on_black<const N: usize>(interleaved: &[u8]) -> Vec<u8> {
    let mut opaque = Vec::with_capacity(interleaved.len() / N * (N - 1));
    for pixel in interleaved.as_chunks::<N>().0 {
        let alpha = u32::from(pixel[N - 1]);
        opaque.extend(
            pixel[..N - 1]
                .iter()
                .map(|&value| ((u32::from(value) * alpha + 127) / 255) as u8),
        );
    }
    opaque
}

/// Whether an end-of-image marker follows the last start of a scan. The decoder fills what is
/// missing with grey, which would become a plausible image; inside a scan, `ff` is always followed
/// by `00` or a restart marker, so that the marker cannot be found there by chance.
fn jpeg_is_whole(encoded: &[u8]) -> bool {
    let scan = encoded.windows(2).rposition(|pair| pair == [0xff, 0xda]);
    scan.is_some_and(|start| encoded[start..].windows(2).any(|pair| pair == [0xff, 0xd9]))
}
