//! Weights as a safetensors file: every parameter and buffer under its PyTorch name, and one entry
//! of metadata that says whose they are. Equal weights give equal bytes.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use stillhouse_core::ImageShape;
use stillhouse_core::job::Architecture;
use tch::{Device, Tensor};

use crate::error::StudentError;
use crate::ffi;
use crate::graph::Slot;
use crate::network::{Head, Network, NetworkSpec};

/// Key of the metadata. One entry, since safetensors writes a hash map in random order.
const METADATA_KEY: &str = "stillhouse";
/// PyTorch's count of batches, which a network with fixed momentum does not need.
const IGNORED_SUFFIX: &str = "num_batches_tracked";

/// Whose weights these are.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Owner {
    network: String,
    image: String,
    classes: usize,
    /// Of a multi-branch student only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    branches: Option<(usize, Head)>,
}

impl Owner {
    fn of(spec: &NetworkSpec) -> Self {
        Self {
            network: spec.name().to_owned(),
            image: spec.shape().to_string(),
            classes: spec.classes(),
            branches: match spec {
                NetworkSpec::One { branches, head, .. } => Some((*branches, *head)),
                NetworkSpec::Zoo { .. } | NetworkSpec::TorchScript { .. } => None,
            },
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} for {} images and {} classes",
            self.network, self.image, self.classes
        )?;
        match self.branches {
            Some((branches, _)) => write!(f, " in {branches} branches"),
            None => Ok(()),
        }
    }
}

impl NetworkSpec {
    /// The zoo network that a safetensors file of [`Network::weights`] belongs to.
    ///
    /// # Errors
    /// [`StudentError::Weights`] when the file does not say, or names a network that is not in the
    /// zoo.
    pub fn of_weights(bytes: &[u8]) -> Result<Self, StudentError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
        let entries = metadata.metadata().as_ref();
        let owner = entries.and_then(|entries| entries.get(METADATA_KEY));
        let owner = owner.ok_or_else(|| wrong("expected metadata that names the network, found none"))?;
        let owner: Owner = serde_json::from_str(owner).map_err(|error| wrong(format!("metadata: {error}")))?;
        let unknown = || wrong(format!("expected a network of the zoo, found {owner}"));
        let architecture = Architecture::ALL.into_iter().find(|a| a.name() == owner.network);
        let sides: Vec<u32> = owner.image.split('x').filter_map(|side| side.parse().ok()).collect();
        let [channels, height, width] = sides[..] else {
            return Err(unknown());
        };
        let architecture = architecture.ok_or_else(unknown)?;
        let shape = ImageShape {
            channels,
            height,
            width,
        };
        let classes = owner.classes;
        Ok(match owner.branches {
            None => Self::Zoo {
                architecture,
                shape,
                classes,
            },
            Some((branches, head)) => Self::One {
                architecture,
                shape,
                classes,
                branches,
                head,
            },
        })
    }
}

fn wrong(reason: impl Into<String>) -> StudentError {
    StudentError::Weights { reason: reason.into() }
}

