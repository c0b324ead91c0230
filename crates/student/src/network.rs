//! A student: a network of the zoo or a TorchScript module, its weights in one flat buffer.

use std::sync::Arc;

use stillhouse_core::job::Architecture;
use stillhouse_core::sampler::{Purpose, Stream};
use tch::{Device, Kind, TchError, Tensor};

use crate::error::StudentError;
use crate::ffi;
use crate::graph::{Branched, Graph, Initial, Op, Slot, Tensors};
use crate::script::{Script, ScriptTensors};
pub use crate::spec::{Head, NetworkSpec};
use crate::zoo::{self, FirstLayer, LenetParts};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// Batch statistics, updated running statistics, dropout.
    Train {
        /// Where the dropout masks come from: one stream for each step and shard.
        dropout: Stream,
    },
    /// Running statistics, no dropout.
    Eval,
}

enum Body {
    Zoo(Arc<Graph>),
    Script(Script),
}

/// A student with its weights. All parameters are views of one flat tensor, all floating-point
/// buffers (running statistics) of another.
pub struct Network {
    spec: NetworkSpec,
    body: Body,
    layout: Arc<Layout>,
    memory: Memory,
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
}

/// Names and shapes, in the order of the flat tensors.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) parameters: Vec<Slot>,
    pub(crate) buffers: Vec<Slot>,
}

/// The flat tensors: `[number of parameters]` and `[number of buffer values]`, `f32`.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) parameters: Tensor,
    pub(crate) buffers: Tensor,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, shape, classes) = (self.spec.name(), self.spec.shape(), self.spec.classes());
        write!(f, "Network({name} {shape}, {classes} classes)")
    }
}

impl Network {
    /// Builds a network on `device`. The initial weights of a zoo network are a function of
    /// `init_seed` alone; a TorchScript module brings its own.
    ///
    /// # Errors
    /// [`StudentError::Misfit`] when the images do not fit the architecture,
    /// [`StudentError::Script`] when the module is not a student for these images and classes.
    pub fn build(spec: &NetworkSpec, init_seed: u64, device: Device) -> Result<Self, StudentError> {
        spec.check()?;
        let fitting = |graph: Result<Graph, String>| graph.map_err(|reason| misfit(spec, reason));
        match spec {
            NetworkSpec::Zoo {
                architecture,
                shape,
                classes,
            } => {
                let graph = zoo::graph(*architecture, *shape, *classes as i64);
                Self::from_graph(spec, fitting(graph)?, init_seed, device)
            }
            NetworkSpec::One {
                architecture,
                shape,
                classes,
                branches,
                ..
            } => {
                let graph = zoo::branched(*architecture, *shape, *classes as i64, *branches);
                Self::from_graph(spec, fitting(graph)?, init_seed, device)
            }
            NetworkSpec::TorchScript { module, shape, classes } => {
                let script = Script::load(module, device)?;
                let image = [
                    i64::from(shape.channels),
                    i64::from(shape.height),
                    i64::from(shape.width),
                ];
                script.probe(image, *classes as i64, device)?;
                Self::from_script(spec, script, device)
            }
        }
    }

    fn from_graph(spec: &NetworkSpec, graph: Graph, init_seed: u64, device: Device) -> Result<Self, StudentError> {
        let stream = Stream::new(init_seed, Purpose::Initialisation, 0);
        let memory = Memory {
            parameters: initial_values(&graph.parameters, stream, device)?,
            buffers: initial_values(&graph.buffers, stream, device)?,
        };
        Self::over(spec, graph, memory)
    }

    /// The network that `graph` describes, over `memory` of its layout.
    fn over(spec: &NetworkSpec, graph: Graph, memory: Memory) -> Result<Self, StudentError> {
        let slots = |list: &[(Slot, Initial)]| list.iter().map(|(slot, _)| slot.clone()).collect();
        let layout = Layout {
            parameters: slots(&graph.parameters),
            buffers: slots(&graph.buffers),
        };
        Self::zoo(spec, Arc::new(graph), Arc::new(layout), memory)
    }

