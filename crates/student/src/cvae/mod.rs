//! Images from a conditional VAE: trained on the few seed images with the teacher's class as condition, then asked
//! for as many of each class as wanted.
//!
//! Source: FS-BBT (arXiv 2207.12106), section 3.3 and released code (`cvae.py`). Where this differs from the code: it
//! trains on every seed image, without setting 5 % aside; half of the codes of *every* class are normal and half
//! uniform, where the code gives one half of the classes the ones and the other half the others; and classes that the
//! teacher never named are left out.
//!
//! | module | what |
//! |---|---|
//! | `layers` | linear, convolution, transposed convolution over one flat buffer |
//! | `nets` | the encoder and the decoder |

mod layers;
mod nets;

use std::ops::ControlFlow;

use rand_distr::{Distribution, StandardNormal};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{ImageSet, ImageShape};
use tch::{Device, Kind, Tensor};

use crate::error::StudentError;
use crate::ffi::{AdamState, InferenceMode, adam_step, flush_denormal};
use crate::network::unit_pixels;
use crate::train::SingleThreaded;
use layers::Parameters;
use nets::{Codes, Vae};

pub use nets::is_convolutional;

/// What a generator is trained on.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Images.
    pub images: &'a ImageSet,
    /// The teacher's class of each, below `class_count`.
    pub classes: &'a [u16],
    /// Number of classes.
    pub class_count: usize,
}

/// How a generator is trained, and what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CvaeConfig {
    /// Passes over the images.
    pub epochs: u32,
    /// Samples a step.
    pub batch: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Dimensions of a code.
    pub latent: usize,
    /// Uniform codes are drawn within this of 0.
    pub spread: f64,
    /// Seed of everything random.
    pub seed: u64,
}

/// What a generator made.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The images, their classes taking turns.
    pub images: ImageSet,
    /// Mean loss of the last epoch, a sample: summed binary cross-entropy of the pixels and divergence (nats).
    pub loss: f32,
}

/// Independent streams of one generator.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Draw {
    Weights,
    Order,
    Noise,
    Codes,
}

/// Images decoded at once.
const DECODED: usize = 256;

/// Trains a conditional VAE on `labelled` and makes `count` images with it. `observe` hears how many steps of how many
/// are done, and may break off. The images have the same bits on devices of one kind, whatever the number of threads.
///
/// # Errors
/// [`StudentError::Training`] for data or settings that cannot be trained with, [`StudentError::Diverged`],
/// [`StudentError::Stopped`] when the observer breaks off. Queries are never spent.
pub fn generate(
    labelled: Labelled<'_>,
    config: &CvaeConfig,
    count: usize,
    device: Device,
    observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Generated, StudentError> {
    check(labelled, config)?;
    let _calm = SingleThreaded::enter();
    flush_denormal(true);
    let shape = labelled.images.shape();
    let mut fitting = Fitting::begin(labelled, config, device)?;
    let loss = fitting.train(observe)?;
    let images = fitting.decode(count)?;
    let images = ImageSet::new(shape, images).map_err(|error| StudentError::Torch(error.to_string()))?;
    Ok(Generated { images, loss })
}

fn check(labelled: Labelled<'_>, config: &CvaeConfig) -> Result<(), StudentError> {
    let wrong = |reason: String| Err(StudentError::Training { reason });
    let (images, classes) = (labelled.images.len(), labelled.classes.len());
    if images == 0 || images != classes {
        return wrong(format!(
            "expected a class for each of some images, found {classes} for {images}"
        ));
    }
    if let Some(class) = labelled
        .classes
        .iter()
        .find(|class| usize::from(**class) >= labelled.class_count)
    {
        return wrong(format!(
            "expected classes below {}, found {class}",
            labelled.class_count
        ));
    }
    let CvaeConfig {
        epochs, batch, latent, ..
    } = *config;
    if epochs == 0 || batch == 0 || latent == 0 {
        return wrong(format!(
            "expected epochs, batch and latent above 0, found {epochs}, {batch} and {latent}"
        ));
    }
    Ok(())
}

/// A generator while it is trained.
struct Fitting<'a> {
    labelled: Labelled<'a>,
    config: &'a CvaeConfig,
    device: Device,
    vae: Vae,
    parameters: Parameters,
    /// All images, `[n, c, h, w]` in 0..=1.
    pixels: Tensor,
    /// One-hot classes, `[n, classes]`.
    conditions: Tensor,
}

