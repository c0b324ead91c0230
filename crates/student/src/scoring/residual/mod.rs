//! The approximation for residual networks: without libtorch, the channels of a pixel on SIMD
//! lanes, the 3x3 convolutions in Winograd's form, batch normalisation folded into them, bias,
//! shortcut and ReLU in the pass that writes.
//!
//! The first stage, whose activations are the largest, runs image by image; the stages behind it,
//! whose weights are the largest, run on all lambdas of a pair together. No image sees another, so
//! a pair's score depends neither on its neighbours nor on its place. The canonical bytes go in;
//! what differs from the definition is the order of sums.
//!
//! | module | what |
//! |---|---|
//! | `pack` | from the operators of a network to packed layers |
//! | `plane` | where activations lie |
//! | `tiled` | convolutions of stride 1 |
//! | `direct` | the first convolution, and those of stride 2 |

mod direct;
mod pack;
mod plane;
#[cfg(test)]
mod tests;
mod tiled;

use std::sync::Arc;

use pulp::{Arch, Simd, WithSimd};
use stillhouse_core::mix::mix_into;
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::Entry;
use stillhouse_core::{ImageShape, Lambda, LambdaGrid};

use self::direct::{Direct, Source};
use self::plane::Plane;
use self::tiled::{Onto, Tiled};
use super::lanes::Aligned;
use super::{Best, Pair, PairScorer, ScoringError};
use crate::error::StudentError;
use crate::network::Network;

/// Lambdas that share a pass over the weights of all stages but the first: the published grid.
const LAMBDAS: usize = 12;
/// Most memory of one thread's activations, in bytes: larger images are left to libtorch.
const MAX_BYTES: usize = 256 << 20;

/// The packed weights and the sizes of all layers.
struct Layers {
    arch: Arch,
    image: ImageShape,
    first: Direct,
    stages: Vec<Stage>,
    head: Head,
}

/// Residual blocks on activations of one size.
struct Stage {
    plane: Plane,
    /// The convolutions of the block that leads here from the stage before; the first stage has
    /// none.
    entry: Option<(Direct, Tiled)>,
    blocks: Vec<[Tiled; 2]>,
}

/// What follows the average of each channel: a linear layer, `[class][channel]`.
struct Head {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Layers {
    /// The image as the first convolution reads it.
    fn input(&self) -> Plane {
        let ImageShape {
            channels,
            height,
            width,
        } = self.image;
        Plane {
            channels: channels as usize,
            height: height as usize,
            width: width as usize,
        }
    }

    /// Images whose activations a stage holds.
    fn images(stage: usize) -> usize {
        if stage == 0 { 1 } else { LAMBDAS }
    }

    /// Numbers of the largest tiles before and after products.
    fn scratch(&self) -> [usize; 2] {
        let convs = self.stages.iter().flat_map(|stage| {
            let entry = stage.entry.iter().map(|(_, conv)| conv);
            entry.chain(stage.blocks.iter().flatten())
        });
        convs
            .map(Tiled::scratch)
            .fold([0; 2], |a, b| [a[0].max(b[0]), a[1].max(b[1])])
    }
}

/// Scores pairs with a residual network. One for each thread; the weights are shared.
pub(super) struct Residual {
    layers: Arc<Layers>,
    acquisition: Acquisition,
    lambdas: Arc<LambdaGrid>,
    memory: Memory,
}

/// What one thread computes on.
struct Memory {
    /// One canonical image, and the same as numbers with a border.
    bytes: Vec<u8>,
    image: Aligned,
    stages: Vec<Activations>,
    tiles: Aligned,
    products: Aligned,
    /// `[lambda][class]`.
    logits: Vec<f32>,
}

/// Activations of one stage's images: between blocks, and within one.
struct Activations {
    between: Aligned,
    within: Aligned,
}

impl Memory {
    fn new(layers: &Layers) -> Self {
        let [tiles, products] = layers.scratch();
        let stages = layers.stages.iter().enumerate().map(|(at, stage)| {
            let length = Layers::images(at) * stage.plane.len();
            Activations {
                between: Aligned::new(length),
                within: Aligned::new(length),
            }
        });
        Self {
            bytes: vec![0; layers.image.len()],
            image: Aligned::new(layers.input().len()),
            stages: stages.collect(),
            tiles: Aligned::new(tiles),
            products: Aligned::new(products),
            logits: vec![0.0; LAMBDAS * layers.head.bias.len()],
        }
    }