    fn zoo(spec: &NetworkSpec, graph: Arc<Graph>, layout: Arc<Layout>, memory: Memory) -> Result<Self, StudentError> {
        let parameters = views(&memory.parameters, &layout.parameters)?;
        let buffers = views(&memory.buffers, &layout.buffers)?;
        Ok(Self {
            spec: spec.clone(),
            body: Body::Zoo(graph),
            layout,
            memory,
            parameters,
            buffers,
        })
    }

    fn from_script(spec: &NetworkSpec, script: Script, device: Device) -> Result<Self, StudentError> {
        let tensors = script.tensors()?;
        let memory = Memory {
            parameters: flatten(&tensors.parameters, device)?,
            buffers: flatten(&tensors.buffers, device)?,
        };
        let slots = |list: &[(Slot, Tensor)]| list.iter().map(|(slot, _)| slot.clone()).collect();
        let layout = Layout {
            parameters: slots(&tensors.parameters),
            buffers: slots(&tensors.buffers),
        };
        Self::scripted(spec, script, tensors, Arc::new(layout), memory)
    }

    /// Moves the module's tensors into `memory`.
    fn scripted(
        spec: &NetworkSpec,
        script: Script,
        tensors: ScriptTensors,
        layout: Arc<Layout>,
        memory: Memory,
    ) -> Result<Self, StudentError> {
        let adopt = |list: Vec<(Slot, Tensor)>, views: Vec<Tensor>| -> Result<Vec<Tensor>, TchError> {
            let pairs = list.into_iter().zip(views);
            pairs
                .map(|((_, mut tensor), view)| tensor.f_set_data(&view).map(|()| tensor))
                .collect()
        };
        let parameters = adopt(tensors.parameters, views(&memory.parameters, &layout.parameters)?)?;
        let buffers = adopt(tensors.buffers, views(&memory.buffers, &layout.buffers)?)?;
        let network = Self {
            spec: spec.clone(),
            body: Body::Script(script),
            layout,
            memory,
            parameters,
            buffers,
        };
        network.require_gradients(false)?;
        Ok(network)
    }

    fn require_gradients(&self, on: bool) -> Result<(), StudentError> {
        for parameter in &self.parameters {
            let _same = parameter.f_set_requires_grad(on)?;
        }
        Ok(())
    }

