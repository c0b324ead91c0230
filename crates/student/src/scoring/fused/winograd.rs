//! The second convolution (5x5, stride 1) in Winograd's form F(4x4, 5x5): an 8x8 tile of inputs
//! gives 4x4 outputs with 64 products in place of 400. Then 2x2 maximum, bias and ReLU.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308),
//! with the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.

use pulp::Simd;

use super::first::Pooled;
use super::{KERNEL, TAPS};
use crate::scoring::lanes::{relu, scale};

/// Outputs a side of a tile.
pub(super) const OUTPUTS: usize = 4;
/// Inputs a side of a tile.
pub(super) const TILE: usize = OUTPUTS + KERNEL - 1;
/// Pooled values a side of a tile.
pub(super) const STEP: usize = OUTPUTS / 2;
/// Output channels packed together. With the frequencies of one row of a tile, sixteen sums.
const BLOCK: usize = 2;

/// The packed convolution.
pub(super) struct Winograd {
    /// Transformed kernels, `[block][row][input][channel of the block][column]`.
    kernels: Vec<[[f32; TILE]; BLOCK]>,
    bias: Vec<f32>,
    inputs: usize,
}

/// Scale and point of each row of the kernel transform but the last, which is infinity's.
const POINTS: [(f64, f64); TILE - 1] = [
    (1.0, 0.0),
    (-2.0 / 9.0, 1.0),
    (-2.0 / 9.0, -1.0),
    (1.0 / 90.0, 2.0),
    (1.0 / 90.0, -2.0),
    (32.0 / 45.0, 0.5),
    (32.0 / 45.0, -0.5),
];

impl Winograd {
    /// Packs weights `[outputs][inputs][5][5]` and biases `[outputs]`; `None` when the outputs are
    /// no multiple of what is computed at once.
    pub(super) fn pack(weights: &[f32], bias: &[f32]) -> Option<Self> {
        if !bias.len().is_multiple_of(BLOCK) {
            return None;
        }
        let inputs = weights.len() / bias.len() / TAPS;
        let transformed: Vec<[[f32; TILE]; TILE]> = weights.chunks_exact(TAPS).map(transform_kernel).collect();
        let mut kernels = Vec::with_capacity(bias.len() / BLOCK * TILE * inputs);
        for outputs in transformed.chunks_exact(inputs * BLOCK) {
            for (row, input) in (0..TILE).flat_map(|row| (0..inputs).map(move |input| (row, input))) {
                kernels.push(std::array::from_fn(|o| outputs[o * inputs + input][row]));
            }
        }
        Some(Self {
            kernels,
            bias: bias.to_vec(),
            inputs,
        })
    }
}

/// The kernel transform in one dimension.
pub(super) fn kernel_transform() -> [[f64; KERNEL]; TILE] {
    std::array::from_fn(|row| match POINTS.get(row) {
        Some((scale, point)) => std::array::from_fn(|power| scale * point.powi(power as i32)),
        None => std::array::from_fn(|power| if power == KERNEL - 1 { 1.0 } else { 0.0 }),
    })
}

fn transform_kernel(kernel: &[f32]) -> [[f32; TILE]; TILE] {
    let transform = kernel_transform();
    let value = |row: &[f64; KERNEL], column: &[f64; KERNEL]| {
        let lines = kernel.chunks_exact(KERNEL).zip(row);
        let line = |line: &[f32]| line.iter().zip(column).map(|(w, c)| f64::from(*w) * c).sum::<f64>();
        lines.map(|(weights, r)| r * line(weights)).sum::<f64>() as f32
    };
    std::array::from_fn(|r| std::array::from_fn(|c| value(&transform[r], &transform[c])))
}

