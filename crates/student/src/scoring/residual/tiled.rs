//! A 3x3 convolution of stride 1 in Winograd's form F(4x4, 3x3): a 6x6 tile of inputs gives 4x4
//! outputs with 36 products in place of 144.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308),
//! section 4.3.

use pulp::Simd;

use super::pack::{Convolution, Packing, TAPS};
use super::plane::{OUTPUTS, Plane};
use crate::scoring::lanes::{Aligned, relu, scale};

/// Inputs a side of a tile.
const TILE: usize = OUTPUTS + 2;
/// Values of a tile, and of its transform.
const FREQUENCIES: usize = TILE * TILE;
/// Tiles that go through a convolution together: their transforms stay within the second-level
/// cache, and what is read of the kernels is used sixteen times.
const TILES: usize = 16;

/// The packed convolution.
pub(super) struct Tiled {
    /// Transformed kernels, `[frequency][group][input][block of the group][lane]`.
    kernels: Aligned,
    /// `[output]`.
    bias: Aligned,
    inputs: usize,
    /// Vectors of output channels that are computed together.
    group: usize,
    is_wide: bool,
}

impl Tiled {
    /// Packs `conv`; `None` when its stride is not 1 or its channels do not fill whole vectors.
    pub(super) fn pack(conv: &Convolution, packing: Packing) -> Option<Self> {
        let (inputs, outputs, lanes) = (conv.inputs(), conv.bias.len(), packing.lanes);
        if conv.stride != 1 || !inputs.is_multiple_of(lanes) || !outputs.is_multiple_of(lanes) {
            return None;
        }
        let transformed: Vec<[f32; FREQUENCIES]> = conv.weights.chunks_exact(TAPS).map(transform_kernel).collect();
        let group = packing.group(outputs);
        let mut kernels = Vec::with_capacity(FREQUENCIES * inputs * outputs);
        #[expect(clippy::needless_range_loop, reason = "it walks the second index of every kernel")]
        for frequency in 0..FREQUENCIES {
            for first in (0..outputs).step_by(group * lanes) {
                for input in 0..inputs {
                    let outputs = first..first + group * lanes;
                    kernels.extend(outputs.map(|output| transformed[output * inputs + input][frequency]));
                }
            }
        }
        Some(Self {
            kernels: Aligned::from_slice(&kernels),
            bias: Aligned::from_slice(&conv.bias),
            inputs,
            group,
            is_wide: packing.is_wide,
        })
    }

    /// Numbers of scratch memory for the tiles before and after the products.
    pub(super) fn scratch(&self) -> [usize; 2] {
        [self.inputs, self.bias.get().len()].map(|channels| FREQUENCIES * TILES * channels)
    }
}

fn transform_kernel(kernel: &[f32]) -> [f32; FREQUENCIES] {
    const ROWS: [[f64; 3]; TILE] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    std::array::from_fn(|at| {
        let (row, column) = (ROWS[at / TILE], ROWS[at % TILE]);
        let line = |line: &[f32]| line.iter().zip(column).map(|(w, c)| f64::from(*w) * c).sum::<f64>();
        kernel
            .chunks_exact(3)
            .zip(row)
            .map(|(weights, r)| r * line(weights))
            .sum::<f64>() as f32
    })
}

/// Input transform of six values.
#[inline(always)]
fn transform_input<S: Simd>(simd: S, d: [S::f32s; TILE]) -> [S::f32s; TILE] {
    let (even, odd) = (scale(simd, -4.0, d[2], d[4]), scale(simd, -4.0, d[1], d[3]));
    let (apart, twice) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
    [
        scale(simd, 4.0, d[0], scale(simd, -5.0, d[2], d[4])),
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        scale(simd, 2.0, twice, apart),
        scale(simd, -2.0, twice, apart),
        scale(simd, 4.0, d[1], scale(simd, -5.0, d[3], d[5])),
    ]
}

/// Output transform: four outputs from six products.
#[inline(always)]
fn transform_output<S: Simd>(simd: S, m: [S::f32s; TILE]) -> [S::f32s; OUTPUTS] {
    let (one, odd_one) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (two, odd_two) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(simd.add_f32s(m[0], one), two),
        scale(simd, 2.0, odd_two, odd_one),
        scale(simd, 4.0, two, one),
        scale(simd, 8.0, odd_two, simd.add_f32s(odd_one, m[5])),
    ]
}