    /// Another handle on the same weights, for use on another thread: a change through one is
    /// seen by the other. The caller sees to it that nobody reads while somebody writes.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn share(&self) -> Result<Self, StudentError> {
        let memory = Memory {
            parameters: self.memory.parameters.shallow_clone(),
            buffers: self.memory.buffers.shallow_clone(),
        };
        self.on(memory)
    }

    /// The same network over other memory of the same layout.
    fn on(&self, memory: Memory) -> Result<Self, StudentError> {
        match (&self.body, &self.spec) {
            (Body::Zoo(graph), _) => Self::zoo(&self.spec, Arc::clone(graph), Arc::clone(&self.layout), memory),
            (Body::Script(_), NetworkSpec::TorchScript { module, .. }) => {
                let script = Script::load(module, memory.parameters.device())?;
                let tensors = script.tensors()?;
                Self::scripted(&self.spec, script, tensors, Arc::clone(&self.layout), memory)
            }
            (Body::Script(_), NetworkSpec::Zoo { .. } | NetworkSpec::One { .. }) => {
                unreachable!("a script's spec is TorchScript")
            }
        }
    }

    /// A handle that trains: same parameters, gradients added into `gradients` (flat, in the order
    /// of the parameters), running statistics in `buffers`.
    pub(crate) fn replica(&self, gradients: &Tensor, buffers: Tensor) -> Result<Self, StudentError> {
        let parameters = self.memory.parameters.shallow_clone();
        let replica = self.on(Memory { parameters, buffers })?;
        replica.require_gradients(true)?;
        let gradients = views(gradients, &self.layout.parameters)?;
        for (parameter, gradient) in replica.parameters.iter().zip(gradients) {
            ffi::set_gradient(parameter, &gradient).map_err(StudentError::Torch)?;
        }
        Ok(replica)
    }

    /// What this network is.
    #[must_use]
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Where its weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.memory.parameters.device()
    }

    /// Number of trainable values.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.memory.parameters.numel()
    }

    /// Trainable tensors with their names, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        named(&self.layout.parameters, &self.parameters)
    }

    /// Floating-point tensors that are not trained (running statistics), in a fixed order.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        named(&self.layout.buffers, &self.buffers)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Logits `[n, classes]` of images `x`, `[n, c, h, w]` `f32` in 0..=1. Only replicas that train
    /// record a backward pass.
    ///
    /// # Errors
    /// When `x` has another shape, or libtorch fails.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, StudentError> {
        match &self.body {
            Body::Zoo(graph) => {
                let features = self.features(graph, x, mode)?;
                match (&graph.branched, &self.spec) {
                    (Some(branched), NetworkSpec::One { head, .. }) => {
                        Ok(self.answer(branched, *head, &features, mode)?)
                    }
                    _ => Ok(features),
                }
            }
            Body::Script(script) => script.forward(x, mode),
        }
    }

    /// What comes before the branches: of a plain network the logits.
    fn features(&self, graph: &Graph, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let last = matches!(mode, Mode::Train { .. }) && graph.is_normalized() && x.device() == Device::Cpu;
        let x = if last { channels_last(x)? } else { x.shallow_clone() };
        self.tensors().run(&graph.ops, &x, mode)
    }

    fn answer(&self, branched: &Branched, head: Head, features: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let tensors = self.tensors();
        match head {
            Head::Branch => tensors.run(&branched.branches[0], features, mode),
            Head::Ensemble => Ok(tensors.branches(branched, features, mode)?.ensemble),
            Head::Committee => {
                let every = branched.branches.iter().map(|ops| tensors.run(ops, features, mode));
                Tensor::f_cat(&every.collect::<Result<Vec<_>, _>>()?, 1)
            }
        }
    }

    /// What every branch of a multi-branch student answers, and their gated sum; `None` for other
    /// networks. As [`Network::forward`].
    pub(crate) fn forward_branches(&self, x: &Tensor, mode: Mode) -> Result<Option<BranchLogits>, StudentError> {
        let Body::Zoo(graph) = &self.body else {
            return Ok(None);
        };
        let Some(branched) = &graph.branched else {
            return Ok(None);
        };
        let features = self.features(graph, x, mode)?;
        Ok(Some(self.tensors().branches(branched, &features, mode)?))
    }

    fn tensors(&self) -> Tensors<'_> {
        Tensors {
            parameters: &self.parameters,
            buffers: &self.buffers,
        }
    }

    /// What is used after training: of a multi-branch student whose head is one branch that branch
    /// with the shared layers, a plain network of the zoo; else the network itself. It shares the
    /// network's memory.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn deployed(&self) -> Result<Self, StudentError> {
        let NetworkSpec::One {
            architecture,
            shape,
            classes,
            head: Head::Branch,
            ..
        } = self.spec
        else {
            return self.share();
        };
        let spec = NetworkSpec::Zoo {
            architecture,
            shape,
            classes,
        };
        let graph = zoo::graph(architecture, shape, classes as i64).map_err(|reason| misfit(&spec, reason))?;
        // The tensors of the shared layers and of the first branch come first, in a plain network's order.
        let first = |own: &Tensor, slots: &[(Slot, Initial)]| {
            own.f_narrow(0, 0, slots.iter().map(|(slot, _)| slot.numel() as i64).sum())
        };
        let memory = Memory {
            parameters: first(&self.memory.parameters, &graph.parameters)?,
            buffers: first(&self.memory.buffers, &graph.buffers)?,
        };
        Self::over(&spec, graph, memory)
    }

    /// The same multi-branch student, answering with every branch's logits ([`Head::Committee`]).
    ///
    /// # Errors
    /// [`StudentError::Misfit`] when the network has no branches.
    pub fn committee(&self) -> Result<Self, StudentError> {
        let mut committee = self.share()?;
        match &mut committee.spec {
            NetworkSpec::One { head, .. } => *head = Head::Committee,
            NetworkSpec::Zoo { .. } | NetworkSpec::TorchScript { .. } => {
                return Err(misfit(&self.spec, "it has no branches that could disagree".to_owned()));
            }
        }
        Ok(committee)
    }

    /// The operators of a network of the zoo, and the tensors that they refer to.
    pub(crate) fn operators(&self) -> Option<(&[Op], Tensors<'_>)> {
        match &self.body {
            Body::Zoo(graph) if graph.branched.is_none() => Some((&graph.ops, self.tensors())),
            Body::Zoo(_) | Body::Script(_) => None,
        }
    }

    /// The first convolution, if this is a network of the zoo. It shares the network's memory.
    #[must_use]
    pub fn first_layer(&self) -> Option<FirstLayer> {
        let Body::Zoo(graph) = &self.body else {
            return None;
        };
        let Some(Op::Conv {
            weight,
            bias,
            stride,
            padding,
        }) = graph.ops.first()
        else {
            return None;
        };
        let tensor = |at: usize| self.parameters[at].shallow_clone();
        Some(FirstLayer {
            weight: tensor(*weight),
            bias: bias.map(tensor),
            stride: *stride,
            padding: *padding,
        })
    }

    /// The tensors of a LeNet, if this is one. They share the network's memory.
    #[must_use]
    pub fn lenet_parts(&self) -> Option<LenetParts> {
        match &self.spec {
            NetworkSpec::Zoo {
                architecture: Architecture::Lenet5 | Architecture::Lenet5Half,
                ..
            } => Some(LenetParts::new(&self.parameters)),
            NetworkSpec::Zoo { .. } | NetworkSpec::One { .. } | NetworkSpec::TorchScript { .. } => None,
        }
    }
}