    /// Numbers that [`Memory::new`] makes room for.
    fn numbers(layers: &Layers) -> usize {
        let stages = layers.stages.iter().enumerate();
        let stages = stages.map(|(at, stage)| 2 * Layers::images(at) * stage.plane.len());
        stages.sum::<usize>() + layers.scratch().iter().sum::<usize>() + layers.input().len()
    }
}

impl Residual {
    /// A scorer for `network`, or `None` when it is no residual network that suits the processor's
    /// lanes, or its images are too large.
    pub(super) fn new(
        network: &Network,
        lambdas: &Arc<LambdaGrid>,
        acquisition: Acquisition,
    ) -> Result<Option<Self>, StudentError> {
        let layers = pack::pack(network, Arch::new())?;
        let layers = layers.filter(|layers| Memory::numbers(layers) * size_of::<f32>() <= MAX_BYTES);
        Ok(layers.map(|layers| Self::with_layers(Arc::new(layers), Arc::clone(lambdas), acquisition)))
    }

    fn with_layers(layers: Arc<Layers>, lambdas: Arc<LambdaGrid>, acquisition: Acquisition) -> Self {
        Self {
            memory: Memory::new(&layers),
            layers,
            acquisition,
            lambdas,
        }
    }

    /// Another scorer with the same weights, for another thread.
    pub(super) fn share(&self) -> Self {
        Self::with_layers(Arc::clone(&self.layers), Arc::clone(&self.lambdas), self.acquisition)
    }
}

impl PairScorer for Residual {
    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        let classes = self.layers.head.bias.len();
        for pair in pairs {
            let mut best = Best::new(pair.id);
            for lambdas in self.lambdas.lambdas().chunks(LAMBDAS) {
                let forward = Forward {
                    layers: &self.layers,
                    pair: *pair,
                    lambdas,
                    memory: &mut self.memory,
                };
                self.layers.arch.dispatch(forward);
                for (lambda, logits) in lambdas.iter().zip(self.memory.logits.chunks_exact(classes)) {
                    best.take(self.acquisition, *lambda, logits, logits.len())?;
                }
            }
            entries.push(best.entry());
        }
        Ok(())
    }
}

/// All layers for one pair and at most [`LAMBDAS`] lambdas.
struct Forward<'a> {
    layers: &'a Layers,
    pair: Pair<'a>,
    lambdas: &'a [Lambda],
    memory: &'a mut Memory,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let count = self.lambdas.len();
        for (at, lambda) in self.lambdas.iter().enumerate() {
            self.begin(simd, *lambda);
            self.blocks(simd, 0, 1);
            self.enter(simd, 1, at);
        }
        for stage in 1..self.layers.stages.len() {
            self.arrive(simd, stage, count);
            self.blocks(simd, stage, count);
            if stage + 1 < self.layers.stages.len() {
                for image in 0..count {
                    self.enter(simd, stage + 1, image);
                }
            }
        }
        self.head(simd, count);
    }
}

