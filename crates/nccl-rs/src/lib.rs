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
//! On one H100 with NCCL 2.32.3 and CUDA runtime 13.0, two and three ranks sharing the card
//! (`NCCL_MULTI_RANK_GPU_ENABLE=1`): everything in `tests/gpu.rs`, which says `skipped:` without a card.
//! Without a card: opening, version, unique ids, error texts, the layout of the configuration, the
//! refusal to join, and what the library logs of it ([`log`]); deadlines, asynchronous errors, abort, shrink and finishing against a library that
//! plays NCCL's part (`tests/fake_nccl.c`).
//!
//! **Not run so far**: several cards, several hosts.
//!
//! `scripts/nccl.sh` installs both libraries for the tests, which otherwise open what `STILLHOUSE_NCCL`
//! and `STILLHOUSE_CUDART` name; with `STILLHOUSE_EXPECT_NCCL` set they fail rather than be skipped for
//! want of a library.

mod communicator;
pub mod cuda;
mod error;
mod ffi;
mod library;
pub mod log;

pub use communicator::{AbortHandle, Communicator, Unfinished};
pub use error::{Cause, NcclError, OpenError, Place};
pub use ffi::{DevicePointer, Stream};
pub use library::{Nccl, PATH_VARIABLE, UniqueId, Version};
