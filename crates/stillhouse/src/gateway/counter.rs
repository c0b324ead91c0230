//! The way to the desk: in this process, or over a link.

use stillhouse_core::ImageSet;
use stillhouse_ledger::{Permit, RequestId};

use super::remote::RemoteDesk;
use crate::desk::message::{Begun, GatewayId, Outcome, Settled};
use crate::desk::{AskingStopped, Desk};

/// Where a gateway asks before it sends.
pub enum Counter {
    /// The desk of this process.
    Here {
        /// The desk.
        desk: Desk,
        /// Whose counter this is.
        gateway: GatewayId,
    },
    /// The desk of the coordinator's process.
    There(RemoteDesk),
}

impl Counter {
    /// Whose counter this is.
    #[must_use]
    pub fn gateway(&self) -> GatewayId {
        match self {
            Self::Here { gateway, .. } => *gateway,
            Self::There(desk) => desk.gateway(),
        }
    }

    /// [`Desk::begin`].
    pub(super) async fn begin(&self, request: RequestId, permits: Vec<Permit>) -> Begun {
        match self {
            Self::Here { desk, gateway } => desk.begin(*gateway, request, &permits).await,
            Self::There(desk) => desk.begin(request, permits).await,
        }
    }

    /// [`Desk::settle`].
    pub(super) async fn settle(&self, request: RequestId, outcome: Outcome) -> Settled {
        match self {
            Self::Here { desk, .. } => desk.settle(request, outcome).await,
            Self::There(desk) => desk.settle(request, outcome).await,
        }
    }

    /// The images that were generated for the pool, from another process; in one process they are shared.
    pub(super) async fn generated(&self) -> Option<ImageSet> {
        match self {
            Self::Here { .. } => None,
            Self::There(desk) => desk.generated().await,
        }
    }

    /// A reference names no image of this gateway. In one process that is our own mistake; from a
    /// queue that others can write, it may be a stranger's.
    pub(super) async fn report_foreign(&self, cause: String) {
        match self {
            Self::Here { desk, .. } => desk.stop(AskingStopped::Foreign { cause }),
            Self::There(desk) => desk.report_foreign(cause).await,
        }
    }
}