/// What happens to the outputs before ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    /// They replace what is there.
    Nothing,
    /// They are added to what is there: the shortcut of a residual block.
    Shortcut,
}

/// One layer on some images.
pub(super) struct Work<'a> {
    pub(super) conv: &'a Tiled,
    /// The images `[image][plane]` of `from`, and where the outputs go.
    pub(super) from: &'a [f32],
    pub(super) to: &'a mut [f32],
    /// Before and behind it, as the stride is 1; the channels may be others.
    pub(super) plane: Plane,
    pub(super) images: usize,
    pub(super) onto: Onto,
}

/// The layer, with bias and ReLU. `scratch` is what [`Tiled::scratch`] asks for, or more.
#[inline(always)]
pub(super) fn layer<S: Simd>(simd: S, work: Work<'_>, scratch: [&mut [f32]; 2]) {
    let [rows, columns] = work.plane.tiles();
    let [tiles, products] = scratch;
    let [before, after] = work.conv.scratch();
    let (tiles, products) = (
        &mut tiles[..before],
        &mut S::as_mut_simd_f32s(products).0[..after / S::F32_LANES],
    );
    let Work {
        conv, plane, images, ..
    } = work;
    let to = S::as_mut_simd_f32s(work.to).0;
    let places = move |at: usize| Place {
        image: at / (rows * columns),
        y: at % (rows * columns) / columns * OUTPUTS,
        x: at % columns * OUTPUTS,
    };
    let total = images * rows * columns;
    for start in (0..total).step_by(TILES) {
        let used = start..total.min(start + TILES);
        load(
            simd,
            S::as_simd_f32s(work.from).0,
            [conv.inputs / S::F32_LANES, plane.area(), plane.row()],
            used.clone().map(places),
            S::as_mut_simd_f32s(&mut *tiles).0,
        );
        match conv.group {
            4 => multiply::<S, 4, 4>(simd, conv, tiles, products),
            2 if conv.is_wide => multiply::<S, 2, 8>(simd, conv, tiles, products),
            2 => multiply::<S, 2, 4>(simd, conv, tiles, products),
            _ if conv.is_wide => multiply::<S, 1, 16>(simd, conv, tiles, products),
            _ => multiply::<S, 1, 8>(simd, conv, tiles, products),
        }
        let bias = S::as_simd_f32s(conv.bias.get()).0;
        finish(simd, products, bias, work.onto, plane, used.map(places), to);
    }
}

/// Where a tile lies.
struct Place {
    image: usize,
    y: usize,
    x: usize,
}

/// Transforms tiles of images `[image][block][row][column]` to `[frequency][block][tile]`.
#[inline(always)]
fn load<S: Simd>(
    simd: S,
    from: &[S::f32s],
    [blocks, area, row]: [usize; 3],
    places: impl Iterator<Item = Place>,
    tiles: &mut [S::f32s],
) {
    for (slot, Place { image, y, x }) in places.enumerate() {
        let image = &from[image * blocks * area..][..blocks * area];
        for (block, channels) in image.chunks_exact(area).enumerate() {
            let out = &mut tiles[block * TILES + slot..];
            transform_tile(simd, &channels[y * row + x..], row, out, blocks * TILES);
        }
    }
}

/// Transforms one vector of channels of a tile, to every `stride`-th place of `out`.
#[inline(always)]
fn transform_tile<S: Simd>(simd: S, corner: &[S::f32s], row: usize, out: &mut [S::f32s], stride: usize) {
    let mut lines = [[simd.splat_f32s(0.0); TILE]; TILE];
    for (r, line) in lines.iter_mut().enumerate() {
        let d = &corner[r * row..][..TILE];
        *line = transform_input(simd, [d[0], d[1], d[2], d[3], d[4], d[5]]);
    }
    let [a, b, c, d, e, f] = &lines;
    for column in 0..TILE {
        let down = [a[column], b[column], c[column], d[column], e[column], f[column]];
        for (r, value) in transform_input(simd, down).into_iter().enumerate() {
            out[(r * TILE + column) * stride] = value;
        }
    }
}

