//! The canonical mix, the first convolution, 2x2 maximum and ReLU.

use pulp::Simd;

use super::{KERNEL, TAPS, relu};

/// Output channels computed at once: with the four places of a pooling window, twelve sums.
const BLOCK: usize = 3;
/// Side of what a pooling window of the convolution reads.
const PATCH: usize = KERNEL + 1;

/// Some output channels of the first convolution (5x5, stride 1, valid).
pub(super) struct Block {
    /// `[inputs * TAPS][BLOCK]`, taps in the order channel, row, column.
    weights: Vec<[f32; BLOCK]>,
    bias: [f32; BLOCK],
}

/// Packs weights `[outputs][inputs][5][5]`, dividing them by 255 so that they take bytes. The last
/// block may have channels of zeros.
pub(super) fn pack(weights: &[f32], bias: &[f32]) -> Vec<Block> {
    let taps = weights.len() / bias.len();
    let blocks = weights.chunks(BLOCK * taps).zip(bias.chunks(BLOCK));
    let pack = |(weights, bias): (&[f32], &[f32])| {
        let weight = |output: usize, tap: usize| weights.get(output * taps + tap).map_or(0.0, |w| w / 255.0);
        Block {
            weights: (0..taps)
                .map(|tap| std::array::from_fn(|output| weight(output, tap)))
                .collect(),
            bias: std::array::from_fn(|output| bias.get(output).copied().unwrap_or(0.0)),
        }
    };
    blocks.map(pack).collect()
}

/// What the first layer writes: `[channel][height][width]` with a border of zeros
/// that the second convolution reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pooled {
    pub(super) channels: usize,
    /// Rows and columns that are written, `BORDER` from the upper left.
    pub(super) size: [usize; 2],
    /// Rows and columns in all.
    pub(super) padded: [usize; 2],
}

/// Zeros above and left of the pooled image: half of a 5x5 kernel.
pub(super) const BORDER: usize = KERNEL / 2;

impl Pooled {
    /// Values of one candidate.
    pub(super) fn len(self) -> usize {
        self.channels * self.padded[0] * self.padded[1]
    }
}

/// Values of one block of output channels at the four places of a pooling window.
type Window<V> = [[V; BLOCK]; 4];

/// The convolution at the pooling window whose upper left output is `at` (row, column).
#[inline(always)]
fn window<S: Simd>(simd: S, block: &Block, image: &[S::f32s], size: [usize; 2], at: [usize; 2]) -> Window<S::f32s> {
    let [height, width] = size;
    let mut sums = [[simd.splat_f32s(0.0); BLOCK]; 4];
    for sums in &mut sums {
        for (sum, bias) in sums.iter_mut().zip(&block.bias) {
            *sum = simd.splat_f32s(*bias);
        }
    }
    for (plane, taps) in image.chunks_exact(height * width).zip(block.weights.chunks_exact(TAPS)) {
        for (row, taps) in taps.chunks_exact(KERNEL).enumerate() {
            let upper = &plane[(at[0] + row) * width + at[1]..][..PATCH];
            let lower = &plane[(at[0] + row + 1) * width + at[1]..][..PATCH];
            for (column, taps) in taps.iter().enumerate() {
                let near = [upper[column], upper[column + 1], lower[column], lower[column + 1]];
                for (output, tap) in taps.iter().enumerate() {
                    let tap = simd.splat_f32s(*tap);
                    for (sums, pixel) in sums.iter_mut().zip(near) {
                        sums[output] = simd.mul_add_e_f32s(tap, pixel, sums[output]);
                    }
                }
            }
        }
    }
    sums
}

/// The layer for one candidate a lane: `image` is `[channel][height][width]` of `size`, `out` what
/// `pooled` says.
#[inline(always)]
pub(super) fn layer<S: Simd>(
    simd: S,
    blocks: &[Block],
    image: &[S::f32s],
    size: [usize; 2],
    pooled: Pooled,
    out: &mut [S::f32s],
) {
    let plane = pooled.padded[0] * pooled.padded[1];
    for (block, out) in blocks.iter().zip(out.chunks_mut(BLOCK * plane)) {
        for y in 0..pooled.size[0] {
            for x in 0..pooled.size[1] {
                let window = window(simd, block, image, size, [2 * y, 2 * x]);
                let at = (y + BORDER) * pooled.padded[1] + x + BORDER;
                for (c, out) in out.chunks_exact_mut(plane).enumerate() {
                    let upper = simd.max_f32s(window[0][c], window[1][c]);
                    let lower = simd.max_f32s(window[2][c], window[3][c]);
                    out[at] = relu(simd, simd.max_f32s(upper, lower));
                }
            }
        }
    }
}

/// Half of the distance between two possible values of a mix in hundredths, in bytes: added before
/// rounding, it makes halves round up and leaves room for the error of `f32`.
pub(super) const HALF_STEP: f32 = 0.005;
/// From here on the distance between two `f32` is 1: adding and subtracting it rounds to nearest.
const ROUNDER: f32 = (1 << 23) as f32;

/// The canonical mix (see [`stillhouse_core::mix`]) as bytes in `f32`: `difference` is first image
/// minus second, `second` the second plus [`HALF_STEP`].
#[inline(always)]
pub(super) fn mix<S: Simd>(simd: S, lambda: f32, difference: &[S::f32s], second: &[S::f32s], out: &mut [S::f32s]) {
    let (lambda, rounder) = (simd.splat_f32s(lambda), simd.splat_f32s(ROUNDER));
    for ((out, difference), second) in out.iter_mut().zip(difference).zip(second) {
        let exact = simd.mul_add_e_f32s(lambda, *difference, *second);
        *out = simd.sub_f32s(simd.add_f32s(exact, rounder), rounder);
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;
    use stillhouse_core::Lambda;
    use stillhouse_core::mix::mix_into;

    use super::*;

    struct Mix<'a>(f32, &'a [f32], &'a [f32], &'a mut [f32]);

    impl WithSimd for Mix<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (difference, second) = (S::as_simd_f32s(self.1).0, S::as_simd_f32s(self.2).0);
            mix(simd, self.0, difference, second, S::as_mut_simd_f32s(self.3).0);
        }
    }

    #[test]
    fn every_mix_of_two_bytes_is_the_canonical_one() {
        let (a, b): (Vec<u8>, Vec<u8>) = (0..=255_u8).flat_map(|a| (0..=255_u8).map(move |b| (a, b))).unzip();
        let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f32::from(*a) - f32::from(*b)).collect();
        let second: Vec<f32> = b.iter().map(|b| f32::from(*b) + HALF_STEP).collect();
        let (mut mixed, mut canonical) = (vec![0.0; a.len()], vec![0; a.len()]);
        for hundredths in 0..=100 {
            let lambda = Lambda::from_hundredths(hundredths).expect("at most 100");
            mix_into(&a, &b, lambda, &mut canonical);
            for arch in super::super::tests::architectures() {
                arch.dispatch(Mix(lambda.as_f32(), &difference, &second, &mut mixed));
                assert!(
                    mixed.iter().zip(&canonical).all(|(m, c)| *m == f32::from(*c)),
                    "{hundredths} {arch:?}"
                );
            }
        }
    }
}
