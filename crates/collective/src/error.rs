//! What can go wrong in a world of ranks, and with whom.

use std::{fmt, io, time::Duration};

/// The operation in which an error was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Building the world: connecting to the next rank and accepting the previous one.
    Connect,
    /// [`Collective::all_gather`](crate::Collective::all_gather).
    AllGather,
    /// [`Collective::all_reduce`](crate::Collective::all_reduce).
    AllReduce,
    /// [`Collective::barrier`](crate::Collective::barrier).
    Barrier,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Connect => "connect",
            Operation::AllGather => "all-gather",
            Operation::AllReduce => "all-reduce",
            Operation::Barrier => "barrier",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a card cannot take part in a world.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// NCCL or the CUDA runtime is not there, or too old.
    #[error(transparent)]
    Library(#[from] nccl_rs::OpenError),
    /// There is no such card.
    #[error(transparent)]
    Card(#[from] nccl_rs::cuda::CudaError),
}

/// Why a collective operation failed. Messages name the rank that reports, the operation, and the
/// neighbour at which the failure was noticed; in a ring that is not always the rank that caused
/// it, since a loss travels round from neighbour to neighbour.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A neighbour closed its connection or cannot be reached. Build a new world without it.
    #[error("rank {rank} lost rank {peer} during {operation}")]
    PeerLost {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on.
        operation: Operation,
        /// The neighbour that is gone.
        peer: usize,
        /// What the socket said.
        source: io::Error,
    },
    /// The operation took longer than its deadline; nobody is known to be dead.
    #[error("rank {rank} waited {deadline:?} for rank {peer} during {operation}")]
    Deadline {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on.
        operation: Operation,
        /// The neighbour that was waited for.
        peer: usize,
        /// The deadline that passed.
        deadline: Duration,
    },
    /// This rank was told to stop by its own abort handle.
    #[error("rank {rank} was aborted during {operation}")]
    Aborted {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on, or refused.
        operation: Operation,
    },
    /// A neighbour answered, but did not prove that it is the member expected.
    #[error("rank {rank} could not shake hands with rank {peer}: {reason}")]
    Handshake {
        /// The rank that reports.
        rank: usize,
        /// The neighbour expected there.
        peer: usize,
        /// What was wrong.
        reason: &'static str,
    },
    /// A neighbour is in another operation or brings another size: the ranks' programs differ.
    #[error("rank {rank} in {operation} expected {expected} from rank {peer} and found {found}")]
    Mismatch {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on.
        operation: Operation,
        /// The neighbour that sent it.
        peer: usize,
        /// What this rank expected.
        expected: String,
        /// What came.
        found: String,
    },
    /// The arguments of this rank contradict each other; nothing was sent, the world goes on.
    #[error("rank {rank} in {operation} expected {expected} {what} and found {found}")]
    Counts {
        /// The rank that reports.
        rank: usize,
        /// The operation that was refused.
        operation: Operation,
        /// What is counted.
        what: &'static str,
        /// How many were expected.
        expected: usize,
        /// How many were found.
        found: usize,
    },
    /// NCCL or the card failed: the source names both. Build a new world.
    #[error("rank {rank} failed in {operation} between cards")]
    Card {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on.
        operation: Operation,
        /// What the library said.
        source: nccl_rs::NcclError,
    },
    /// The job wants NCCL, and a rank cannot take part in it.
    #[error("rank {rank} cannot use NCCL: {reason}")]
    NoNccl {
        /// The rank that reports.
        rank: usize,
        /// What is missing.
        reason: String,
    },
    /// The operating system refused something local: a socket, an option, an address.
    #[error("rank {rank} failed to set up {operation}")]
    System {
        /// The rank that reports.
        rank: usize,
        /// The operation that was going on.
        operation: Operation,
        /// What the system said.
        source: io::Error,
    },
}
