//! Layers whose weights are views of one flat buffer, so that the optimiser makes one step over all.

use stillhouse_core::sampler::Stream;
use tch::{Device, Tensor};

use crate::error::StudentError;

/// A tensor of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    size: Vec<i64>,
    /// Inputs and outputs of a unit, which bound its first values; a bias has none and starts at 0.
    fan: Option<(i64, i64)>,
}

/// Where layers put their weights.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    fn add(&mut self, size: &[i64], fan: Option<(i64, i64)>) -> usize {
        let size = size.to_vec();
        self.0.push(Slot { size, fan });
        self.0.len() - 1
    }
}

/// Weights of all layers.
pub(super) struct Parameters {
    flat: Tensor,
    views: Vec<Tensor>,
}

impl Parameters {
    /// First values: weights uniform within `sqrt(6 / (inputs + outputs))` (Glorot and Bengio 2010, as Keras does), biases 0.
    pub(super) fn draw(slots: &Slots, stream: Stream, device: Device) -> Result<Self, StudentError> {
        let mut values: Vec<f32> = Vec::new();
        for (index, slot) in (0..).zip(&slots.0) {
            let count = slot.size.iter().product::<i64>() as u64;
            let bound = slot
                .fan
                .map_or(0.0, |(inputs, outputs)| (6.0 / (inputs + outputs) as f64).sqrt() as f32);
            let stream = stream.fork(index);
            values.extend((0..count).map(|at| bound * (2.0 * stream.unit(at) - 1.0)));
        }
        Self::over(Tensor::f_from_slice(&values)?.f_to_device(device)?, slots)
    }

    /// Over `flat`, which holds the values of all `slots` in order.
    pub(super) fn over(flat: Tensor, slots: &Slots) -> Result<Self, StudentError> {
        let mut start = 0;
        let mut view = |slot: &Slot| {
            let count: i64 = slot.size.iter().product();
            let part = flat.f_narrow(0, start, count)?.f_view(slot.size.as_slice())?;
            start += count;
            Ok(part.f_detach()?.f_set_requires_grad(true)?)
        };
        let views: Result<Vec<Tensor>, StudentError> = slots.0.iter().map(&mut view).collect();
        let views = views?;
        Ok(Self { flat, views })
    }

    /// All weights, one after another.
    pub(super) fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The gradient of `loss` in all weights, as flat as they are.
    pub(super) fn gradients(&self, loss: &Tensor) -> Result<Tensor, StudentError> {
        let gradients = Tensor::f_run_backward(&[loss], &self.views, false, false)?;
        let flat: Result<Vec<Tensor>, _> = gradients.iter().map(|gradient| gradient.f_flatten(0, -1)).collect();
        Ok(Tensor::f_cat(&flat?, 0)?)
    }

    fn of(&self, slot: usize) -> &Tensor {
        &self.views[slot]
    }
}

/// Weights and bias of a layer.
#[derive(Clone, Copy, Debug)]
struct Pair {
    weights: usize,
    bias: usize,
}

/// `x W + b`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear(Pair);

impl Linear {
    pub(super) fn new(slots: &mut Slots, inputs: i64, outputs: i64) -> Self {
        Self(Pair {
            weights: slots.add(&[outputs, inputs], Some((inputs, outputs))),
            bias: slots.add(&[outputs], None),
        })
    }

    pub(super) fn forward(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, StudentError> {
        let Pair { weights, bias } = self.0;
        Ok(x.f_linear(parameters.of(weights), Some(parameters.of(bias)))?)
    }

    pub(super) fn relu(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, StudentError> {
        Ok(self.forward(parameters, x)?.f_relu()?)
    }
}

/// Rows and columns of every kernel; strides are half of it, so that sides halve or double.
const KERNEL: i64 = 4;
const STRIDE: [i64; 2] = [2, 2];
/// Keeps half of (or twice) each side exactly.
const PADDING: [i64; 2] = [1, 1];

/// A convolution that halves both sides, with ReLU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Halving(Pair);

impl Halving {
    pub(super) fn new(slots: &mut Slots, inputs: i64, outputs: i64) -> Self {
        let area = KERNEL * KERNEL;
        Self(Pair {
            weights: slots.add(
                &[outputs, inputs, KERNEL, KERNEL],
                Some((inputs * area, outputs * area)),
            ),
            bias: slots.add(&[outputs], None),
        })
    }

    pub(super) fn relu(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, StudentError> {
        let (weights, bias) = (parameters.of(self.0.weights), parameters.of(self.0.bias));
        Ok(x.f_conv2d(weights, Some(bias), STRIDE, PADDING, [1, 1], 1)?.f_relu()?)
    }
}

/// A transposed convolution that doubles both sides, with ReLU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubling(Pair);

impl Doubling {
    pub(super) fn new(slots: &mut Slots, inputs: i64, outputs: i64) -> Self {
        let area = KERNEL * KERNEL;
        Self(Pair {
            weights: slots.add(
                &[inputs, outputs, KERNEL, KERNEL],
                Some((inputs * area, outputs * area)),
            ),
            bias: slots.add(&[outputs], None),
        })
    }

    pub(super) fn relu(self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, StudentError> {
        let (weights, bias) = (parameters.of(self.0.weights), parameters.of(self.0.bias));
        let y = x.f_conv_transpose2d(weights, Some(bias), STRIDE, PADDING, [0, 0], 1, [1, 1])?;
        Ok(y.f_relu()?)
    }
}
