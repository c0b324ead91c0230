//! LeNet-5 as FS-BBT gives it: a valid and a same 5x5 convolution, each with ReLU and 2x2 pooling,
//! then linear layers of 120, 84 and classes.

use tch::Tensor;

use crate::error::StudentError;
use crate::graph::{Builder, Conv};
use crate::operators::halve;

/// What branches share: the first convolution, of `channels`.
pub(super) fn stem(net: &mut Builder, channels: i64) -> Result<(), String> {
    net.conv("conv1", Conv::valid(channels, 5))?;
    net.relu_halve("pool1")
}

/// The rest, with a second convolution of `channels`.
pub(super) fn rest(net: &mut Builder, channels: i64, classes: i64) -> Result<(), String> {
    net.conv("conv2", Conv::same(channels, 5))?;
    net.relu_halve("pool2")?;
    net.flatten();
    net.linear("fc1", 120);
    net.relu();
    net.linear("fc2", 84);
    net.relu();
    net.linear("fc3", classes);
    Ok(())
}

/// The first convolution of a network: linear in the image, so its answer for a mix is the mix of
/// its answers.
#[derive(Debug)]
pub struct FirstLayer {
    /// `[outputs, channels, kernel, kernel]`, `f32`.
    pub weight: Tensor,
    /// `[outputs]`, where the network has one.
    pub bias: Option<Tensor>,
    /// Step of the window in both directions.
    pub stride: i64,
    /// Zeros on each side of the image.
    pub padding: i64,
}

/// The tensors of a LeNet, for a scorer that fuses its layers. They share the network's memory.
#[derive(Debug)]
pub struct LenetParts {
    /// `conv1`: 5x5, stride 1, no padding.
    pub first: FirstLayer,
    /// Weight `[outputs, inputs, 5, 5]` and bias `[outputs]` of `conv2`: stride 1, padding 2.
    pub conv2: (Tensor, Tensor),
    /// Weight `[120, features]` and bias `[120]`.
    pub fc1: (Tensor, Tensor),
    /// Weight `[84, 120]` and bias `[84]`.
    pub fc2: (Tensor, Tensor),
    /// Weight `[classes, 84]` and bias `[classes]`.
    pub fc3: (Tensor, Tensor),
}

impl LenetParts {
    /// `parameters` in the order in which they are built.
    pub(crate) fn new(parameters: &[Tensor]) -> Self {
        let pair = |at: usize| (parameters[at].shallow_clone(), parameters[at + 1].shallow_clone());
        let (weight, bias) = pair(0);
        Self {
            first: FirstLayer {
                weight,
                bias: Some(bias),
                stride: 1,
                padding: 0,
            },
            conv2: pair(2),
            fc1: pair(4),
            fc2: pair(6),
            fc3: pair(8),
        }
    }

    /// Everything after the first convolution, ReLU and pooling: `pooled` is
    /// `[n, outputs of conv1, h, w]`, the result logits `[n, classes]`.
    ///
    /// # Errors
    /// When the shape is another one.
    pub fn tail(&self, pooled: &Tensor) -> Result<Tensor, StudentError> {
        let (weight, bias) = &self.conv2;
        let x = pooled.f_conv2d(weight, Some(bias), [1, 1], [2, 2], [1, 1], 1)?;
        let mut x = halve(&x)?.f_relu()?.f_flatten(1, -1)?;
        for (weight, bias) in [&self.fc1, &self.fc2] {
            x = x.f_linear(weight, Some(bias))?.f_relu()?;
        }
        Ok(x.f_linear(&self.fc3.0, Some(&self.fc3.1))?)
    }
}
