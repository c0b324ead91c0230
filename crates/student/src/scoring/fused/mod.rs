//! The approximation for LeNets: all layers fused, on SIMD lanes, without libtorch.
//!
//! A vector holds one value of as many pairs as the processor has lanes, so every layer is plain
//! arithmetic on vectors, and no lane sees another: a pair's score depends neither on its
//! neighbours nor on its place. The canonical bytes are mixed exactly; what differs from the
//! definition is the order of sums, above all in the second convolution, which is in Winograd's
//! form.
//!
//! The first convolution is linear, so it could run once for each image and its answers be mixed.
//! But a mix that is not rounded to bytes moved scores by up to 0.025 on a trained LeNet-5, and made
//! the band that must be rescored fifteen times as large as the selection; exact bytes move them by
//! less than 0.00001, and the band is the selection.

mod first;
mod linear;
mod winograd;

use std::sync::Arc;

use pulp::{Arch, Simd, WithSimd};
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::Entry;
use stillhouse_core::{ImageShape, Lambda, LambdaGrid};
use tch::Tensor;

use self::first::{First, HALF_STEP, Pooled};
use self::linear::{Linear, Then};
use self::winograd::{STEP, Scratch, TILE, Winograd};
use super::lanes::{Aligned, Lanes, values};
use super::{Best, Pair, PairScorer, ScoringError};
use crate::error::StudentError;
use crate::network::Network;

/// Side of the kernels of both convolutions.
const KERNEL: usize = 5;
/// Values of a kernel.
const TAPS: usize = KERNEL * KERNEL;
/// Lambdas that share a pass over the weights of the linear layers: the published grid at once.
const LAMBDAS: usize = 12;
/// Most memory of one thread's activations, in bytes: larger images are left to libtorch.
const MAX_BYTES: usize = 128 << 20;
/// The packed weights and the sizes of all layers.
struct Layers {
    arch: Arch,
    image: ImageShape,
    first: First,
    pooled: Pooled,
    conv: Winograd,
    /// Rows and columns after the second pooling.
    size: [usize; 2],
    linear: [Linear; 3],
}

impl Layers {
    /// Values for one lane of each buffer: difference, second image, mix, after the first pooling,
    /// and for each lambda after the second, after each linear layer.
    fn lengths(&self) -> [usize; 8] {
        let [a, b, c] = &self.linear;
        let image = self.image.len();
        let [features, hidden, last, logits] = [a.inputs, a.outputs, b.outputs, c.outputs].map(|n| n * LAMBDAS);
        [image, image, image, self.pooled.len(), features, hidden, last, logits]
    }
}

/// Scores pairs with a LeNet, lane by lane. One for each thread; the weights are shared.
pub(super) struct Fused {
    layers: Arc<Layers>,
    acquisition: Acquisition,
    lambdas: Arc<LambdaGrid>,
    lanes: usize,
    buffers: [Aligned; 8],
}

impl Fused {
    /// A scorer for `network`, or `None` when it is no LeNet or its images are too large.
    pub(super) fn new(
        network: &Network,
        lambdas: &Arc<LambdaGrid>,
        acquisition: Acquisition,
    ) -> Result<Option<Self>, StudentError> {
        let Some(layers) = Layers::pack(network)? else {
            return Ok(None);
        };
        let (lanes, _) = layers.arch.dispatch(Lanes);
        let bytes = layers.lengths().iter().sum::<usize>() * lanes * size_of::<f32>();
        Ok((bytes <= MAX_BYTES).then(|| Self::with_layers(Arc::new(layers), Arc::clone(lambdas), acquisition)))
    }

    fn with_layers(layers: Arc<Layers>, lambdas: Arc<LambdaGrid>, acquisition: Acquisition) -> Self {
        let (lanes, _) = layers.arch.dispatch(Lanes);
        let buffers = layers.lengths().map(|length| Aligned::new(length * lanes));
        Self {
            layers,
            acquisition,
            lambdas,
            lanes,
            buffers,
        }
    }

    /// Another scorer with the same weights, for another thread.
    pub(super) fn share(&self) -> Self {
        Self::with_layers(Arc::clone(&self.layers), Arc::clone(&self.lambdas), self.acquisition)
    }

    /// Scores at most as many pairs as there are lanes; lanes that are left over repeat the last.
    fn block(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        self.load(pairs);
        let mut best: Vec<Best> = pairs.iter().map(|pair| Best::new(pair.id)).collect();
        let lambdas = Arc::clone(&self.lambdas);
        for lambdas in lambdas.lambdas().chunks(LAMBDAS) {
            let forward = Forward {
                layers: &self.layers,
                lambdas,
                buffers: &mut self.buffers,
            };
            self.layers.arch.dispatch(forward);
            self.take(lambdas, &mut best)?;
        }
        entries.extend(best.into_iter().map(Best::entry));
        Ok(())
    }

