//! Random changes of training images. Each draw is addressed by (seed, round, epoch, sample), so
//! it does not matter which shard, thread or rank makes it.

use stillhouse_core::ImageShape;
use stillhouse_core::sampler::Stream;
use tch::{Kind, TchError, Tensor};

use super::config::Augmentation;

/// Zeros around an image before it is cropped, as usual for CIFAR (He et al., section 4.2).
const CROP_PADDING: u64 = 4;

/// `grid_sampler`'s codes.
const BILINEAR: i64 = 0;
const ZEROS_OUTSIDE: i64 = 0;

/// Copies the `u8` image of one sample to `out`, cropped and flipped where that is wanted.
pub(crate) fn place(augmentation: Augmentation, shape: ImageShape, image: &[u8], draws: Stream, out: &mut Vec<u8>) {
    match augmentation {
        Augmentation::None | Augmentation::Jitter { .. } => out.extend_from_slice(image),
        Augmentation::CropFlip => crop_flip(shape, image, draws, out),
    }
}

/// Moves the image by up to [`CROP_PADDING`] pixels each way and mirrors half of them.
fn crop_flip(shape: ImageShape, image: &[u8], draws: Stream, out: &mut Vec<u8>) {
    let (height, width) = (shape.height as usize, shape.width as usize);
    let offset = |counter: u64| draws.below(counter, 2 * CROP_PADDING + 1) as isize - CROP_PADDING as isize;
    let (down, right, mirror) = (offset(0), offset(1), draws.below(2, 2) == 1);
    for plane in image.chunks_exact(height * width) {
        for y in 0..height {
            let begin = out.len();
            match y.checked_add_signed(down).filter(|row| *row < height) {
                None => out.resize(begin + width, 0),
                Some(row) => shift_row(&plane[row * width..][..width], right, out),
            }
            if mirror {
                out[begin..].reverse();
            }
        }
    }
}

/// Appends `row` moved left by `right` pixels, zeros where nothing is left.
fn shift_row(row: &[u8], right: isize, out: &mut Vec<u8>) {
    let zeros = right.unsigned_abs().min(row.len());
    let end = out.len() + row.len();
    if right < 0 {
        out.resize(out.len() + zeros, 0);
        out.extend_from_slice(&row[..row.len() - zeros]);
    } else {
        out.extend_from_slice(&row[zeros..]);
        out.resize(end, 0);
    }
}

/// Rotates and shifts a batch `[n, c, h, w]` of `f32`; `draws` has one stream a sample.
pub(crate) fn jitter(
    x: &Tensor,
    degrees: f32,
    shift: f32,
    draws: impl ExactSizeIterator<Item = Stream>,
) -> Result<Tensor, TchError> {
    let size = x.size();
    let aspect = size[2] as f32 / size[3] as f32;
    let count = draws.len() as i64;
    let matrices: Vec<f32> = draws
        .flat_map(|stream| matrix(degrees, shift, aspect, stream))
        .collect();
    let matrices = Tensor::f_from_slice(&matrices)?
        .f_view([count, 2, 3])?
        .f_to_device(x.device())?;
    let grid = Tensor::f_affine_grid_generator(&matrices, size.as_slice(), false)?;
    debug_assert_eq!(grid.kind(), Kind::Float);
    x.f_grid_sampler(&grid, BILINEAR, ZEROS_OUTSIDE, false)
}

/// The 2x3 matrix from output to input positions, both sides of the image being -1 and 1, `aspect`
/// height over width.
fn matrix(degrees: f32, shift: f32, aspect: f32, draws: Stream) -> [f32; 6] {
    let signed = |counter: u64| 2.0 * draws.unit(counter) - 1.0;
    let (sin, cos) = (degrees * signed(0)).to_radians().sin_cos();
    // A shift of the whole side is 2 in these units.
    let (right, down) = (2.0 * shift * signed(1), 2.0 * shift * signed(2));
    [cos, -sin * aspect, right, sin / aspect, cos, down]
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::sampler::Purpose;

    const SHAPE: ImageShape = ImageShape {
        channels: 2,
        height: 6,
        width: 5,
    };

    fn stream(at: u64) -> Stream {
        Stream::new(1, Purpose::Augmentation, 0).fork(at)
    }

    /// Pads, crops and mirrors by indices.
    fn reference(image: &[u8], draws: Stream) -> Vec<u8> {
        let (down, right, mirror) = (
            draws.below(0, 9) as i64,
            draws.below(1, 9) as i64,
            draws.below(2, 2) == 1,
        );
        let mut out = Vec::new();
        for channel in 0..2 {
            for y in 0..6 {
                for x in 0..5 {
                    let x = if mirror { 4 - x } else { x };
                    let (row, column) = (y + down - 4, x + right - 4);
                    let inside = (0..6).contains(&row) && (0..5).contains(&column);
                    out.push(if inside {
                        image[(channel * 30 + row * 5 + column) as usize]
                    } else {
                        0
                    });
                }
            }
        }
        out
    }

    #[test]
    fn cropping_equals_padding_and_indexing() {
        let image: Vec<u8> = (1..=60).collect();
        for at in 0..200 {
            let mut out = vec![9];
            place(Augmentation::CropFlip, SHAPE, &image, stream(at), &mut out);
            assert_eq!(out[1..], reference(&image, stream(at)), "draw {at}");
        }
    }

    #[test]
    fn no_jitter_changes_nothing() {
        let x = Tensor::rand([3, 1, 6, 5], (Kind::Float, tch::Device::Cpu));
        let same = jitter(&x, 0.0, 0.0, (0..3_u8).map(|at| stream(at.into()))).expect("runs");
        assert!((same - &x).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn a_quarter_turn_moves_the_corner_and_keeps_the_sum() {
        let mut x = Tensor::zeros([1, 1, 5, 5], (Kind::Float, tch::Device::Cpu));
        let _ = x.get(0).get(0).get(0).get(1).fill_(1.0);
        // Rotations of a whole half-turn range: find a draw near a quarter turn.
        let near = (0..10_000)
            .map(stream)
            .find(|s| (2.0 * s.unit(0) - 1.0 - 0.5).abs() < 1e-4)
            .expect("dense");
        let turned = jitter(&x, 180.0, 0.0, [near].into_iter()).expect("runs");
        x = turned.squeeze();
        assert!((x.sum(Kind::Float).double_value(&[]) - 1.0).abs() < 1e-2);
        let (row, column) = (
            x.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float),
            x.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float),
        );
        let corner = (
            row.argmax(0, false).int64_value(&[]),
            column.argmax(0, false).int64_value(&[]),
        );
        assert!(corner == (3, 0) || corner == (1, 4), "{corner:?}");
    }

    #[test]
    fn shifts_stay_within_their_fraction() {
        for at in 0..500 {
            let [.., right, _, _, down] = matrix(0.0, 0.1, 1.0, stream(at));
            assert!(right.abs() <= 0.2 && down.abs() <= 0.2);
        }
    }
}
