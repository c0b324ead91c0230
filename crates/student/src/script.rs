//! A student that the user brings as a TorchScript module.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::error::StudentError;
use crate::ffi::Module;
use crate::graph::Slot;
use crate::network::Mode;

/// Largest module that is read, in bytes.
const MAX_MODULE_BYTES: usize = 1 << 30;

/// libtorch's global generator, from which a module's own dropout draws. Whoever seeds it holds
/// this until the masks are drawn.
static GENERATOR: Mutex<()> = Mutex::new(());

/// A loaded module.
pub(crate) struct Script {
    module: Module,
    random: bool,
    training: Cell<bool>,
}

/// The module's tensors: these are the module's own handles, so replacing their data changes it.
pub(crate) struct ScriptTensors {
    pub(crate) parameters: Vec<(Slot, Tensor)>,
    /// Floating-point buffers, and parameters that do not require gradients.
    pub(crate) buffers: Vec<(Slot, Tensor)>,
}

fn script_error(reason: impl Into<String>) -> StudentError {
    StudentError::Script { reason: reason.into() }
}

impl Script {
    /// Loads a module in evaluation mode.
    pub(crate) fn load(bytes: &[u8], device: Device) -> Result<Self, StudentError> {
        if bytes.len() > MAX_MODULE_BYTES {
            let found = bytes.len();
            return Err(script_error(format!(
                "is {found} bytes long, expected at most {MAX_MODULE_BYTES}"
            )));
        }
        let unreadable = |reason| script_error(format!("cannot be read: {reason}"));
        let module = Module::load(bytes, device).map_err(unreadable)?;
        module.set_training(false).map_err(unreadable)?;
        let random = module
            .is_random()
            .map_err(|reason| script_error(format!("has no forward: {reason}")))?;
        Ok(Self {
            module,
            random,
            training: Cell::new(false),
        })
    }

    pub(crate) fn into_module(self) -> Module {
        self.module
    }

    /// The tensors that training changes.
    pub(crate) fn tensors(&self) -> Result<ScriptTensors, StudentError> {
        let mut found = ScriptTensors {
            parameters: Vec::new(),
            buffers: Vec::new(),
        };
        for (name, tensor) in self.module.parameters().map_err(script_error)? {
            expect_floats(&name, &tensor)?;
            // A tied parameter is listed under each of its names.
            if found
                .parameters
                .iter()
                .all(|(_, known)| known.data_ptr() != tensor.data_ptr())
            {
                let slot = Slot {
                    name,
                    shape: tensor.size(),
                };
                let list = if tensor.requires_grad() {
                    &mut found.parameters
                } else {
                    &mut found.buffers
                };
                list.push((slot, tensor));
            }
        }
        for (name, tensor) in self.module.buffers().map_err(script_error)? {
            if is_floating(tensor.kind()) {
                expect_floats(&name, &tensor)?;
                found.buffers.push((
                    Slot {
                        name,
                        shape: tensor.size(),
                    },
                    tensor,
                ));
            }
        }
        Ok(found)
    }

    /// Logits of `x`; exactly what eager PyTorch computes.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, StudentError> {
        let failed = |reason| script_error(format!("fails in forward: {reason}"));
        let training = matches!(mode, Mode::Train { .. });
        if self.training.replace(training) != training {
            self.module.set_training(training).map_err(failed)?;
        }
        match mode {
            Mode::Train { dropout } if self.random => {
                let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
                tch::manual_seed((dropout.at(0) >> 1) as i64);
                self.module.forward(x, false).map_err(failed)
            }
            Mode::Train { .. } | Mode::Eval => self.module.forward(x, false).map_err(failed),
        }
    }

    /// Checks by one forward that the module takes `[2, c, h, w]` and gives `[2, classes]`.
    pub(crate) fn probe(&self, image: [i64; 3], classes: i64, device: Device) -> Result<(), StudentError> {
        let [channels, height, width] = image;
        let x = Tensor::f_zeros([2, channels, height, width], (Kind::Float, device))?;
        let y = tch::no_grad(|| self.forward(&x, Mode::Eval))?;
        if y.size() != [2, classes] || y.kind() != Kind::Float {
            return Err(script_error(format!(
                "gives {:?} of {:?} for input {:?}, expected [2, {classes}] of Float",
                y.size(),
                y.kind(),
                x.size()
            )));
        }
        Ok(())
    }
}

fn is_floating(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

fn expect_floats(name: &str, tensor: &Tensor) -> Result<(), StudentError> {
    if tensor.kind() == Kind::Float {
        return Ok(());
    }
    let kind = tensor.kind();
    Err(script_error(format!("holds {name} as {kind:?}, expected Float")))
}
