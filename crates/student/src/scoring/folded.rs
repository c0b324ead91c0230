//! The approximation for any network: the same bytes through libtorch's frozen graph, where batch
//! normalisation is folded into the convolutions and operators are fused. It differs from the
//! network in the last bits only. On some processors these bits depend on a row's place in the
//! batch too; what is selected does not, since the band is rescored by the definition.

use stillhouse_core::ImageShape;
use tch::{Device, Kind, Tensor};

use super::exact::{Forward, batch_size};
use crate::error::StudentError;
use crate::frozen::Frozen;
use crate::network::Network;

/// Runs after which libtorch's executor has finished rewriting the graph: two that record shapes,
/// and the first of the final form.
const WARM_UP_RUNS: usize = 3;

/// A frozen network whose executor has settled on one batch shape, so that equal batches give equal
/// bits from the first one on.
pub(super) struct Folded(Frozen);

impl Folded {
    /// Freezes `network`, which takes images of `shape`.
    pub(super) fn new(network: &Network, shape: ImageShape) -> Result<Self, StudentError> {
        let folded = Self(Frozen::new(network)?);
        let images = Tensor::f_zeros(batch_size(shape), (Kind::Float, Device::Cpu))?;
        for _ in 0..WARM_UP_RUNS {
            let _logits = folded.logits(&images)?;
        }
        Ok(folded)
    }
}

impl Forward for Folded {
    fn logits(&self, images: &Tensor) -> Result<Tensor, StudentError> {
        self.0.forward(images)
    }
}
