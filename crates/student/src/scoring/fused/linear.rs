//! Linear layers.

use pulp::Simd;

use crate::scoring::lanes::relu;

/// Outputs packed together.
const BLOCK: usize = 12;

/// What follows a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// ReLU.
    Relu,
    /// Nothing: these are logits.
    Nothing,
}

/// A packed linear layer.
pub(super) struct Linear {
    /// `[block][input][BLOCK]`; outputs past the last are zero.
    weights: Vec<[f32; BLOCK]>,
    bias: Vec<[f32; BLOCK]>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Linear {
    /// Packs weights `[outputs][inputs]` and biases `[outputs]`.
    pub(super) fn pack(weights: &[f32], bias: &[f32]) -> Self {
        let (outputs, inputs) = (bias.len(), weights.len() / bias.len());
        let mut packed = Vec::with_capacity(outputs.div_ceil(BLOCK) * inputs);
        for rows in weights.chunks(BLOCK * inputs) {
            let weight = |output: usize, input: usize| rows.get(output * inputs + input).copied().unwrap_or(0.0);
            packed.extend((0..inputs).map(|input| -> [f32; BLOCK] { std::array::from_fn(|o| weight(o, input)) }));
        }
        let pad = |bias: &[f32]| std::array::from_fn(|o| bias.get(o).copied().unwrap_or(0.0));
        Self {
            weights: packed,
            bias: bias.chunks(BLOCK).map(pad).collect(),
            inputs,
            outputs,
        }
    }
}

/// `COUNT` candidates a lane by `OUTPUTS` outputs of a block, from output `first` of it.
#[inline(always)]
fn dot<S: Simd, const COUNT: usize, const OUTPUTS: usize>(
    simd: S,
    weights: &[[f32; BLOCK]],
    bias: &[f32],
    first: usize,
    inputs: [&[S::f32s]; COUNT],
) -> [[S::f32s; OUTPUTS]; COUNT] {
    let mut sums = [[simd.splat_f32s(0.0); OUTPUTS]; COUNT];
    for sums in &mut sums {
        for (sum, bias) in sums.iter_mut().zip(bias) {
            *sum = simd.splat_f32s(*bias);
        }
    }
    for (i, weights) in weights.iter().enumerate() {
        for o in 0..OUTPUTS {
            let weight = simd.splat_f32s(weights[first + o]);
            for n in 0..COUNT {
                sums[n][o] = simd.mul_add_e_f32s(weight, inputs[n][i], sums[n][o]);
            }
        }
    }
    sums
}

/// One block of outputs of `COUNT` candidates a lane.
#[inline(always)]
fn block<S: Simd, const COUNT: usize, const OUTPUTS: usize>(
    simd: S,
    layer: &Linear,
    block: usize,
    then: Then,
    input: &[S::f32s],
    out: &mut [S::f32s],
) {
    let weights = &layer.weights[block * layer.inputs..][..layer.inputs];
    let mut inputs = [input; COUNT];
    for (n, inputs) in inputs.iter_mut().enumerate() {
        *inputs = &input[n * layer.inputs..][..layer.inputs];
    }
    for first in (0..BLOCK).step_by(OUTPUTS) {
        let sums = dot::<S, COUNT, OUTPUTS>(simd, weights, &layer.bias[block][first..], first, inputs);
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(layer.outputs)) {
            for (sum, out) in sums.iter().zip(out.iter_mut().skip(block * BLOCK + first)) {
                *out = match then {
                    Then::Relu => relu(simd, *sum),
                    Then::Nothing => *sum,
                };
            }
        }
    }
}

/// The layer for `n` candidates a lane: `input` is `[n][inputs]`, `out` `[n][outputs]`. `OUTPUTS`
/// at once, a divisor of twelve; two candidates share each weight that is read.
#[inline(always)]
pub(super) fn layer<S: Simd, const OUTPUTS: usize>(
    simd: S,
    layer: &Linear,
    then: Then,
    input: &[S::f32s],
    out: &mut [S::f32s],
) {
    for b in 0..layer.bias.len() {
        let pairs = input.chunks(2 * layer.inputs).zip(out.chunks_mut(2 * layer.outputs));
        for (input, out) in pairs {
            if input.len() == 2 * layer.inputs {
                block::<S, 2, OUTPUTS>(simd, layer, b, then, input, out);
            } else {
                block::<S, 1, OUTPUTS>(simd, layer, b, then, input, out);
            }
        }
    }
}
