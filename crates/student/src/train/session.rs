//! Where a training stands between two steps, and how ranks that stand at different places meet.
//!
//! A [`Session`] outlives the world of ranks that trains it: when a rank is lost, the others keep
//! theirs, form a new world and go on with the next step. A step is applied by a rank once it holds
//! every rank's part of it, so a loss in the middle of an exchange leaves some ranks one step ahead
//! of others at most; the step has the same bits wherever it was applied (invariant I11).

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use stillhouse_collective::{Collective, CollectiveError};
use stillhouse_core::sampler::{Purpose, Stream};
use tch::Tensor;

use super::evaluate::Evaluation;
use super::optimizer::OptimizerState;
use super::{Init, TrainConfig, Training};
use crate::error::StudentError;
use crate::network::Network;
use crate::weights::little_endian;

/// Everything that the next step depends on and that the settings do not say. Random numbers are
/// addressed by (seed, round, epoch or step, sample), so they need no state.
#[derive(Debug)]
pub struct Session {
    pub(super) network: Network,
    pub(super) optimizer: OptimizerState,
    /// Steps applied, over all epochs.
    pub(super) step: u64,
    /// Sum of the losses of this epoch's steps; once it ended, of all of them.
    pub(super) losses: f64,
    pub(super) evaluations: Vec<(u32, Evaluation)>,
}

/// The entry of metadata in a state.
const METADATA_KEY: &str = "stillhouse-training";
const VERSION: u32 = 1;

/// What a state holds beside tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    version: u32,
    step: u64,
    losses: f64,
    evaluations: Vec<(u32, Evaluation)>,
}

impl Session {
    /// A training that has not begun.
    ///
    /// # Errors
    /// When the network cannot be built or has nothing to train.
    pub fn begin(training: &Training<'_>) -> Result<Self, StudentError> {
        let TrainConfig { seed, round, .. } = *training.config;
        let init_seed = Stream::new(seed, Purpose::Initialisation, round).at(0);
        let mut network = Network::build(training.spec, init_seed, training.device)?;
        if network.parameter_count() == 0 {
            return Err(StudentError::Training {
                reason: "the network has no trainable parameter".to_owned(),
            });
        }
        match training.init {
            Init::Fresh => {}
            Init::Weights(bytes) => network.load_weights(bytes)?,
        }
        Ok(Self {
            optimizer: OptimizerState::new(training.config.optimizer, &network.memory().parameters)?,
            network,
            step: 0,
            losses: 0.0,
            evaluations: Vec::new(),
        })
    }

    /// The training whose [`state`](Self::state) this is.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and [`StudentError::State`] when it is no state of this training.
    pub fn resume(training: &Training<'_>, state: &[u8]) -> Result<Self, StudentError> {
        let mut session = Self::begin(training)?;
        session.restore(state)?;
        Ok(session)
    }

    /// The student as it is.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Steps applied, over all epochs.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What was measured so far, with the epoch (from 0) after which.
    #[must_use]
    pub fn evaluations(&self) -> &[(u32, Evaluation)] {
        &self.evaluations
    }

