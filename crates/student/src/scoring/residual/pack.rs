//! From the operators of a residual network to packed layers.

use pulp::Arch;

use super::direct::Direct;
use super::plane::Plane;
use super::tiled::Tiled;
use super::{Head, Layers, Stage};
use crate::error::StudentError;
use crate::graph::{BATCH_NORM_EPSILON, Op, Tensors};
use crate::network::Network;
use crate::scoring::lanes::{Lanes, values};

/// Values of a kernel.
pub(super) const TAPS: usize = 9;

/// A 3x3 convolution, padded by one, with the batch normalisation behind it.
pub(super) struct Convolution {
    /// `[outputs][inputs][3][3]`.
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) stride: i64,
}

impl Convolution {
    pub(super) fn inputs(&self) -> usize {
        self.weights.len() / self.bias.len() / TAPS
    }

    /// The weight of one tap.
    pub(super) fn weight(&self, output: usize, input: usize, tap: usize) -> f32 {
        self.weights[(output * self.inputs() + input) * TAPS + tap]
    }
}

/// How layers are packed for a processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    /// Channels a vector.
    pub(super) lanes: usize,
    /// Whether there are registers for sixteen sums; else for eight.
    pub(super) is_wide: bool,
}

impl Packing {
    /// Vectors of output channels that share what is read.
    pub(super) fn group(self, outputs: usize) -> usize {
        let most = if self.is_wide { 4 } else { 2 };
        let blocks = outputs / self.lanes;
        [4, 2]
            .into_iter()
            .find(|group| *group <= most && blocks.is_multiple_of(*group))
            .unwrap_or(1)
    }

    /// Places that are computed at once for `group` vectors of channels.
    pub(super) fn places(self, group: usize) -> usize {
        if self.is_wide { 16 / group } else { 8 / group }
    }
}

/// Reads operators of a network in order.
struct Reader<'a> {
    ops: &'a [Op],
    tensors: Tensors<'a>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a Op> {
        let (op, rest) = self.ops.split_first()?;
        self.ops = rest;
        Some(op)
    }

    fn is_relu(&mut self) -> bool {
        matches!(self.next(), Some(Op::Relu))
    }

    /// A convolution and its batch normalisation, if they come next.
    fn convolution(&mut self) -> Result<Option<Convolution>, StudentError> {
        let (
            Some(Op::Conv {
                weight,
                bias: None,
                stride,
                padding: 1,
            }),
            Some(Op::BatchNorm { weight: scale, mean }),
        ) = (self.next(), self.next())
        else {
            return Ok(None);
        };
        let weight = &self.tensors.parameters[*weight];
        if weight.size()[2..] != [3, 3] {
            return Ok(None);
        }
        let [scale, shift] = [0, 1].map(|at| values(&self.tensors.parameters[scale + at]));
        let [mean, variance] = [0, 1].map(|at| values(&self.tensors.buffers[mean + at]));
        let (shift, mean, variance) = (shift?, mean?, variance?);
        let scales: Vec<f64> = scale?
            .iter()
            .zip(variance)
            .map(|(scale, variance)| f64::from(*scale) / (f64::from(variance) + BATCH_NORM_EPSILON).sqrt())
            .collect();
        let mut weights = values(weight)?;
        let filter = weights.len() / scales.len();
        for (filter, scale) in weights.chunks_exact_mut(filter).zip(&scales) {
            filter.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
        }
        let bias = |((shift, mean), scale): ((&f32, &f32), &f64)| (f64::from(*shift) - f64::from(*mean) * scale) as f32;
        Ok(Some(Convolution {
            weights,
            bias: shift.iter().zip(&mean).zip(&scales).map(bias).collect(),
            stride: *stride,
        }))
    }

    /// Both convolutions of a residual block's body, and nothing else.
    fn body(&mut self) -> Result<Option<[Convolution; 2]>, StudentError> {
        let Some(first) = self.convolution()? else {
            return Ok(None);
        };
        if !self.is_relu() {
            return Ok(None);
        }
        let second = self.convolution()?;
        Ok(second
            .filter(|second| second.stride == 1 && self.ops.is_empty())
            .map(|second| [first, second]))
    }

    fn head(&mut self) -> Result<Option<Head>, StudentError> {
        let (Some(Op::GlobalAverage), Some(Op::Flatten), Some(Op::Linear { weight }), true) =
            (self.next(), self.next(), self.next(), self.ops.is_empty())
        else {
            return Ok(None);
        };
        Ok(Some(Head {
            weights: values(&self.tensors.parameters[*weight])?,
            bias: values(&self.tensors.parameters[weight + 1])?,
        }))
    }
}

/// Packs `network` for `arch`; `None` when it is no residual network of basic blocks in at least two
/// stages, or its sizes do not suit the lanes.
pub(super) fn pack(network: &Network, arch: Arch) -> Result<Option<Layers>, StudentError> {
    let Some((ops, tensors)) = network.operators() else {
        return Ok(None);
    };
    let (lanes, registers) = arch.dispatch(Lanes);
    let packing = Packing {
        lanes,
        is_wide: registers >= 32,
    };
    let image = network.spec().shape();
    let mut reader = Reader { ops, tensors };
    let Some(first) = reader.convolution()?.filter(|conv| conv.stride == 1) else {
        return Ok(None);
    };
    let plane = Plane {
        channels: first.bias.len(),
        height: image.height as usize,
        width: image.width as usize,
    };
    // The image is bytes.
    let Some(first) = Direct::pack(&first, packing, plane, 255.0) else {
        return Ok(None);
    };
    let mut stages = vec![Stage {
        plane,
        entry: None,
        blocks: Vec::new(),
    }];
    while reader.is_relu() {
        let [
            Op::Residual {
                body,
                stride,
                new_channels,
            },
            ..,
        ] = reader.ops
        else {
            break;
        };
        reader.next();
        let mut inner = Reader { ops: body, tensors };
        let Some(body) = inner.body()? else {
            return Ok(None);
        };
        if !push(&mut stages, &body, [*stride, *new_channels], packing) {
            return Ok(None);
        }
    }
    let head = reader.head()?;
    Ok(head.filter(|_| stages.len() > 1).map(|head| Layers {
        arch,
        image,
        first,
        stages,
        head,
    }))
}

/// Adds a block to the last stage, or begins a new one with it; `false` when it cannot be packed.
fn push(stages: &mut Vec<Stage>, body: &[Convolution; 2], [stride, new_channels]: [i64; 2], packing: Packing) -> bool {
    let Some(last) = stages.last_mut() else {
        return false;
    };
    let (plane, [first, second]) = (last.plane, body);
    let channels = first.bias.len();
    let Some(second) = Tiled::pack(second, packing) else {
        return false;
    };
    if (stride, new_channels) == (1, 0) {
        let first = Tiled::pack(first, packing);
        return first.map(|first| last.blocks.push([first, second])).is_some();
    }
    let plane = plane.halved(channels);
    let entry = (stride == 2 && first.stride == 2).then(|| Direct::pack(first, packing, plane, 1.0));
    let Some(entry) = entry.flatten() else {
        return false;
    };
    stages.push(Stage {
        plane,
        entry: Some((entry, second)),
        blocks: Vec::new(),
    });
    true
}
