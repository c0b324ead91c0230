//! NCCL, opened at run time: communicators whose waits have deadlines, that can be aborted from
//! another thread and shrunk when a rank is lost.
//!
//! Nothing is linked: a program with this crate builds and starts where there is no NCCL, and
//! [`Nccl::open`] says so there. Memory and streams are the caller's ([`DevicePointer`], [`Stream`]),
//! so that tensors of any framework are used where they lie.
//!
//! ```no_run
//! use std::time::Duration;
//! use nccl_rs::{Communicator, Nccl, Place};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nccl = Nccl::open()?;
//! let id = nccl.unique_id()?; // one rank's, sent to the others
//! let place = Place { rank: 0, world_size: 2 };
//! let communicator = Communicator::join(nccl, place, &id, Duration::from_secs(60))?;
//! let cuda = nccl_rs::cuda::Cuda::open()?;
//! let (sums, stream) = (cuda.floats(1000)?, cuda.stream()?);
//! communicator.all_reduce(sums.pointer(), sums.pointer(), stream.stream())?;
//! communicator.wait("all-reduce", || stream.is_done().map_err(|error| error.to_string()))?;
//! communicator.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What has been run
//! Against NCCL 2.32.3 on a machine without a card: opening, version, unique ids, error texts, the
//! layout of the configuration, and the refusal to join without a card. **Not run so far**, for want
//! of a card: joining with success, every collective operation, waiting, abort, shrink, finishing.
//! Tests of these are in `tests/gpu.rs`; they say `skipped:` without a card. Several ranks on one card
//! need `NCCL_MULTI_RANK_GPU_ENABLE=1`.

mod communicator;
pub mod cuda;
mod error;
mod ffi;
mod library;

pub use communicator::{AbortHandle, Communicator, Unfinished};
pub use error::{Cause, NcclError, OpenError, Place};
pub use ffi::{DevicePointer, Stream};
pub use library::{Nccl, PATH_VARIABLE, UniqueId, Version};
