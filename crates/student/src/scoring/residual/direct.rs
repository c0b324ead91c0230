//! A 3x3 convolution as its definition has it: for the image, whose channels do not fill a vector,
//! and for strides other than 1.

use pulp::Simd;

use super::pack::{Convolution, Packing, TAPS};
use super::plane::Plane;
use crate::scoring::lanes::{Aligned, relu};

/// Side of a kernel.
const KERNEL: usize = 3;

/// The packed convolution.
pub(super) struct Direct {
    /// `[group][input][tap][block of the group][lane]`.
    kernels: Aligned,
    /// `[output]`.
    bias: Aligned,
    inputs: usize,
    /// Vectors of output channels that are computed together.
    group: usize,
    is_wide: bool,
}

impl Direct {
    /// Packs `conv`, dividing its weights by `unit`, for outputs in `target`; `None` when its
    /// outputs do not fill whole vectors or a row of them is shorter than what is computed at once.
    pub(super) fn pack(conv: &Convolution, packing: Packing, target: Plane, unit: f32) -> Option<Self> {
        let (inputs, outputs, lanes) = (conv.inputs(), conv.bias.len(), packing.lanes);
        let group = packing.group(outputs);
        if !outputs.is_multiple_of(lanes) || target.width < packing.places(group) {
            return None;
        }
        let mut kernels = Vec::with_capacity(TAPS * inputs * outputs);
        for first in (0..outputs).step_by(group * lanes) {
            for (input, tap) in (0..inputs).flat_map(|input| (0..TAPS).map(move |tap| (input, tap))) {
                let outputs = first..first + group * lanes;
                kernels.extend(outputs.map(|output| conv.weight(output, input, tap) / unit));
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
}

/// How the inputs lie, and with it the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `[input][row][column]`, stride 1.
    Image,
    /// As [`Plane`] has it, stride 2.
    Plane,
}

/// One layer on one image.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) conv: &'a Direct,
    pub(super) kind: Source,
    /// The inputs, with the border of `source`.
    pub(super) from: &'a [f32],
    pub(super) source: Plane,
    pub(super) target: Plane,
}

/// The layer, with bias and ReLU.
#[inline(always)]
pub(super) fn layer<S: Simd>(simd: S, work: Work<'_>, to: &mut [f32]) {
    let to = S::as_mut_simd_f32s(to).0;
    match work.conv.group {
        4 => groups::<S, 4, 4>(simd, work, to),
        2 if work.conv.is_wide => groups::<S, 2, 8>(simd, work, to),
        2 => groups::<S, 2, 4>(simd, work, to),
        _ if work.conv.is_wide => groups::<S, 1, 16>(simd, work, to),
        _ => groups::<S, 1, 8>(simd, work, to),
    }
}

/// `BLOCKS` vectors of channels of `PLACES` neighbours in a row are held in registers.
#[inline(always)]
fn groups<S: Simd, const BLOCKS: usize, const PLACES: usize>(simd: S, work: Work<'_>, to: &mut [S::f32s]) {
    let Work { conv, target, .. } = work;
    let kernels = S::as_simd_f32s(conv.kernels.get()).0;
    let kernels = kernels.chunks_exact(conv.inputs * TAPS * BLOCKS);
    let bias = S::as_simd_f32s(conv.bias.get()).0.chunks_exact(BLOCKS);
    let groups = to.chunks_exact_mut(BLOCKS * target.area());
    for ((kernels, bias), to) in kernels.zip(bias).zip(groups) {
        for y in 0..target.height {
            for x in (0..target.width).step_by(PLACES) {
                // The last ones of a row overlap those before them.
                let x = x.min(target.width - PLACES);
                let sums = match work.kind {
                    Source::Image => sum::<S, BLOCKS, PLACES>(simd, kernels, work, [1, 1], [y, x]),
                    Source::Plane => sum::<S, BLOCKS, PLACES>(simd, kernels, work, [S::F32_LANES, 2], [y, x]),
                };
                let outs = to.chunks_exact_mut(target.area());
                for ((sums, bias), out) in sums.iter().zip(bias).zip(outs) {
                    for (out, sum) in out[target.at(y, x)..][..PLACES].iter_mut().zip(sums) {
                        *out = relu(simd, simd.add_f32s(*sum, *bias));
                    }
                }
            }
        }
    }
}

/// Sums over inputs and taps for the outputs from (y, x) on. `lanes` channels lie together.
#[inline(always)]
fn sum<S: Simd, const BLOCKS: usize, const PLACES: usize>(
    simd: S,
    kernels: &[S::f32s],
    work: Work<'_>,
    [lanes, stride]: [usize; 2],
    [y, x]: [usize; 2],
) -> [[S::f32s; PLACES]; BLOCKS] {
    let Work { from, source, .. } = work;
    let reach = (PLACES - 1) * stride * lanes + 1;
    let mut sums = [[simd.splat_f32s(0.0); PLACES]; BLOCKS];
    for (input, kernels) in kernels.chunks_exact(TAPS * BLOCKS).enumerate() {
        let channel = input / lanes * source.area() * lanes + input % lanes;
        for (tap, kernels) in kernels.chunks_exact(BLOCKS).enumerate() {
            let pixel = (stride * y + tap / KERNEL) * source.row() + stride * x + tap % KERNEL;
            let inputs = &from[channel + pixel * lanes..][..reach];
            for place in 0..PLACES {
                let input = simd.splat_f32s(inputs[place * stride * lanes]);
                for block in 0..BLOCKS {
                    sums[block][place] = simd.mul_add_e_f32s(kernels[block], input, sums[block][place]);
                }
            }
        }
    }
    sums
}
