//! A network as plain data: operators that refer to parameters by position. The builder follows
//! the shape of the image through the layers, so that a network that does not fit says so before a
//! tensor exists.

use stillhouse_core::ImageShape;
use stillhouse_core::sampler::Stream;
use tch::{Device, Kind, TchError, Tensor};

use crate::ffi::relu_halve;
use crate::network::{BranchLogits, Mode};
use crate::operators::{drop_out, halve, shortcut};

/// Initial values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Initial {
    /// Uniform in `-bound..bound`.
    Uniform { bound: f32 },
    /// Normal with mean 0.
    Normal { std: f32 },
    /// The same number everywhere.
    Constant(f32),
}

impl Initial {
    /// Appends `count` values, each a function of its position in `stream`.
    pub(crate) fn fill(self, stream: Stream, count: usize, into: &mut Vec<f32>) {
        let at = 0..count as u64;
        match self {
            Self::Constant(value) => into.resize(into.len() + count, value),
            Self::Uniform { bound } => into.extend(at.map(|at| (2.0 * stream.unit(at) - 1.0) * bound)),
            Self::Normal { std } => into.extend(at.map(|at| std * normal(stream, at))),
        }
    }
}

/// A standard normal number (Box and Muller 1958), from two uniform ones.
fn normal(stream: Stream, at: u64) -> f32 {
    let radius = (-2.0 * f64::from(1.0 - stream.unit(2 * at)).ln()).sqrt();
    let angle = std::f64::consts::TAU * f64::from(stream.unit(2 * at + 1));
    (radius * angle.cos()) as f32
}

/// Name and shape of a parameter or buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
}

impl Slot {
    pub(crate) fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}

/// One operator; positions refer to [`Graph::parameters`] and [`Graph::buffers`].
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Conv {
        weight: usize,
        bias: Option<usize>,
        stride: i64,
        padding: i64,
    },
    BatchNorm {
        weight: usize,
        mean: usize,
    },
    Relu,
    /// ReLU and 2x2 pooling.
    ReluHalve,
    MaxPool {
        kernel: i64,
        stride: i64,
    },
    GlobalAverage,
    Flatten,
    Linear {
        weight: usize,
    },
    Dropout {
        probability: f32,
        layer: u64,
    },
    Residual {
        body: Vec<Op>,
        stride: i64,
        new_channels: i64,
    },
}

/// A whole network.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) ops: Vec<Op>,
    pub(crate) parameters: Vec<(Slot, Initial)>,
    pub(crate) buffers: Vec<(Slot, Initial)>,
    /// What follows `ops` in a multi-branch student.
    pub(crate) branched: Option<Branched>,
}

/// The parts of a multi-branch student that come after its shared layers.
#[derive(Clone, Debug)]
pub(crate) struct Branched {
    /// From the shared features to logits. Tensors of the first one directly follow those of the
    /// shared layers, so that both are a plain network's.
    pub(crate) branches: Vec<Vec<Op>>,
    /// From the shared features to one number a branch, before the softmax.
    pub(crate) gate: Vec<Op>,
}

impl Graph {
    /// Whether there is batch normalisation between the convolutions.
    pub(crate) fn is_normalized(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::BatchNorm { .. }))
    }
}

/// A convolution's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub(crate) outputs: i64,
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
    pub(crate) padding: i64,
    /// With a bias and PyTorch's default values; without, none and He's (fan-out), as the
    /// residual networks want it.
    pub(crate) bias: bool,
}

impl Conv {
    /// With bias, stride 1 and no padding.
    pub(crate) fn valid(outputs: i64, kernel: i64) -> Self {
        Self {
            outputs,
            kernel,
            stride: 1,
            padding: 0,
            bias: true,
        }
    }

    /// With bias and stride 1, padded so that the image keeps its size.
    pub(crate) fn same(outputs: i64, kernel: i64) -> Self {
        Self {
            padding: kernel / 2,
            ..Self::valid(outputs, kernel)
        }
    }
}

/// Puts a network together, following the shape `[channels, height, width]`.
#[derive(Debug)]
pub(crate) struct Builder {
    graph: Graph,
    shape: [i64; 3],
    dropouts: u64,
    /// What the names of tensors begin with.
    prefix: String,
}

impl Builder {
    pub(crate) fn new(shape: ImageShape) -> Self {
        let side = |length: u32| i64::from(length);
        Self {
            graph: Graph {
                ops: Vec::new(),
                parameters: Vec::new(),
                buffers: Vec::new(),
                branched: None,
            },
            shape: [side(shape.channels), side(shape.height), side(shape.width)],
            dropouts: 0,
            prefix: String::new(),
        }
    }