impl<'a> Fitting<'a> {
    fn begin(labelled: Labelled<'a>, config: &'a CvaeConfig, device: Device) -> Result<Self, StudentError> {
        let shape = labelled.images.shape();
        let (vae, slots) = Vae::plan(shape, labelled.class_count, config.latent);
        let parameters = Parameters::draw(&slots, stream(config, Draw::Weights), device)?;
        let size = [
            labelled.images.len() as i64,
            i64::from(shape.channels),
            i64::from(shape.height),
            i64::from(shape.width),
        ];
        let bytes = Tensor::f_from_data_size(labelled.images.bytes(), &size, Kind::Uint8)?.f_to_device(device)?;
        let classes = labelled.classes.iter().map(|class| usize::from(*class));
        Ok(Self {
            conditions: one_hot(classes, labelled.class_count, device)?,
            pixels: unit_pixels(&bytes)?,
            labelled,
            config,
            device,
            vae,
            parameters,
        })
    }

    /// Every epoch; returns the mean loss of the last.
    fn train(&mut self, observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<f32, StudentError> {
        let (samples, batch) = (self.labelled.images.len(), self.config.batch);
        let steps_an_epoch = samples.div_ceil(batch) as u64;
        let steps = u64::from(self.config.epochs) * steps_an_epoch;
        let mut adam = AdamState {
            means: self.parameters.flat().f_zeros_like()?,
            squares: self.parameters.flat().f_zeros_like()?,
            step: Tensor::f_zeros([1], (Kind::Float, self.device))?,
        };
        let (mut step, mut sum) = (0, 0.0);
        for epoch in 0..u64::from(self.config.epochs) {
            sum = 0.0;
            let order = stream(self.config, Draw::Order).fork(epoch).permutation(samples as u32);
            for chosen in order.chunks(batch) {
                let loss = self.step(step, chosen, &mut adam)?;
                sum += f64::from(loss) * chosen.len() as f64;
                step += 1;
                if observe(step, steps).is_break() {
                    return Err(StudentError::Stopped { step });
                }
            }
        }
        Ok((sum / samples as f64) as f32)
    }

    /// One step; returns the mean loss of its samples.
    fn step(&mut self, step: u64, chosen: &[u32], adam: &mut AdamState) -> Result<f32, StudentError> {
        let at: Vec<i64> = chosen.iter().map(|at| i64::from(*at)).collect();
        let at = Tensor::f_from_slice(&at)?.f_to_device(self.device)?;
        let images = self.pixels.f_index_select(0, &at)?;
        let conditions = self.conditions.f_index_select(0, &at)?;
        let size = [chosen.len(), self.config.latent];
        let noise = normal(stream(self.config, Draw::Noise).fork(step), size, self.device)?;
        let loss = self.loss(&images, &conditions, &noise)?;
        let value = loss.f_double_value(&[])? as f32;
        if !value.is_finite() {
            return Err(StudentError::Diverged { step, loss: value });
        }
        let gradients = self.parameters.gradients(&loss)?;
        let _no_grad = tch::no_grad_guard();
        let _same = adam.step.f_add_scalar_(1.0)?;
        adam_step(self.parameters.flat(), &gradients, adam, self.config.learning_rate, 0.0)
            .map_err(StudentError::Torch)?;
        Ok(value)
    }

    /// Mean over the samples of: summed binary cross-entropy of the pixels, and the divergence of the code from a normal one.
    fn loss(&self, images: &Tensor, conditions: &Tensor, noise: &Tensor) -> Result<Tensor, StudentError> {
        let Codes { mean, log_variance } = self.vae.encode(&self.parameters, images, conditions)?;
        let code = mean.f_add(&log_variance.f_mul_scalar(0.5)?.f_exp()?.f_mul(noise)?)?;
        let logits = self.vae.decode(&self.parameters, &code, conditions)?;
        // Cross-entropy of pixel x with sigmoid(l): max(l, 0) - x l + ln(1 + exp(-|l|)), which cannot overflow.
        let pixels = images.f_flatten(1, -1)?;
        let entropy = logits
            .f_clamp_min(0.0)?
            .f_sub(&pixels.f_mul(&logits)?)?
            .f_add(&logits.f_abs()?.f_neg()?.f_exp()?.f_log1p()?)?;
        let divergence = log_variance
            .f_add_scalar(1.0)?
            .f_sub(&mean.f_square()?)?
            .f_sub(&log_variance.f_exp()?)?
            .f_mul_scalar(-0.5)?;
        let kind = logits.kind();
        let total = entropy.f_sum(kind)?.f_add(&divergence.f_sum(kind)?)?;
        Ok(total.f_div_scalar(images.size()[0] as f64)?)
    }

    /// `count` images, one after another.
    fn decode(&self, count: usize) -> Result<Vec<u8>, StudentError> {
        let _inference = InferenceMode::enter();
        let mut known: Vec<usize> = self.labelled.classes.iter().map(|class| usize::from(*class)).collect();
        known.sort_unstable();
        known.dedup();
        let shape = self.labelled.images.shape();
        let mut pixels = Vec::with_capacity(count * shape.len());
        for start in (0..count).step_by(DECODED) {
            let range = start..count.min(start + DECODED);
            let classes = range.clone().map(|at| known[at % known.len()]);
            let conditions = one_hot(classes, self.labelled.class_count, self.device)?;
            let codes = self.codes(range, known.len())?;
            let logits = self.vae.decode(&self.parameters, &codes, &conditions)?;
            pixels.extend(bytes(&logits, shape)?);
        }
        Ok(pixels)
    }

    /// Codes of images `range`, `[n, latent]`: of each class by turns a normal and a uniform one.
    fn codes(&self, range: std::ops::Range<usize>, classes: usize) -> Result<Tensor, StudentError> {
        let CvaeConfig { latent, spread, .. } = *self.config;
        let stream = stream(self.config, Draw::Codes);
        let mut values: Vec<f32> = Vec::with_capacity(range.len() * latent);
        for at in range.clone() {
            let stream = stream.fork(at as u64);
            match (at / classes) % 2 {
                0 => values.extend(StandardNormal.sample_iter(stream.draws()).take(latent).map(|z: f32| z)),
                _ => values.extend((0..latent as u64).map(|axis| (2.0 * stream.unit(axis) - 1.0) * spread as f32)),
            }
        }
        let codes = Tensor::f_from_slice(&values)?.f_view([range.len() as i64, latent as i64])?;
        Ok(codes.f_to_device(self.device)?)
    }
}

fn stream(config: &CvaeConfig, draw: Draw) -> Stream {
    Stream::new(config.seed, Purpose::Generation, 0).fork(draw as u64)
}

/// `[n, count]` of zeros and a one in each row.
fn one_hot(classes: impl Iterator<Item = usize>, count: usize, device: Device) -> Result<Tensor, StudentError> {
    let mut values: Vec<f32> = Vec::new();
    for class in classes {
        let start = values.len();
        values.resize(start + count, 0.0);
        values[start + class] = 1.0;
    }
    let rows = (values.len() / count) as i64;
    Ok(Tensor::f_from_slice(&values)?
        .f_view([rows, count as i64])?
        .f_to_device(device)?)
}

fn normal(stream: Stream, [rows, columns]: [usize; 2], device: Device) -> Result<Tensor, StudentError> {
    let values: Vec<f32> = StandardNormal
        .sample_iter(stream.draws())
        .take(rows * columns)
        .collect();
    let values = Tensor::f_from_slice(&values)?.f_view([rows as i64, columns as i64])?;
    Ok(values.f_to_device(device)?)
}

/// Pixels of `logits` `[n, c h w]`, rounded to nearest.
fn bytes(logits: &Tensor, shape: ImageShape) -> Result<Vec<u8>, StudentError> {
    let pixels = logits
        .f_sigmoid()?
        .f_mul_scalar(255.0)?
        .f_round()?
        .f_to_kind(Kind::Uint8)?;
    let pixels = pixels.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; logits.size()[0] as usize * shape.len()];
    let length = bytes.len();
    pixels.f_copy_data_u8(&mut bytes, length)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