/// Input transform of eight values.
#[inline(always)]
pub(super) fn transform_input<S: Simd>(simd: S, d: [S::f32s; TILE]) -> [S::f32s; TILE] {
    let one = scale(simd, -4.25, d[4], simd.add_f32s(d[2], d[6]));
    let odd_one = scale(simd, -4.25, d[3], simd.add_f32s(d[1], d[5]));
    let two = scale(simd, -1.25, d[4], scale(simd, 0.25, d[2], d[6]));
    let odd_two = scale(simd, -1.25, d[3], scale(simd, 0.25, d[1], d[5]));
    let half = scale(simd, -5.0, d[4], scale(simd, 4.0, d[2], d[6]));
    let odd_half = scale(simd, -1.25, d[3], scale(simd, 0.25, d[5], d[1]));
    [
        scale(simd, 5.25, simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[0], d[6])),
        simd.add_f32s(one, odd_one),
        simd.sub_f32s(one, odd_one),
        scale(simd, 2.0, odd_two, two),
        scale(simd, -2.0, odd_two, two),
        scale(simd, 2.0, odd_half, half),
        scale(simd, -2.0, odd_half, half),
        scale(simd, 5.25, simd.sub_f32s(d[3], d[5]), simd.sub_f32s(d[7], d[1])),
    ]
}

/// Output transform: four outputs from eight products.
#[inline(always)]
pub(super) fn transform_output<S: Simd>(simd: S, m: [S::f32s; TILE]) -> [S::f32s; OUTPUTS] {
    let (one, odd_one) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (two, odd_two) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    let (half, odd_half) = (simd.add_f32s(m[5], m[6]), simd.sub_f32s(m[5], m[6]));
    [
        simd.add_f32s(simd.add_f32s(m[0], one), simd.add_f32s(two, half)),
        scale(simd, 0.5, odd_half, scale(simd, 2.0, odd_two, odd_one)),
        scale(simd, 0.25, half, scale(simd, 4.0, two, one)),
        scale(
            simd,
            0.125,
            odd_half,
            scale(simd, 8.0, odd_two, simd.add_f32s(odd_one, m[7])),
        ),
    ]
}

/// Memory of one tile at a time.
pub(super) struct Scratch<V> {
    /// The transformed tile, `[row][input][column]`.
    tile: Vec<[V; TILE]>,
    /// Products after the output transform along the row, `[channel of the block][row]`.
    rows: [[[V; OUTPUTS]; TILE]; BLOCK],
}

impl<V: Copy> Scratch<V> {
    pub(super) fn new(zero: V, conv: &Winograd) -> Self {
        Self {
            tile: vec![[zero; TILE]; TILE * conv.inputs],
            rows: [[[zero; OUTPUTS]; TILE]; BLOCK],
        }
    }
}

/// Transforms the tile that starts at `plane` of channel `input`.
#[inline(always)]
fn transform_tile<S: Simd>(
    simd: S,
    plane: &[S::f32s],
    width: usize,
    out: &mut [[S::f32s; TILE]],
    [input, inputs]: [usize; 2],
) {
    let mut rows = [[simd.splat_f32s(0.0); TILE]; TILE];
    for (r, row) in rows.iter_mut().enumerate() {
        let d = &plane[r * width..][..TILE];
        *row = transform_input(simd, [d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]);
    }
    let [a, b, c, d, e, f, g, h] = &rows;
    for column in 0..TILE {
        let down = [
            a[column], b[column], c[column], d[column], e[column], f[column], g[column], h[column],
        ];
        for (r, value) in transform_input(simd, down).into_iter().enumerate() {
            out[r * inputs + input][column] = value;
        }
    }
}

/// Sums over the inputs of kernel times tile, for one row of `COUNT` channels from `first`.
#[inline(always)]
fn multiply<S: Simd, const COUNT: usize>(
    simd: S,
    kernels: &[[[f32; TILE]; BLOCK]],
    tile: &[[S::f32s; TILE]],
    first: usize,
) -> [[S::f32s; TILE]; COUNT] {
    let mut sums = [[simd.splat_f32s(0.0); TILE]; COUNT];
    for (kernels, tile) in kernels.iter().zip(tile) {
        for o in 0..COUNT {
            for f in 0..TILE {
                let kernel = simd.splat_f32s(kernels[first + o][f]);
                sums[o][f] = simd.mul_add_e_f32s(kernel, tile[f], sums[o][f]);
            }
        }
    }
    sums
}