impl Forward<'_> {
    /// Mixes the images, and runs the first convolution.
    #[inline(always)]
    fn begin<S: Simd>(&mut self, simd: S, lambda: Lambda) {
        let Memory {
            bytes, image, stages, ..
        } = &mut *self.memory;
        mix_into(self.pair.first, self.pair.second, lambda, bytes);
        let plane = self.layers.input();
        for (bytes, channel) in bytes
            .chunks_exact(plane.height * plane.width)
            .zip(image.get_mut().chunks_exact_mut(plane.area()))
        {
            for (y, bytes) in bytes.chunks_exact(plane.width).enumerate() {
                let row = channel[plane.at(y, 0)..].iter_mut();
                row.zip(bytes).for_each(|(out, byte)| *out = f32::from(*byte));
            }
        }
        let work = direct::Work {
            conv: &self.layers.first,
            kind: Source::Image,
            from: image.get(),
            source: plane,
            target: self.layers.stages[0].plane,
        };
        direct::layer(simd, work, stages[0].between.get_mut());
    }

    /// The residual blocks of a stage, on its first images.
    #[inline(always)]
    fn blocks<S: Simd>(&mut self, simd: S, stage: usize, images: usize) {
        let layers = self.layers;
        let Stage { plane, blocks, .. } = &layers.stages[stage];
        for [first, second] in blocks {
            let Memory {
                stages,
                tiles,
                products,
                ..
            } = &mut *self.memory;
            let Activations { between, within } = &mut stages[stage];
            let work = tiled::Work {
                conv: first,
                from: between.get(),
                to: within.get_mut(),
                plane: *plane,
                images,
                onto: Onto::Nothing,
            };
            tiled::layer(simd, work, [tiles.get_mut(), products.get_mut()]);
            self.close(simd, stage, second, images);
        }
    }

    /// The last convolution of a block, onto its shortcut.
    #[inline(always)]
    fn close<S: Simd>(&mut self, simd: S, stage: usize, conv: &Tiled, images: usize) {
        let Memory {
            stages,
            tiles,
            products,
            ..
        } = &mut *self.memory;
        let Activations { between, within } = &mut stages[stage];
        let work = tiled::Work {
            conv,
            from: within.get(),
            to: between.get_mut(),
            plane: self.layers.stages[stage].plane,
            images,
            onto: Onto::Shortcut,
        };
        tiled::layer(simd, work, [tiles.get_mut(), products.get_mut()]);
    }

    /// The shortcut and the first convolution of the block that leads to `stage`, for one image of
    /// it: the first stage's only one, or the same one of the stage before.
    #[inline(always)]
    fn enter<S: Simd>(&mut self, simd: S, stage: usize, image: usize) {
        let Some((conv, _)) = &self.layers.stages[stage].entry else {
            return;
        };
        let (source, target) = (self.layers.stages[stage - 1].plane, self.layers.stages[stage].plane);
        let [.., before, here] = &mut self.memory.stages[..=stage] else {
            return;
        };
        let from = if stage == 1 { 0 } else { image };
        let from = &before.between.get()[from * source.len()..][..source.len()];
        let to = image * target.len()..(image + 1) * target.len();
        shortcut(
            S::F32_LANES,
            (source, from),
            (target, &mut here.between.get_mut()[to.clone()]),
        );
        let work = direct::Work {
            conv,
            kind: Source::Plane,
            from,
            source,
            target,
        };
        direct::layer(simd, work, &mut here.within.get_mut()[to]);
    }

    /// The second convolution of the block that leads to `stage`.
    #[inline(always)]
    fn arrive<S: Simd>(&mut self, simd: S, stage: usize, images: usize) {
        let layers = self.layers;
        if let Some((_, conv)) = &layers.stages[stage].entry {
            self.close(simd, stage, conv, images);
        }
    }

    /// The average of each channel, and the linear layer.
    #[inline(always)]
    fn head<S: Simd>(&mut self, simd: S, count: usize) {
        let Memory { stages, logits, .. } = &mut *self.memory;
        let (Head { weights, bias }, Some(stage), Some(last)) =
            (&self.layers.head, self.layers.stages.last(), stages.last())
        else {
            return;
        };
        let plane = stage.plane;
        let pixels = simd.splat_f32s(1.0 / (plane.height * plane.width) as f32);
        let mut features = vec![0.0; plane.channels];
        let images = last.between.get().chunks_exact(plane.len()).take(count);
        for (image, logits) in images.zip(logits.chunks_exact_mut(bias.len())) {
            let channels = S::as_simd_f32s(image).0.chunks_exact(plane.area());
            for (channels, out) in channels.zip(S::as_mut_simd_f32s(&mut features).0) {
                let mut sum = simd.splat_f32s(0.0);
                for y in 0..plane.height {
                    for x in &channels[plane.at(y, 0)..][..plane.width] {
                        sum = simd.add_f32s(sum, *x);
                    }
                }
                *out = simd.mul_f32s(sum, pixels);
            }
            for ((logit, weights), bias) in logits.iter_mut().zip(weights.chunks_exact(plane.channels)).zip(bias) {
                *logit = bias + features.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
            }
        }
    }
}

/// Shortcut A (He et al., arXiv 1512.03385, section 4.2): every second pixel, and channels of zeros
/// on both sides.
fn shortcut(lanes: usize, (source, from): (Plane, &[f32]), (target, to): (Plane, &mut [f32])) {
    let before = (target.channels - source.channels) / 2;
    let place =
        |plane: Plane, channel: usize, pixel: usize| (channel / lanes * plane.area() + pixel) * lanes + channel % lanes;
    for y in 0..target.height {
        for x in 0..target.width {
            let (near, far) = (source.at(2 * y, 2 * x), target.at(y, x));
            for channel in 0..target.channels {
                let inside = channel.checked_sub(before).filter(|channel| *channel < source.channels);
                to[place(target, channel, far)] = inside.map_or(0.0, |channel| from[place(source, channel, near)]);
            }
        }
    }
}
