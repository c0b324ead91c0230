//! The canonical mix, the first convolution, 2x2 maximum and ReLU.
//!
//! The convolution (5x5, stride 1, valid) runs along rows in Winograd's form F(4, 5): eight products
//! of a row of the kernel give four outputs in place of twenty. In two dimensions the transforms
//! would cost more than they save, as few channels share them.

use pulp::Simd;

use super::winograd::{OUTPUTS, STEP, TILE, kernel_transform, transform_input, transform_output};
use super::{KERNEL, TAPS};
use crate::scoring::lanes::relu;

/// Frequencies multiplied at once.
const GROUP: usize = TILE / 2;
/// Groups of a transformed strip.
const GROUPS: usize = TILE / GROUP;
/// Image rows that a row of pooling windows reads.
const PATCH: usize = KERNEL + 1;

/// The packed first convolution.
pub(super) struct First {
    /// Transformed rows of the kernels, `[output][group][input][row][frequency of the group]`.
    kernels: Vec<[[f32; GROUP]; KERNEL]>,
    bias: Vec<f32>,
    inputs: usize,
}

impl First {
    /// Packs weights `[outputs][inputs][5][5]` and biases `[outputs]`, dividing the weights by 255
    /// so that they take bytes.
    pub(super) fn pack(weights: &[f32], bias: &[f32]) -> Self {
        let inputs = weights.len() / bias.len() / TAPS;
        let transform = kernel_transform();
        let mut kernels = Vec::with_capacity(bias.len() * GROUPS * inputs);
        for kernel in weights.chunks_exact(inputs * TAPS) {
            for (group, kernel) in (0..GROUPS).flat_map(|group| kernel.chunks_exact(TAPS).map(move |k| (group, k))) {
                kernels.push(std::array::from_fn(|row| {
                    let row = &kernel[row * KERNEL..][..KERNEL];
                    std::array::from_fn(|f| {
                        let products = row.iter().zip(transform[group * GROUP + f]);
                        (products.map(|(w, t)| f64::from(*w) * t).sum::<f64>() / 255.0) as f32
                    })
                }));
            }
        }
        Self {
            kernels,
            bias: bias.to_vec(),
            inputs,
        }
    }

    /// Transformed strips that [`layer`] keeps.
    pub(super) fn strips(&self, pooled: Pooled) -> usize {
        GROUPS * self.inputs * PATCH * pooled.strips()
    }
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

    /// Strips of four outputs in a row of the convolution.
    fn strips(self) -> usize {
        self.size[1].div_ceil(STEP)
    }
}

/// Some frequencies of a transformed strip of eight pixels, a candidate a lane.
pub(super) type Strip<V> = [V; GROUP];

/// Transforms the strips of one image row; past its end there are zeros.
#[inline(always)]
fn transform_row<S: Simd>(simd: S, row: &[S::f32s], strips: usize, out: &mut [Strip<S::f32s>], group: usize) {
    for strip in 0..strips {
        let start = strip * OUTPUTS;
        let mut pixels = [simd.splat_f32s(0.0); TILE];
        if let Some(whole) = row.get(start..start + TILE) {
            pixels.copy_from_slice(whole);
        } else {
            let rest = &row[start..];
            pixels[..rest.len()].copy_from_slice(rest);
        }
        let [a, b, c, d, e, f, g, h] = transform_input(simd, pixels);
        out[strip] = [a, b, c, d];
        out[group + strip] = [e, f, g, h];
    }
}

/// Sums over inputs and kernel rows for one group of frequencies of `STRIPS` strips, at the upper and
/// the lower row of a pooling window. `rows` says where the strips of its image rows begin.
#[inline(always)]
fn multiply<S: Simd, const STRIPS: usize>(
    simd: S,
    kernels: &[[[f32; GROUP]; KERNEL]],
    strips: &[Strip<S::f32s>],
    rows: [usize; PATCH],
) -> [[Strip<S::f32s>; STRIPS]; 2] {
    let mut sums = [[[simd.splat_f32s(0.0); GROUP]; STRIPS]; 2];
    let per_input = strips.len() / kernels.len();
    for (kernel, strips) in kernels.iter().zip(strips.chunks_exact(per_input)) {
        for (at, start) in rows.into_iter().enumerate() {
            let strips = &strips[start..][..STRIPS];
            for f in 0..GROUP {
                // The image row meets one row of the kernel for each of the two outputs.
                for lower in 0..2 {
                    if at >= lower && at - lower < KERNEL {
                        let tap = simd.splat_f32s(kernel[at - lower][f]);
                        for s in 0..STRIPS {
                            sums[lower][s][f] = simd.mul_add_e_f32s(tap, strips[s][f], sums[lower][s][f]);
                        }
                    }
                }
            }
        }
    }
    sums
}