impl Network {
    /// The weights as safetensors: names as in PyTorch (`conv1.weight`), `f32`, deterministic.
    ///
    /// # Errors
    /// When libtorch fails to bring the weights to the CPU.
    pub fn weights(&self) -> Result<Vec<u8>, StudentError> {
        let (layout, memory) = (self.layout(), self.memory());
        let parameters = little_endian(&memory.parameters)?;
        let buffers = little_endian(&memory.buffers)?;
        let mut tensors = tensor_views(&layout.parameters, &parameters)?;
        tensors.extend(tensor_views(&layout.buffers, &buffers)?);
        let owner = serde_json::to_string(&Owner::of(self.spec())).expect("strings and a number");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), owner)]);
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| wrong(error.to_string()))
    }

    /// Replaces the weights by those of a safetensors file, written by [`Network::weights`] or by
    /// PyTorch under the same names. Nothing changes when they do not fit.
    ///
    /// # Errors
    /// [`StudentError::Weights`], with what was expected and found.
    pub fn load_weights(&mut self, bytes: &[u8]) -> Result<(), StudentError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
        let owner = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA_KEY));
        self.check_owner(owner.map(String::as_str))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
        let (layout, memory) = (self.layout(), self.memory());
        check_names(&file, layout.parameters.iter().chain(&layout.buffers))?;
        let parameters = gather(&file, &layout.parameters)?;
        let buffers = gather(&file, &layout.buffers)?;
        tch::no_grad(|| -> Result<(), StudentError> {
            memory
                .parameters
                .shallow_clone()
                .f_copy_(&Tensor::f_from_slice(&parameters)?)?;
            memory
                .buffers
                .shallow_clone()
                .f_copy_(&Tensor::f_from_slice(&buffers)?)?;
            Ok(())
        })
    }

    fn check_owner(&self, found: Option<&str>) -> Result<(), StudentError> {
        let Some(found) = found else {
            return Ok(());
        };
        let found: Owner = serde_json::from_str(found).map_err(|error| wrong(format!("metadata: {error}")))?;
        let expected = Owner::of(self.spec());
        if found != expected {
            return Err(wrong(format!("expected those of {expected}, found {found}")));
        }
        Ok(())
    }
}

pub(crate) fn little_endian(flat: &Tensor) -> Result<Vec<u8>, StudentError> {
    let flat = flat.f_to_device(Device::Cpu)?.f_contiguous()?;
    let floats = ffi::floats(&flat).expect("contiguous floats on the CPU");
    Ok(floats.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn tensor_views<'a>(slots: &'a [Slot], bytes: &'a [u8]) -> Result<Vec<(&'a str, TensorView<'a>)>, StudentError> {
    let mut rest = bytes;
    let view = |slot: &'a Slot| {
        let (own, after) = rest.split_at(slot.numel() * size_of::<f32>());
        rest = after;
        let shape = slot.shape.iter().map(|side| *side as usize).collect();
        let view = TensorView::new(Dtype::F32, shape, own).map_err(|error| wrong(error.to_string()))?;
        Ok((slot.name.as_str(), view))
    };
    slots.iter().map(view).collect()
}

fn check_names<'a>(file: &SafeTensors<'_>, slots: impl Iterator<Item = &'a Slot>) -> Result<(), StudentError> {
    let known: std::collections::HashSet<&str> = slots.map(|slot| slot.name.as_str()).collect();
    let mut unknown: Vec<&str> = file.names();
    unknown.retain(|name| !known.contains(name) && !name.ends_with(IGNORED_SUFFIX));
    match unknown.iter().min() {
        Some(name) => Err(wrong(format!("the network has no tensor {name:?}"))),
        None => Ok(()),
    }
}

/// The values of all slots, one after another.
fn gather(file: &SafeTensors<'_>, slots: &[Slot]) -> Result<Vec<f32>, StudentError> {
    let mut values = Vec::with_capacity(slots.iter().map(Slot::numel).sum());
    for slot in slots {
        let name = &slot.name;
        let view = file
            .tensor(name)
            .map_err(|_| wrong(format!("tensor {name:?} is missing")))?;
        let shape: Vec<i64> = view.shape().iter().map(|side| *side as i64).collect();
        if view.dtype() != Dtype::F32 || shape != slot.shape {
            let (dtype, want) = (view.dtype(), &slot.shape);
            return Err(wrong(format!(
                "tensor {name:?} should be F32 {want:?} and is {dtype:?} {shape:?}"
            )));
        }
        let floats = view.data().chunks_exact(size_of::<f32>());
        values.extend(floats.map(|four| f32::from_le_bytes(four.try_into().expect("chunks of four"))));
        if !values[values.len() - slot.numel()..]
            .iter()
            .all(|value| value.is_finite())
        {
            return Err(wrong(format!("tensor {name:?} holds a value that is not finite")));
        }
    }
    Ok(values)
}
