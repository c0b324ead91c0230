//! A ring of ranks that each have a card: gradients go from card to card by NCCL, everything else
//! (words, states, who is still there) by the ring.
//!
//! NCCL by itself does not notice a dead process on the same host, and knows no deadline. Here every
//! wait also looks at the ring's connections, which close with their process; the communicator is
//! aborted then, and a new world can be built at once.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use nccl_rs::cuda::Cuda;
use nccl_rs::{Communicator, DevicePointer, Nccl, NcclError, Place, Stream, UniqueId, Version};

use crate::collective::{CardCollective, Collective};
use crate::error::{CardError, CollectiveError, Operation};
use crate::ring::Ring;

/// Lets several ranks share a card, from [`SHARING`] on. For tests: it gains nothing.
const SHARING_VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// The first version that knows [`SHARING_VARIABLE`].
const SHARING: Version = Version {
    major: 2,
    minor: 30,
    patch: 0,
};

/// The card of a rank, with the libraries that work on it.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    nccl: Nccl,
    cuda: Cuda,
    device: i32,
    /// The same for every process on this host that sees the card.
    identity: u64,
}

impl Card {
    /// Opens NCCL and the CUDA runtime for card number `device` of this process. Operations are put
    /// on its default stream, in order with what the caller puts there.
    ///
    /// # Errors
    /// There is no such library or card.
    pub fn open(device: i32) -> Result<Self, CardError> {
        let (nccl, cuda) = (Nccl::open()?, Cuda::open()?);
        let bus = cuda.bus_id(device)?;
        // One kernel, one set of buses; containers of one host share it.
        let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            nccl,
            cuda,
            device,
            identity: BuildHasherDefault::<DefaultHasher>::default().hash_one((host, bus)),
        })
    }

    fn can_share(&self) -> bool {
        let is_wanted = std::env::var_os(SHARING_VARIABLE).is_some_and(|value| value == "1");
        is_wanted && self.nccl.version().is_ok_and(|version| version >= SHARING)
    }
}

/// Why a world of these ranks has no NCCL; the same on every rank.
///
/// # Errors
/// What became of the peers.
pub fn obstacle(ring: &mut Ring, card: Option<&Card>) -> Result<Option<String>, CollectiveError> {
    let mine = match card {
        None => [0, 0],
        Some(card) => [1 + u64::from(card.can_share()), card.identity],
    };
    let all = ring.gather_words(&mine)?;
    if let Some(rank) = all.iter().position(|words| words[0] == 0) {
        return Ok(Some(format!("rank {rank} has no card, or not the library")));
    }
    let shared = (1..all.len()).find(|&rank| all[..rank].iter().any(|before| before[1] == all[rank][1]));
    let all_may = all.iter().all(|words| words[0] == 2);
    Ok(shared
        .filter(|_| !all_may)
        .map(|rank| format!("rank {rank} shares its card with another")))
}

/// Ranks on a ring whose cards add up by NCCL.
#[derive(Debug)]
pub struct CardRing {
    ring: Ring,
    card: Card,
    communicator: Communicator,
}

impl CardRing {
    /// Builds a communicator for the ranks of `ring`, all of which make this call after
    /// [`obstacle`] found none. `deadline` bounds joining and then each operation.
    ///
    /// # Errors
    /// What became of the peers, and NCCL's own errors.
    pub fn join(mut ring: Ring, card: Card, deadline: Duration) -> Result<Self, CollectiveError> {
        let operation = Operation::Connect;
        let rank = ring.rank();
        let failed = |source: NcclError| CollectiveError::Card {
            rank,
            operation,
            source,
        };
        let mut id = Vec::new();
        if rank == 0 {
            id.extend_from_slice(card.nccl.unique_id().map_err(failed)?.as_bytes());
        }
        ring.broadcast(&mut id, 0)?;
        let id: [u8; 128] = id.try_into().map_err(|id: Vec<u8>| CollectiveError::Mismatch {
            rank,
            operation,
            peer: 0,
            expected: "128 bytes of a communicator's id".to_owned(),
            found: format!("{} bytes", id.len()),
        })?;
        let place = Place {
            rank,
            world_size: ring.world_size(),
        };
        select(&card, place, operation)?;
        let communicator =
            Communicator::begin(card.nccl, place, &UniqueId::from_bytes(id), deadline).map_err(failed)?;
        ring.abort_handle().watch_communicator(communicator.abort_handle());
        let mut joined = Self {
            ring,
            card,
            communicator,
        };
        joined.wait(operation, |_| Ok(true))?;
        Ok(joined)
    }