    /// Ends a multi-branch student: `count` times `branch` on what was built so far, and a gate of
    /// global average, linear layer, batch normalisation and ReLU (ONE, arXiv 1806.04606, section 3.1).
    pub(crate) fn branch_off(
        &mut self,
        count: usize,
        branch: impl Fn(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let (shared, begin) = (self.shape, self.graph.ops.len());
        let mut branches = Vec::with_capacity(count);
        for at in 1..=count {
            self.shape = shared;
            self.prefix = format!("branch{at}.");
            branch(self)?;
            branches.push(self.graph.ops.split_off(begin));
        }
        self.shape = shared;
        self.prefix = "gate.".to_owned();
        self.global_average();
        self.flatten();
        self.linear("fc", count as i64);
        self.batch_norm("bn");
        self.relu();
        let gate = self.graph.ops.split_off(begin);
        self.graph.branched = Some(Branched { branches, gate });
        Ok(())
    }

    pub(crate) fn finish(self) -> Graph {
        self.graph
    }

    fn parameter(&mut self, name: String, shape: Vec<i64>, initial: Initial) -> usize {
        let name = format!("{}{name}", self.prefix);
        self.graph.parameters.push((Slot { name, shape }, initial));
        self.graph.parameters.len() - 1
    }

    /// Output size of a window of `kernel` moved by `stride`, after `padding` on both sides.
    fn slide(&mut self, name: &str, kernel: i64, stride: i64, padding: i64) -> Result<(), String> {
        let [_, height, width] = self.shape;
        if height.min(width) + 2 * padding < kernel {
            return Err(format!(
                "{name} needs at least {kernel}x{kernel} pixels and finds {height}x{width}"
            ));
        }
        for side in &mut self.shape[1..] {
            *side = (*side + 2 * padding - kernel) / stride + 1;
        }
        Ok(())
    }

    pub(crate) fn conv(&mut self, name: &str, conv: Conv) -> Result<(), String> {
        let Conv {
            outputs,
            kernel,
            stride,
            padding,
            bias,
        } = conv;
        let inputs = self.shape[0];
        self.slide(name, kernel, stride, padding)?;
        self.shape[0] = outputs;
        let initial = if bias {
            default_uniform(inputs * kernel * kernel)
        } else {
            Initial::Normal {
                std: (2.0 / (outputs * kernel * kernel) as f32).sqrt(),
            }
        };
        let weight = self.parameter(format!("{name}.weight"), vec![outputs, inputs, kernel, kernel], initial);
        let bias = bias.then(|| self.parameter(format!("{name}.bias"), vec![outputs], initial));
        self.graph.ops.push(Op::Conv {
            weight,
            bias,
            stride,
            padding,
        });
        Ok(())
    }

    pub(crate) fn batch_norm(&mut self, name: &str) {
        let size = vec![self.shape[0]];
        let weight = self.parameter(format!("{name}.weight"), size.clone(), Initial::Constant(1.0));
        self.parameter(format!("{name}.bias"), size.clone(), Initial::Constant(0.0));
        let mean = self.graph.buffers.len();
        for (suffix, value) in [("running_mean", 0.0), ("running_var", 1.0)] {
            let slot = Slot {
                name: format!("{}{name}.{suffix}", self.prefix),
                shape: size.clone(),
            };
            self.graph.buffers.push((slot, Initial::Constant(value)));
        }
        self.graph.ops.push(Op::BatchNorm { weight, mean });
    }

    pub(crate) fn relu(&mut self) {
        self.graph.ops.push(Op::Relu);
    }

    pub(crate) fn max_pool(&mut self, name: &str, kernel: i64, stride: i64) -> Result<(), String> {
        self.slide(name, kernel, stride, 0)?;
        self.graph.ops.push(Op::MaxPool { kernel, stride });
        Ok(())
    }

    /// ReLU, then the maximum of each 2x2 window.
    pub(crate) fn relu_halve(&mut self, name: &str) -> Result<(), String> {
        self.slide(name, 2, 2, 0)?;
        self.graph.ops.push(Op::ReluHalve);
        Ok(())
    }

    pub(crate) fn global_average(&mut self) {
        self.shape = [self.shape[0], 1, 1];
        self.graph.ops.push(Op::GlobalAverage);
    }

    pub(crate) fn flatten(&mut self) {
        self.shape = [self.shape.iter().product(), 1, 1];
        self.graph.ops.push(Op::Flatten);
    }

    pub(crate) fn linear(&mut self, name: &str, outputs: i64) {
        let inputs = self.shape[0];
        self.shape[0] = outputs;
        let initial = default_uniform(inputs);
        let weight = self.parameter(format!("{name}.weight"), vec![outputs, inputs], initial);
        self.parameter(format!("{name}.bias"), vec![outputs], initial);
        self.graph.ops.push(Op::Linear { weight });
    }

    pub(crate) fn dropout(&mut self, probability: f32) {
        let layer = self.dropouts;
        self.dropouts += 1;
        self.graph.ops.push(Op::Dropout { probability, layer });
    }

    /// `body`, plus its input: every `stride`-th pixel, with channels of zeros on both sides when
    /// the body makes more of them (shortcut A of He et al., arXiv 1512.03385, section 4.2).
    pub(crate) fn residual(
        &mut self,
        stride: i64,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let (channels, begin) = (self.shape[0], self.graph.ops.len());
        body(self)?;
        let body = self.graph.ops.split_off(begin);
        let new_channels = self.shape[0] - channels;
        self.graph.ops.push(Op::Residual {
            body,
            stride,
            new_channels,
        });
        Ok(())
    }
}

/// PyTorch's default for convolutions and linear layers, weight and bias: U(-1/sqrt(fan_in), ...).
fn default_uniform(fan_in: i64) -> Initial {
    Initial::Uniform {
        bound: 1.0 / (fan_in as f32).sqrt(),
    }
}

/// PyTorch's defaults.
const BATCH_NORM_MOMENTUM: f64 = 0.1;
pub(crate) const BATCH_NORM_EPSILON: f64 = 1e-5;

/// The tensors that a graph runs on, in the order of its slots.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) parameters: &'a [Tensor],
    pub(crate) buffers: &'a [Tensor],
}

