//! Images as small PNG files, and the contact sheet made of them.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, GrayImage, ImageEncoder, RgbImage};
use stillhouse_core::plan::Arm;
use stillhouse_core::{ImageSet, ImageShape, Lambda, mix};

use super::summary::Hardest;

/// Longest side of a picture in the report, in pixels; a larger image is scaled down, so that a
/// page of hundreds of tiles stays small.
const MAX_SIDE: u32 = 96;

/// The hardest candidates of one round, as pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactSheet {
    /// The round that chose them.
    pub round: u32,
    /// The student they were chosen for.
    pub arm: Arm,
    /// One tile for each of [`RoundSummary::hardest`](super::summary::RoundSummary::hardest), in that order.
    pub tiles: Vec<Tile>,
}

/// One candidate as pictures, each a PNG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// What the teacher saw.
    pub mixed: Vec<u8>,
    /// The parent that lambda weighs.
    pub a: Vec<u8>,
    /// The other parent.
    pub b: Vec<u8>,
}

impl ContactSheet {
    /// Draws the `hardest` candidates of a round from the seed images and the generated ones. One that names an image that
    /// does not exist, or no weight of a grid, gets empty pictures.
    #[must_use]
    pub fn draw(arm: Arm, round: u32, hardest: &[Hardest], seeds: &ImageSet, generated: Option<&ImageSet>) -> Self {
        let tiles = hardest.iter().map(|hard| {
            let hundredths = (hard.lambda * 100.0).round();
            let lambda = Lambda::from_hundredths(hundredths as u8);
            match (hard.generated, generated) {
                (None, _) => Tile::draw(seeds, (hard.a, hard.b), lambda),
                // A generated image is its own parent.
                (Some(at), Some(images)) => Tile::draw(images, (at, at), lambda),
                (Some(_), None) => Tile::draw(seeds, (u32::MAX, u32::MAX), lambda),
            }
        });
        Self {
            round,
            arm,
            tiles: tiles.collect(),
        }
    }
}

impl Tile {
    fn draw(seeds: &ImageSet, (a, b): (u32, u32), lambda: Option<Lambda>) -> Self {
        let shape = seeds.shape();
        let (a, b) = (seeds.get(a as usize), seeds.get(b as usize));
        let picture = |pixels: Option<&[u8]>| pixels.map(|pixels| png(shape, pixels)).unwrap_or_default();
        let mixed = a.zip(b).zip(lambda).map(|((a, b), lambda)| {
            let mut out = vec![0; shape.len()];
            mix::mix_into(a, b, lambda, &mut out);
            out
        });
        Self {
            mixed: picture(mixed.as_deref()),
            a: picture(a),
            b: picture(b),
        }
    }
}

/// Encodes one image (`shape.len()` bytes, channel-major) as a PNG file: grey for one channel, RGB
/// for three, at most 96 pixels a side. Empty when the shape has other channels or other bytes.
#[must_use]
pub fn png(shape: ImageShape, pixels: &[u8]) -> Vec<u8> {
    let Some(picture) = decode(shape, pixels) else {
        return Vec::new();
    };
    let picture = if shape.width.max(shape.height) > MAX_SIDE {
        picture.thumbnail(MAX_SIDE, MAX_SIDE)
    } else {
        picture
    };
    let mut file = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::Adaptive);
    let (bytes, color) = (picture.as_bytes(), picture.color());
    let written = encoder.write_image(bytes, picture.width(), picture.height(), color.into());
    written.map(|()| file).unwrap_or_default()
}

fn decode(shape: ImageShape, pixels: &[u8]) -> Option<DynamicImage> {
    if shape.is_empty() || pixels.len() != shape.len() {
        return None;
    }
    let ImageShape { width, height, .. } = shape;
    match shape.channels {
        1 => GrayImage::from_raw(width, height, pixels.to_vec()).map(DynamicImage::ImageLuma8),
        3 => RgbImage::from_raw(width, height, interleave(pixels)).map(DynamicImage::ImageRgb8),
        _ => None,
    }
}

/// `[3, height, width]` to `[height, width, 3]`.
fn interleave(planes: &[u8]) -> Vec<u8> {
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(red.len());
    let pixels = red.iter().zip(green).zip(blue);
    pixels.flat_map(|((red, green), blue)| [*red, *green, *blue]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(channels: u32, height: u32, width: u32) -> ImageShape {
        ImageShape {
            channels,
            height,
            width,
        }
    }

    fn read(file: &[u8]) -> DynamicImage {
        image::load_from_memory_with_format(file, image::ImageFormat::Png).expect("a PNG file")
    }

    #[test]
    fn a_picture_holds_the_exact_pixels() {
        let grey = read(&png(shape(1, 2, 3), &[0, 1, 2, 253, 254, 255]));
        assert_eq!(grey.to_luma8().into_raw(), [0, 1, 2, 253, 254, 255]);
        let rgb = read(&png(shape(3, 1, 2), &[1, 2, 10, 20, 100, 200]));
        assert_eq!(rgb.to_rgb8().into_raw(), [1, 10, 100, 2, 20, 200]);
    }

    #[test]
    fn a_large_image_is_scaled_down() {
        let large = shape(1, 300, 600);
        let picture = read(&png(large, &vec![7; large.len()]));
        assert_eq!((picture.width(), picture.height()), (96, 48));
    }

    #[test]
    fn an_image_of_another_shape_gives_no_picture() {
        assert_eq!(png(shape(1, 2, 2), &[0; 3]), [0; 0]);
        assert_eq!(png(shape(2, 2, 2), &[0; 8]), [0; 0]);
        assert_eq!(png(shape(1, 0, 2), &[]), [0; 0]);
    }

    #[test]
    fn a_tile_shows_the_canonical_mix_and_both_parents() {
        let seeds = ImageSet::new(shape(1, 1, 2), vec![0, 100, 200, 100]).expect("two images");
        let tile = Tile::draw(&seeds, (0, 1), Lambda::from_hundredths(30));
        assert_eq!(read(&tile.mixed).to_luma8().into_raw(), [140, 100]);
        assert_eq!(read(&tile.a).to_luma8().into_raw(), [0, 100]);
        let missing = Tile::draw(&seeds, (0, 7), Lambda::from_hundredths(30));
        assert!(missing.b.is_empty() && missing.mixed.is_empty() && !missing.a.is_empty());
    }
}