/// One output channel of `STRIPS` strips: their pooled values, two a strip, before bias and ReLU.
#[inline(always)]
fn convolve<S: Simd, const STRIPS: usize>(
    simd: S,
    kernels: &[[[f32; GROUP]; KERNEL]],
    strips: &[Strip<S::f32s>],
    rows: [usize; PATCH],
) -> [[S::f32s; STEP]; STRIPS] {
    let (near, far) = kernels.split_at(kernels.len() / GROUPS);
    let (low, high) = strips.split_at(strips.len() / GROUPS);
    let low = multiply::<S, STRIPS>(simd, near, low, rows);
    let high = multiply::<S, STRIPS>(simd, far, high, rows);
    let mut pooled = [[simd.splat_f32s(0.0); STEP]; STRIPS];
    for s in 0..STRIPS {
        let ([a, b, c, d], [e, f, g, h]) = (low[0][s], high[0][s]);
        let upper = transform_output(simd, [a, b, c, d, e, f, g, h]);
        let ([a, b, c, d], [e, f, g, h]) = (low[1][s], high[1][s]);
        let lower = transform_output(simd, [a, b, c, d, e, f, g, h]);
        for x in 0..STEP {
            let upper = simd.max_f32s(upper[2 * x], upper[2 * x + 1]);
            let lower = simd.max_f32s(lower[2 * x], lower[2 * x + 1]);
            pooled[s][x] = simd.max_f32s(upper, lower);
        }
    }
    pooled
}

/// The layer for one candidate a lane: `image` is `[channel][height][width]` of `size`, `out` what
/// `pooled` says. `STRIPS` strips at once, up to three.
#[inline(always)]
pub(super) fn layer<S: Simd, const STRIPS: usize>(
    simd: S,
    first: &First,
    image: &[S::f32s],
    size: [usize; 2],
    pooled: Pooled,
    strips: &mut [Strip<S::f32s>],
    out: &mut [S::f32s],
) {
    let [height, width] = size;
    let (plane, count) = (pooled.padded[0] * pooled.padded[1], pooled.strips());
    let mut ready = 0;
    for y in 0..pooled.size[0] {
        // A ring of image rows: each is transformed once.
        for row in ready..2 * y + PATCH {
            for (input, image) in image.chunks_exact(height * width).enumerate() {
                let place = (input * PATCH + row % PATCH) * count;
                let image = &image[row * width..][..width];
                transform_row(simd, image, count, &mut strips[place..], first.inputs * PATCH * count);
            }
        }
        ready = 2 * y + PATCH;
        let kernels = first.kernels.chunks_exact(GROUPS * first.inputs);
        for ((kernels, bias), out) in kernels.zip(&first.bias).zip(out.chunks_exact_mut(plane)) {
            let out = &mut out[(y + BORDER) * pooled.padded[1] + BORDER..][..pooled.size[1]];
            let mut at = 0;
            while at < count {
                let rows = std::array::from_fn(|row| (2 * y + row) % PATCH * count + at);
                let out = &mut out[at * STEP..];
                at += match STRIPS.min(count - at) {
                    1 => finish(simd, convolve::<S, 1>(simd, kernels, strips, rows), *bias, out),
                    2 => finish(simd, convolve::<S, 2>(simd, kernels, strips, rows), *bias, out),
                    _ => finish(simd, convolve::<S, STRIPS>(simd, kernels, strips, rows), *bias, out),
                };
            }
        }
    }
}

/// Adds the bias, applies ReLU, and writes what lies within the image. Answers how many strips.
#[inline(always)]
fn finish<S: Simd, const STRIPS: usize>(
    simd: S,
    pooled: [[S::f32s; STEP]; STRIPS],
    bias: f32,
    out: &mut [S::f32s],
) -> usize {
    let bias = simd.splat_f32s(bias);
    for (out, value) in out.iter_mut().zip(pooled.as_flattened()) {
        *out = relu(simd, simd.add_f32s(*value, bias));
    }
    STRIPS
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
            for arch in crate::scoring::agreement::architectures() {
                arch.dispatch(Mix(lambda.as_f32(), &difference, &second, &mut mixed));
                assert!(
                    mixed.iter().zip(&canonical).all(|(m, c)| *m == f32::from(*c)),
                    "{hundredths} {arch:?}"
                );
            }
        }
    }
}