    /// Everything, as a safetensors file: the flat parameters and running statistics, what the
    /// optimiser remembers, and the place in the metadata. Equal sessions give equal bytes.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn state(&self) -> Result<Vec<u8>, StudentError> {
        let named: Vec<(&str, Vec<u8>)> = (self.tensors().into_iter())
            .map(|(name, tensor)| Ok((name, little_endian(tensor)?)))
            .collect::<Result<_, StudentError>>()?;
        let views: Vec<(&str, TensorView<'_>)> = (named.iter())
            .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?)))
            .collect::<Result<_, safetensors::SafeTensorError>>()
            .map_err(|error| wrong(error.to_string()))?;
        let place = Place {
            version: VERSION,
            step: self.step,
            losses: self.losses,
            evaluations: self.evaluations.clone(),
        };
        let place = serde_json::to_string(&place).map_err(|error| wrong(error.to_string()))?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), place)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| wrong(error.to_string()))
    }

    /// Takes over a state of the same training. Nothing changes when it is refused.
    fn restore(&mut self, state: &[u8]) -> Result<(), StudentError> {
        let place = place_of(state)?;
        let file = SafeTensors::deserialize(state).map_err(|error| wrong(error.to_string()))?;
        let read = |(name, tensor): (&'static str, &Tensor)| {
            let view = file.tensor(name).map_err(|error| wrong(error.to_string()))?;
            let (expected, found) = (tensor.numel() * size_of::<f32>(), view.data().len());
            if view.dtype() != Dtype::F32 || expected != found {
                return Err(wrong(format!(
                    "{name}: expected {expected} bytes of floats, found {found}"
                )));
            }
            let values = view.data().chunks_exact(4);
            Ok(values
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect())
        };
        let values: Vec<Vec<f32>> = self.tensors().into_iter().map(read).collect::<Result<_, _>>()?;
        tch::no_grad(|| {
            for ((_, tensor), values) in self.tensors().into_iter().zip(values) {
                tensor.shallow_clone().f_copy_(&Tensor::f_from_slice(&values)?)?;
            }
            Ok::<(), StudentError>(())
        })?;
        self.step = place.step;
        self.losses = place.losses;
        self.evaluations = place.evaluations;
        Ok(())
    }

    fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let memory = self.network.memory();
        let mut tensors = vec![("parameters", &memory.parameters), ("buffers", &memory.buffers)];
        tensors.extend(self.optimizer.tensors());
        tensors
    }

    /// Has every rank of `collective` stand where rank 0 does, bit for bit: ranks on devices of several
    /// kinds round otherwise at every step.
    pub(super) fn agree(&mut self, collective: &mut dyn Collective) -> Result<(), StudentError> {
        if collective.world_size() == 1 {
            return Ok(());
        }
        let step = self.step;
        let mut state = Vec::new();
        if collective.rank() == 0 {
            state = self.state()?;
        }
        let shared = collective.broadcast(&mut state, 0);
        shared.map_err(|source| StudentError::Collective { step, source })?;
        if collective.rank() == 0 {
            Ok(())
        } else {
            self.restore(&state)
        }
    }

    /// Brings every rank of `collective` to the place of the one that is furthest.
    pub(super) fn meet(&mut self, collective: &mut dyn Collective) -> Result<(), StudentError> {
        if collective.world_size() == 1 {
            return Ok(());
        }
        let lost = |step: u64| move |source: CollectiveError| StudentError::Collective { step, source };
        let mine = vec![self.step, self.evaluations.len() as u64];
        let places = collective.gather_words(&mine).map_err(lost(self.step))?;
        let furthest = places.iter().max().expect("a world has ranks");
        if places.iter().all(|place| place == furthest) {
            return Ok(());
        }
        let root = places.iter().position(|place| place == furthest).expect("found above");
        let mut state = Vec::new();
        if collective.rank() == root {
            state = self.state()?;
        }
        collective.broadcast(&mut state, root).map_err(lost(self.step))?;
        if mine < *furthest {
            self.restore(&state)?;
        }
        Ok(())
    }
}

fn wrong(reason: impl Into<String>) -> StudentError {
    StudentError::State { reason: reason.into() }
}

fn place_of(state: &[u8]) -> Result<Place, StudentError> {
    let (_, metadata) = SafeTensors::read_metadata(state).map_err(|error| wrong(error.to_string()))?;
    let entries = metadata.metadata().as_ref();
    let place = entries.and_then(|entries| entries.get(METADATA_KEY));
    let place = place.ok_or_else(|| wrong("expected metadata that tells the step, found none"))?;
    let place: Place = serde_json::from_str(place).map_err(|error| wrong(format!("metadata: {error}")))?;
    if place.version != VERSION {
        let found = place.version;
        return Err(wrong(format!("expected version {VERSION}, found {found}")));
    }
    Ok(place)
}
