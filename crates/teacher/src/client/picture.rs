//! Images as files that travel in text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use stillhouse_core::ImageShape;

/// `image`, `[channels, height, width]`, with the channels moved last.
pub(super) fn interleaved(image: &[u8], shape: ImageShape) -> Vec<u8> {
    let plane = shape.height as usize * shape.width as usize;
    let pixel = |at: usize| image.iter().skip(at).step_by(plane).copied();
    (0..plane).flat_map(pixel).collect()
}

/// A PNG file of `image`; the same bytes for the same pixels.
///
/// # Panics
/// When the image is neither grey nor of three channels, which [`is_drawable`] tells.
pub(super) fn png(image: &[u8], shape: ImageShape) -> Vec<u8> {
    let color = match shape.channels {
        1 => ExtendedColorType::L8,
        _ => ExtendedColorType::Rgb8,
    };
    let mut file = vec![];
    PngEncoder::new(&mut file)
        .write_image(&interleaved(image, shape), shape.width, shape.height, color)
        .expect("the pixels are those of the shape, and memory does not fail");
    file
}

/// Whether a PNG can hold images of `shape`.
pub(super) fn is_drawable(shape: ImageShape) -> bool {
    matches!(shape.channels, 1 | 3)
}

/// `bytes` in base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A PNG of `image` as a `data:` address.
pub(super) fn data_url(image: &[u8], shape: ImageShape) -> String {
    format!("data:image/png;base64,{}", base64(&png(image, shape)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels() {
        let images: Vec<u8> = (0..24).map(|at| at * 10).collect();
        for channels in [1, 3] {
            let shape = ImageShape {
                channels,
                height: 2,
                width: 4,
            };
            let pixels = &images[..shape.len()];
            let read = image::load_from_memory(&png(pixels, shape)).unwrap();
            assert_eq!(read.as_bytes(), interleaved(pixels, shape));
            assert_eq!(read.width(), 4);
        }
    }
}
