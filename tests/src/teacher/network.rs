//! What the teacher answers: a small fixed network, the same on every machine.

use std::sync::Arc;

use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{ImageShape, SoftLabel};
use stillhouse_teacher::Predict;

/// Width of the hidden layer.
const HIDDEN: usize = 32;

/// Makes the answers confident but not certain: top probabilities of about 0.5 to 1.
const SHARPNESS: f32 = 4.0;

/// Weights of one layer, `[outputs, inputs]`, of variance `2 / inputs`.
fn layer(stream: Stream, inputs: usize, outputs: usize) -> Vec<f32> {
    let scale = (24.0 / inputs as f32).sqrt();
    let weight = |at| (stream.unit(at) - 0.5) * scale;
    (0..(inputs * outputs) as u64).map(weight).collect()
}

fn apply(weights: &[f32], input: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(input).map(|(w, x)| w * x).sum();
    weights.chunks_exact(input.len()).map(dot).collect()
}

/// Zero mean and unit variance, so that the class depends on what is in the image and not on how
/// bright it is. A flat image becomes zeros.
fn standardise(image: &[f32]) -> Vec<f32> {
    let n = image.len() as f32;
    let mean = image.iter().sum::<f32>() / n;
    let variance = image.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    let scale = variance.sqrt().max(1e-6).recip();
    image.iter().map(|x| (x - mean) * scale).collect()
}

/// Probabilities of a two-layer network with fixed random weights, over images of `shape`.
#[must_use]
pub fn predict(shape: ImageShape, classes: usize) -> Predict {
    let stream = Stream::new(0, Purpose::Initialisation, 0);
    let first = layer(stream.fork(1), shape.len(), HIDDEN);
    let second = layer(stream.fork(2), HIDDEN, classes);
    let answer = move |image: &[f32]| {
        let hidden: Vec<f32> = apply(&first, &standardise(image)).iter().map(|h| h.max(0.0)).collect();
        let logits: Vec<f32> = apply(&second, &hidden).iter().map(|z| z * SHARPNESS).collect();
        SoftLabel::from_logits(&logits, classes).map_err(|error| error.to_string())
    };
    Arc::new(move |pixels, n| {
        let values = pixels.into_unit();
        let mut answers = Vec::with_capacity(n * classes);
        for image in values.chunks_exact(shape.len()) {
            answers.extend_from_slice(answer(image)?.probabilities());
        }
        Ok(answers)
    })
}