/// For each frequency the product of kernels and tiles: `products` is `[frequency][block][tile]`.
/// `BLOCKS` vectors of channels of `PLACES` tiles are held in registers.
#[inline(always)]
fn multiply<S: Simd, const BLOCKS: usize, const PLACES: usize>(
    simd: S,
    conv: &Tiled,
    tiles: &[f32],
    products: &mut [S::f32s],
) {
    let group = conv.inputs * BLOCKS;
    let kernels = S::as_simd_f32s(conv.kernels.get()).0;
    let per_frequency = products.len() / FREQUENCIES;
    let frequencies = kernels.chunks_exact(per_frequency / TILES * conv.inputs);
    let frequencies = frequencies.zip(tiles.chunks_exact(TILES * conv.inputs));
    for ((kernels, tiles), products) in frequencies.zip(products.chunks_exact_mut(per_frequency)) {
        for (kernels, products) in kernels
            .chunks_exact(group)
            .zip(products.chunks_exact_mut(BLOCKS * TILES))
        {
            for first in (0..TILES).step_by(PLACES) {
                let sums = sum::<S, BLOCKS, PLACES>(simd, kernels, tiles, first);
                for (sums, products) in sums.iter().zip(products.chunks_exact_mut(TILES)) {
                    products[first..][..PLACES].copy_from_slice(sums);
                }
            }
        }
    }
}

/// Sums over the inputs for the tiles from `first` on.
#[inline(always)]
fn sum<S: Simd, const BLOCKS: usize, const PLACES: usize>(
    simd: S,
    kernels: &[S::f32s],
    tiles: &[f32],
    first: usize,
) -> [[S::f32s; PLACES]; BLOCKS] {
    let mut sums = [[simd.splat_f32s(0.0); PLACES]; BLOCKS];
    let inputs = tiles.chunks_exact(TILES * S::F32_LANES);
    for (kernels, tiles) in kernels.chunks_exact(BLOCKS * S::F32_LANES).zip(inputs) {
        let tiles = &tiles[first * S::F32_LANES..][..PLACES * S::F32_LANES];
        for lane in 0..S::F32_LANES {
            for place in 0..PLACES {
                let input = simd.splat_f32s(tiles[place * S::F32_LANES + lane]);
                for block in 0..BLOCKS {
                    let kernel = kernels[lane * BLOCKS + block];
                    sums[block][place] = simd.mul_add_e_f32s(kernel, input, sums[block][place]);
                }
            }
        }
    }
    sums
}

/// Transforms products back, adds what is to be added, and writes what of a tile lies within the
/// image.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    products: &[S::f32s],
    bias: &[S::f32s],
    onto: Onto,
    plane: Plane,
    places: impl Iterator<Item = Place>,
    to: &mut [S::f32s],
) {
    let (area, blocks) = (plane.area(), bias.len());
    for (slot, Place { image, y, x }) in places.enumerate() {
        let image = &mut to[image * blocks * area..][..blocks * area];
        for (block, (channels, bias)) in image.chunks_exact_mut(area).zip(bias).enumerate() {
            let outputs = transform_back(simd, &products[block * TILES + slot..], blocks * TILES);
            for (dy, outputs) in outputs.iter().enumerate().take(plane.height - y) {
                let row = &mut channels[plane.at(y + dy, x)..][..OUTPUTS.min(plane.width - x)];
                for (out, value) in row.iter_mut().zip(outputs) {
                    let value = simd.add_f32s(*value, *bias);
                    *out = match onto {
                        Onto::Nothing => relu(simd, value),
                        Onto::Shortcut => relu(simd, simd.add_f32s(value, *out)),
                    };
                }
            }
        }
    }
}

/// The 4x4 outputs of the tile whose products are every `stride`-th.
#[inline(always)]
fn transform_back<S: Simd>(simd: S, products: &[S::f32s], stride: usize) -> [[S::f32s; OUTPUTS]; OUTPUTS] {
    let zero = simd.splat_f32s(0.0);
    let mut lines = [[zero; OUTPUTS]; TILE];
    for (r, line) in lines.iter_mut().enumerate() {
        let mut products = products[r * TILE * stride..].iter().step_by(stride);
        let mut values = [zero; TILE];
        for (value, product) in values.iter_mut().zip(&mut products) {
            *value = *product;
        }
        *line = transform_output(simd, values);
    }
    let [a, b, c, d, e, f] = &lines;
    let mut outputs = [[zero; OUTPUTS]; OUTPUTS];
    for x in 0..OUTPUTS {
        let column = transform_output(simd, [a[x], b[x], c[x], d[x], e[x], f[x]]);
        for y in 0..OUTPUTS {
            outputs[y][x] = column[y];
        }
    }
    outputs
}
