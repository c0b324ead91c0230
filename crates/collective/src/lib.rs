//! How ranks add gradients: local, ring, NCCL.
//!
//! A *world* is a fixed set of ranks `0..world_size`. Every rank calls the same operations in the
//! same order with the same sizes; each call returns once this rank holds the result. Losing any
//! member ends the world: the survivors get an error at once, and a new world (with a new group
//! number) is built from those that are left.
//!
//! Modules in reading order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`collective`] | the trait: all-gather, all-reduce, broadcast, barrier |
//! | [`local`] | a world of one |
//! | [`ring`] | a world of processes joined by TCP, each to the next |
//! | [`nccl`] | such a ring whose ranks have cards, which add up without it |
//! | [`abort`] | ends a ring from another thread |
//! | [`error`] | what can go wrong, and with whom |
//! | [`conformance`] | the suite that every implementation passes |

pub mod abort;
pub mod collective;
pub mod conformance;
pub mod error;
pub mod local;
pub mod nccl;
pub mod ring;

pub use abort::AbortHandle;
pub use collective::{CardCollective, Collective, MAX_BROADCAST_BYTES};
pub use error::{CardError, CollectiveError, Operation};
pub use local::Local;
pub use nccl::{Card, CardRing};
pub use nccl_rs::DevicePointer;
pub use ring::{GroupId, Membership, Ring, RingListener, Seal, SealError};