fn misfit(spec: &NetworkSpec, reason: String) -> StudentError {
    StudentError::Misfit {
        network: spec.name(),
        shape: spec.shape(),
        reason,
    }
}

/// What the branches of a multi-branch student answer.
#[derive(Debug)]
pub(crate) struct BranchLogits {
    /// Logits of each branch, `[n, classes]`.
    pub(crate) branches: Vec<Tensor>,
    /// Their sum, weighed by the gate, `[n, classes]`.
    pub(crate) ensemble: Tensor,
}

/// The same images with the channels of a pixel side by side in memory: convolutions and batch
/// normalisation then train a fifth faster on the CPU, and matrix units of cards take them as they
/// are. Later layers keep the order.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

fn named<'a>(slots: &'a [Slot], tensors: &'a [Tensor]) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
    slots.iter().map(|slot| slot.name.as_str()).zip(tensors)
}

/// One flat tensor with the initial values of all slots.
fn initial_values(slots: &[(Slot, Initial)], stream: Stream, device: Device) -> Result<Tensor, TchError> {
    let mut values = Vec::with_capacity(slots.iter().map(|(slot, _)| slot.numel()).sum());
    for (at, (slot, initial)) in (0..).zip(slots) {
        initial.fill(stream.fork(at), slot.numel(), &mut values);
    }
    Tensor::f_from_slice(&values)?.f_to_device(device)
}

/// A copy of all tensors, one after another.
fn flatten(tensors: &[(Slot, Tensor)], device: Device) -> Result<Tensor, TchError> {
    if tensors.is_empty() {
        return Tensor::f_zeros([0], (Kind::Float, device));
    }
    let flat: Result<Vec<Tensor>, TchError> = tensors.iter().map(|(_, t)| t.f_detach()?.f_reshape([-1])).collect();
    Tensor::f_cat(&flat?, 0)
}

/// Tensors over the memory of `flat`, one a slot. Autograd counts the changes of each on its own: a
/// batch normalisation that updates its statistics does not invalidate what another has saved.
fn views(flat: &Tensor, slots: &[Slot]) -> Result<Vec<Tensor>, TchError> {
    let mut start = 0;
    let view = |slot: &Slot| {
        let length = slot.numel() as i64;
        let memory = flat.f_narrow(0, start, length)?.f_view(slot.shape.as_slice())?;
        start += length;
        let mut tensor = Tensor::f_empty([0], (Kind::Float, flat.device()))?;
        tensor.f_set_data(&memory)?;
        Ok(tensor)
    };
    slots.iter().map(view).collect()
}

/// Pixels as a network takes them: `u8` images of any shape to `f32` in 0..=1 (divided by 255).
///
/// # Errors
/// When libtorch fails.
pub fn unit_pixels(images: &Tensor) -> Result<Tensor, StudentError> {
    Ok(images.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?)
}