    /// Waits until `done` says so and the library has taken everything in, as long as all ranks are
    /// there. Whatever goes wrong ends the ring too, so that the others learn of it.
    fn wait(
        &mut self,
        operation: Operation,
        done: impl Fn(&Card) -> Result<bool, String>,
    ) -> Result<(), CollectiveError> {
        let Self {
            ring,
            card,
            communicator,
        } = self;
        let mut lost = None;
        let waited = communicator.wait(operation.name(), || {
            if done(card)? {
                return Ok(true);
            }
            ring.check(operation).map(|()| false).map_err(|error| {
                let reason = error.to_string();
                lost = Some(error);
                reason
            })
        });
        waited.map_err(|source| {
            let error = self.end(operation, source);
            lost.unwrap_or(error)
        })
    }

    /// Closes the ring, ends what runs on the card (whoever frees memory would wait for it), and says
    /// what happened.
    fn end(&self, operation: Operation, source: NcclError) -> CollectiveError {
        self.ring.close();
        self.communicator.abort_handle().abort();
        let rank = self.ring.rank();
        match source {
            NcclError::Aborted { .. } => CollectiveError::Aborted { rank, operation },
            source => CollectiveError::Card {
                rank,
                operation,
                source,
            },
        }
    }

    /// Puts an operation on the stream, and waits for it.
    fn operate(
        &mut self,
        operation: Operation,
        enqueue: impl FnOnce(&Communicator) -> Result<(), NcclError>,
    ) -> Result<(), CollectiveError> {
        self.ring.check(operation)?;
        select(&self.card, self.communicator.place(), operation)?;
        enqueue(&self.communicator).map_err(|source| self.end(operation, source))?;
        self.wait(operation, |card| {
            card.cuda.is_done(Stream::DEFAULT).map_err(|error| error.to_string())
        })
    }
}

/// Makes the rank's card the thread's: NCCL takes the card that it finds.
fn select(card: &Card, place: Place, operation: Operation) -> Result<(), CollectiveError> {
    card.cuda
        .set_device(card.device)
        .map_err(|error| CollectiveError::Card {
            rank: place.rank,
            operation,
            source: NcclError::Stream {
                place,
                operation: operation.name(),
                reason: error.to_string(),
            },
        })
}

impl Collective for CardRing {
    fn rank(&self) -> usize {
        self.ring.rank()
    }

    fn world_size(&self) -> usize {
        self.ring.world_size()
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize]) -> Result<Vec<f32>, CollectiveError> {
        self.ring.all_gather(mine, counts)
    }

    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CollectiveError> {
        self.ring.all_reduce(data)
    }

    fn cards(&mut self) -> Option<&mut dyn CardCollective> {
        Some(self)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.ring.barrier()
    }
}

impl CardCollective for CardRing {
    fn all_gather(&mut self, mine: DevicePointer, all: DevicePointer) -> Result<(), CollectiveError> {
        let world_size = self.ring.world_size();
        if mine.floats().checked_mul(world_size) != Some(all.floats()) {
            return Err(CollectiveError::Counts {
                rank: self.ring.rank(),
                operation: Operation::AllGather,
                what: "floats, as many of each rank",
                expected: mine.floats().saturating_mul(world_size),
                found: all.floats(),
            });
        }
        self.operate(Operation::AllGather, |communicator| {
            communicator.all_gather(mine, all, Stream::DEFAULT)
        })
    }

    fn all_reduce(&mut self, data: DevicePointer) -> Result<(), CollectiveError> {
        self.operate(Operation::AllReduce, |communicator| {
            communicator.all_reduce(data, data, Stream::DEFAULT)
        })
    }
}
