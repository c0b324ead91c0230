//! The definition of a score: the whole network on the canonical bytes.
//!
//! Batches have one fixed number of rows and one thread computes each, because libtorch chooses
//! its kernels by the batch size and splits work by the number of threads, and either may change
//! the last bits. Within a batch of one shape a row's answer does not depend on its place or on its
//! neighbours; a test holds that on trained weights.

use std::sync::Arc;

use stillhouse_core::mix::mix_into;
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::Entry;
use stillhouse_core::{ImageShape, LambdaGrid};
use tch::{Kind, Tensor};

use super::{Best, Pair, PairScorer, ScoringError};
use crate::error::StudentError;
use crate::ffi::floats;
use crate::network::{Mode, Network, NetworkSpec, unit_pixels};

/// Pixels times channels of a batch: what keeps activations of small networks within the cache,
/// and those of large ones within some hundred megabytes.
const BATCH_PIXELS: usize = 1 << 20;
/// Most rows of a batch.
const BATCH_ROWS: usize = 128;

/// Size of every batch of images of this shape: `[rows, channels, height, width]`.
pub(super) fn batch_size(shape: ImageShape) -> [i64; 4] {
    let rows = (BATCH_PIXELS / shape.len().max(1)).clamp(2, BATCH_ROWS);
    [
        rows as i64,
        i64::from(shape.channels),
        i64::from(shape.height),
        i64::from(shape.width),
    ]
}

/// Turns images `[rows, channels, height, width]`, `f32` in 0..=1, into logits `[rows, classes]`.
pub(super) trait Forward {
    /// Logits of a batch of the fixed shape.
    fn logits(&self, images: &Tensor) -> Result<Tensor, StudentError>;
}

impl Forward for Network {
    fn logits(&self, images: &Tensor) -> Result<Tensor, StudentError> {
        self.forward(images, Mode::Eval)
    }
}

/// Scores pairs by a network's answers for their canonical bytes.
pub(super) struct Batched<F> {
    network: F,
    acquisition: Acquisition,
    lambdas: Arc<LambdaGrid>,
    size: [i64; 4],
    classes: usize,
    /// One batch of canonical images.
    bytes: Vec<u8>,
}

impl<F: Forward> Batched<F> {
    /// A scorer for what `spec` describes.
    pub(super) fn new(network: F, spec: &NetworkSpec, lambdas: Arc<LambdaGrid>, acquisition: Acquisition) -> Self {
        let shape = spec.shape();
        let size = batch_size(shape);
        Self {
            network,
            acquisition,
            lambdas,
            size,
            classes: spec.classes(),
            bytes: vec![0; size[0] as usize * shape.len()],
        }
    }

    fn logits(&self) -> Result<Tensor, StudentError> {
        let images = unit_pixels(&Tensor::f_from_data_size(&self.bytes, &self.size, Kind::Uint8)?)?;
        Ok(self.network.logits(&images)?.f_contiguous()?)
    }

    /// Mixes the next rows of `pairs`, from row `start` on; the rest of the batch is black.
    fn mix(&mut self, pairs: &[Pair<'_>], start: usize) -> usize {
        let lambdas = self.lambdas.lambdas();
        let rows = (pairs.len() * lambdas.len() - start).min(self.size[0] as usize);
        let pixels = self.bytes.len() / self.size[0] as usize;
        let (used, rest) = self.bytes.split_at_mut(rows * pixels);
        for (row, out) in (start..).zip(used.chunks_exact_mut(pixels)) {
            let pair = &pairs[row / lambdas.len()];
            mix_into(pair.first, pair.second, lambdas[row % lambdas.len()], out);
        }
        rest.fill(0);
        rows
    }
}

impl<F: Forward> PairScorer for Batched<F> {
    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        let per_pair = self.lambdas.lambdas().len();
        let mut best: Vec<Best> = pairs.iter().map(|pair| Best::new(pair.id)).collect();
        let mut row = 0;
        while row < pairs.len() * per_pair {
            let rows = self.mix(pairs, row);
            let logits = self.logits()?;
            let answers = floats(&logits).ok_or_else(|| StudentError::Torch("logits are not f32".to_owned()))?;
            for answer in answers.chunks_exact(answers.len() / self.size[0] as usize).take(rows) {
                let lambda = self.lambdas.lambdas()[row % per_pair];
                best[row / per_pair].take(self.acquisition, lambda, answer, self.classes)?;
                row += 1;
            }
        }
        entries.extend(best.into_iter().map(Best::entry));
        Ok(())
    }
}