/// The 4x4 outputs of `COUNT` channels of a block from `first`, pooled to 2x2, row by row.
#[inline(always)]
fn convolve<S: Simd, const COUNT: usize>(
    simd: S,
    kernels: &[[[f32; TILE]; BLOCK]],
    scratch: &mut Scratch<S::f32s>,
    inputs: usize,
    first: usize,
) -> [[S::f32s; STEP * STEP]; COUNT] {
    let Scratch { tile, rows } = scratch;
    for (r, (kernels, tile)) in kernels.chunks_exact(inputs).zip(tile.chunks_exact(inputs)).enumerate() {
        let sums = multiply::<S, COUNT>(simd, kernels, tile, first);
        for o in 0..COUNT {
            rows[o][r] = transform_output(simd, sums[o]);
        }
    }
    let mut pooled = [[simd.splat_f32s(0.0); STEP * STEP]; COUNT];
    for o in 0..COUNT {
        pooled[o] = pool(simd, &rows[o]);
    }
    pooled
}

/// Output transform along the columns and 2x2 maximum.
#[inline(always)]
fn pool<S: Simd>(simd: S, rows: &[[S::f32s; OUTPUTS]; TILE]) -> [S::f32s; STEP * STEP] {
    let [a, b, c, d, e, f, g, h] = rows;
    let mut pooled = [simd.splat_f32s(0.0); STEP * STEP];
    for x in 0..STEP {
        let (l, r) = (2 * x, 2 * x + 1);
        let left = transform_output(simd, [a[l], b[l], c[l], d[l], e[l], f[l], g[l], h[l]]);
        let right = transform_output(simd, [a[r], b[r], c[r], d[r], e[r], f[r], g[r], h[r]]);
        for y in 0..STEP {
            let left = simd.max_f32s(left[2 * y], left[2 * y + 1]);
            let right = simd.max_f32s(right[2 * y], right[2 * y + 1]);
            pooled[STEP * y + x] = simd.max_f32s(left, right);
        }
    }
    pooled
}

/// The layer for one candidate a lane: `input` is what `pooled` says, `out`
/// `[output][row][column]` of `size`. `COUNT` channels at once, one or two.
#[inline(always)]
pub(super) fn layer<S: Simd, const COUNT: usize>(
    simd: S,
    conv: &Winograd,
    pooled: Pooled,
    input: &[S::f32s],
    scratch: &mut Scratch<S::f32s>,
    size: [usize; 2],
    out: &mut [S::f32s],
) {
    let [height, width] = pooled.padded;
    for y in (0..size[0]).step_by(STEP) {
        for x in (0..size[1]).step_by(STEP) {
            for (channel, plane) in input.chunks_exact(height * width).enumerate() {
                let tile = &plane[2 * y * width + 2 * x..];
                transform_tile(simd, tile, width, &mut scratch.tile, [channel, conv.inputs]);
            }
            for (b, kernels) in conv.kernels.chunks_exact(TILE * conv.inputs).enumerate() {
                for first in (0..BLOCK).step_by(COUNT) {
                    let pooled = convolve::<S, COUNT>(simd, kernels, scratch, conv.inputs, first);
                    for (o, pooled) in (b * BLOCK + first..).zip(pooled) {
                        let plane = &mut out[o * size[0] * size[1]..][..size[0] * size[1]];
                        finish(simd, conv.bias[o], pooled, plane, size, [y, x]);
                    }
                }
            }
        }
    }
}

/// Adds the bias, applies ReLU and writes what of a tile lies within the image.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    bias: f32,
    pooled: [S::f32s; STEP * STEP],
    plane: &mut [S::f32s],
    size: [usize; 2],
    [y, x]: [usize; 2],
) {
    let bias = simd.splat_f32s(bias);
    for (i, value) in pooled.into_iter().enumerate() {
        let (y, x) = (y + i / STEP, x + i % STEP);
        if y < size[0] && x < size[1] {
            plane[y * size[1] + x] = relu(simd, simd.add_f32s(value, bias));
        }
    }
}
