//! A student for use elsewhere: TorchScript, which Python and C++ load without this project.
//! (Safetensors: [`Network::weights`].)

use tch::{Kind, Tensor};

use crate::error::StudentError;
use crate::ffi::Module;
use crate::network::{Mode, Network, NetworkSpec};
use crate::script::Script;

/// The bytes of a TorchScript file in evaluation mode, on the network's device, for any batch
/// size: images `[n, c, h, w]` `f32` in 0..=1 to logits `[n, classes]`. A student that came as
/// TorchScript goes back as the same module with the trained weights.
///
/// # Errors
/// When libtorch fails.
pub fn torchscript(network: &Network) -> Result<Vec<u8>, StudentError> {
    module(network)?.save().map_err(StudentError::Torch)
}

/// The network as a module with weights of its own.
pub(crate) fn module(network: &Network) -> Result<Module, StudentError> {
    match network.spec() {
        NetworkSpec::Zoo { .. } | NetworkSpec::One { .. } => traced(network),
        NetworkSpec::TorchScript { module, .. } => refilled(network, module),
    }
}

fn traced(network: &Network) -> Result<Module, StudentError> {
    let shape = network.spec().shape();
    let sides = [
        2,
        i64::from(shape.channels),
        i64::from(shape.height),
        i64::from(shape.width),
    ];
    let input = Tensor::f_zeros(sides, (Kind::Float, network.device()))?;
    tch::no_grad(|| Module::trace(&input, |x| network.forward(x, Mode::Eval)).map_err(StudentError::Torch)?)
}

fn refilled(network: &Network, module: &[u8]) -> Result<Module, StudentError> {
    let script = Script::load(module, network.device())?;
    let tensors = script.tensors()?;
    let fresh = tensors.parameters.into_iter().chain(tensors.buffers);
    let trained = network.parameters().chain(network.buffers());
    tch::no_grad(|| -> Result<(), StudentError> {
        for ((_, mut tensor), (_, value)) in fresh.zip(trained) {
            tensor.f_copy_(value)?;
        }
        Ok(())
    })?;
    Ok(script.into_module())
}