    /// Writes the images of `pairs` as [`first::mix`] reads them.
    fn load(&mut self, pairs: &[Pair<'_>]) {
        let lanes = self.lanes;
        let [difference, second, ..] = &mut self.buffers;
        let (difference, second) = (difference.get_mut(), second.get_mut());
        for lane in 0..lanes {
            let pair = &pairs[lane.min(pairs.len() - 1)];
            let places = difference.iter_mut().zip(second.iter_mut()).skip(lane).step_by(lanes);
            for ((difference, second), (a, b)) in places.zip(pair.first.iter().zip(pair.second)) {
                *difference = f32::from(*a) - f32::from(*b);
                *second = f32::from(*b) + HALF_STEP;
            }
        }
    }

    /// Scores the logits `[lambda][class][lane]`.
    fn take(&mut self, lambdas: &[Lambda], best: &mut [Best]) -> Result<(), ScoringError> {
        let classes = self.layers.linear[2].outputs;
        let [.., logits] = &mut self.buffers;
        let mut answer = vec![0.0; classes];
        for (lambda, logits) in lambdas.iter().zip(logits.get_mut().chunks_exact(classes * self.lanes)) {
            for (lane, best) in best.iter_mut().enumerate() {
                let values = logits.iter().skip(lane).step_by(self.lanes);
                answer.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
                best.take(self.acquisition, *lambda, &answer, answer.len())?;
            }
        }
        Ok(())
    }
}

impl PairScorer for Fused {
    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        pairs
            .chunks(self.lanes)
            .try_for_each(|pairs| self.block(pairs, entries))
    }
}

impl Layers {
    fn pack(network: &Network) -> Result<Option<Self>, StudentError> {
        let Some(parts) = network.lenet_parts() else {
            return Ok(None);
        };
        let image = network.spec().shape();
        let bias = parts.first.bias.as_ref().expect("a LeNet's convolutions have biases");
        let (weight, bias) = (values(&parts.first.weight)?, values(bias)?);
        let pooled = |side: u32| (side as usize - (KERNEL - 1)) / 2;
        let pooled_size = [pooled(image.height), pooled(image.width)];
        let size = pooled_size.map(|side| side / 2);
        // Whole tiles, the last of which may reach past the image.
        let padded = size.map(|side| (side.div_ceil(STEP) - 1) * 2 * STEP + TILE);
        let Some(conv) = Winograd::pack(&values(&parts.conv2.0)?, &values(&parts.conv2.1)?) else {
            return Ok(None);
        };
        let linear = |(weight, bias): &(Tensor, Tensor)| -> Result<Linear, StudentError> {
            Ok(Linear::pack(&values(weight)?, &values(bias)?))
        };
        Ok(Some(Self {
            arch: Arch::new(),
            image,
            pooled: Pooled {
                channels: bias.len(),
                size: pooled_size,
                padded,
            },
            first: First::pack(&weight, &bias),
            conv,
            size,
            linear: [linear(&parts.fc1)?, linear(&parts.fc2)?, linear(&parts.fc3)?],
        }))
    }
}

/// All layers for one vector of pairs and at most [`LAMBDAS`] lambdas.
struct Forward<'a> {
    layers: &'a Layers,
    lambdas: &'a [Lambda],
    buffers: &'a mut [Aligned; 8],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Sums fill half or three quarters of 32 registers; of 16 they take half.
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 3, 2, 12>(simd);
        } else {
            self.run::<S, 1, 1, 6>(simd);
        }
    }
}

impl Forward<'_> {
    /// `STRIPS`, `CHANNELS` and `OUTPUTS`: how many sums each kind of layer holds in registers.
    #[inline(always)]
    fn run<S: Simd, const STRIPS: usize, const CHANNELS: usize, const OUTPUTS: usize>(self, simd: S) {
        let Layers {
            image,
            first,
            pooled,
            conv,
            size,
            linear,
            ..
        } = self.layers;
        let count = self.lambdas.len();
        let side = [image.height as usize, image.width as usize];
        let [difference, second, mixed, plane, features, hidden, last, logits] = self.buffers;
        let (difference, second) = (
            S::as_simd_f32s(difference.get_mut()).0,
            S::as_simd_f32s(second.get_mut()).0,
        );
        let mixed = S::as_mut_simd_f32s(mixed.get_mut()).0;
        let plane = S::as_mut_simd_f32s(plane.get_mut()).0;
        let features = &mut S::as_mut_simd_f32s(features.get_mut()).0[..count * linear[0].inputs];
        let zero = simd.splat_f32s(0.0);
        let mut scratch = Scratch::new(zero, conv);
        let mut strips = vec![[zero; _]; first.strips(*pooled)];
        for (lambda, out) in self.lambdas.iter().zip(features.chunks_exact_mut(linear[0].inputs)) {
            first::mix(simd, lambda.as_f32(), difference, second, mixed);
            first::layer::<S, STRIPS>(simd, first, mixed, side, *pooled, &mut strips, plane);
            winograd::layer::<S, CHANNELS>(simd, conv, *pooled, plane, &mut scratch, *size, out);
        }
        let hidden = &mut S::as_mut_simd_f32s(hidden.get_mut()).0[..count * linear[0].outputs];
        linear::layer::<S, OUTPUTS>(simd, &linear[0], Then::Relu, features, hidden);
        let last = &mut S::as_mut_simd_f32s(last.get_mut()).0[..count * linear[1].outputs];
        linear::layer::<S, OUTPUTS>(simd, &linear[1], Then::Relu, hidden, last);
        let logits = &mut S::as_mut_simd_f32s(logits.get_mut()).0[..count * linear[2].outputs];
        linear::layer::<S, OUTPUTS>(simd, &linear[2], Then::Nothing, last, logits);
    }
}

#[cfg(test)]
mod tests;