impl Tensors<'_> {
    /// Runs `ops` on `x`. In training, batch normalisation updates the buffers in place.
    pub(crate) fn run(self, ops: &[Op], x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        for op in ops {
            x = self.apply(op, x, mode)?;
        }
        Ok(x)
    }

    /// What every branch makes of the shared `features`, and the gated sum of it.
    pub(crate) fn branches(self, branched: &Branched, features: &Tensor, mode: Mode) -> Result<BranchLogits, TchError> {
        let branches = branched.branches.iter().map(|ops| self.run(ops, features, mode));
        let branches = branches.collect::<Result<Vec<_>, _>>()?;
        let gate = self.run(&branched.gate, features, mode)?.f_softmax(-1, Kind::Float)?;
        // [n, branches, 1] times [n, branches, classes].
        let weighed = Tensor::f_stack(&branches, 1)?.f_mul(&gate.f_unsqueeze(-1)?)?;
        let ensemble = weighed.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)?;
        Ok(BranchLogits { branches, ensemble })
    }

    fn apply(self, op: &Op, x: Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let parameter = |at: usize| &self.parameters[at];
        match op {
            Op::Conv {
                weight,
                bias,
                stride,
                padding,
            } => {
                let (stride, padding) = ([*stride; 2], [*padding; 2]);
                x.f_conv2d(parameter(*weight), bias.map(parameter), stride, padding, [1, 1], 1)
            }
            Op::BatchNorm { weight, mean } => x.f_batch_norm(
                Some(parameter(*weight)),
                Some(parameter(weight + 1)),
                Some(&self.buffers[*mean]),
                Some(&self.buffers[mean + 1]),
                matches!(mode, Mode::Train { .. }),
                BATCH_NORM_MOMENTUM,
                BATCH_NORM_EPSILON,
                false,
            ),
            Op::Relu => x.f_relu(),
            Op::ReluHalve => match mode {
                Mode::Eval => halve(&x)?.f_relu(),
                Mode::Train { .. } if x.device() == Device::Cpu => relu_halve(&x),
                Mode::Train { .. } => x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?.f_relu(),
            },
            Op::MaxPool { kernel, stride } => x.f_max_pool2d([*kernel; 2], [*stride; 2], [0, 0], [1, 1], false),
            Op::GlobalAverage => x.f_mean_dim([2_i64, 3].as_slice(), true, Kind::Float),
            Op::Flatten => x.f_flatten(1, -1),
            Op::Linear { weight } => x.f_linear(parameter(*weight), Some(parameter(weight + 1))),
            Op::Dropout { probability, layer } => match mode {
                Mode::Eval => Ok(x),
                Mode::Train { dropout } => drop_out(&x, *probability, dropout.fork(*layer)),
            },
            Op::Residual {
                body,
                stride,
                new_channels,
            } => {
                let shortcut = shortcut(&x, *stride, *new_channels)?;
                self.run(body, &x, mode)?.f_add(&shortcut)
            }
        }
    }
}
