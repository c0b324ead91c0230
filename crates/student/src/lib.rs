//! Students: networks, training and export, over libtorch.
//!
//! Modules in reading order:
//!
//! | module | what |
//! |---|---|
//! | [`zoo`] | the networks of the papers |
//! | [`device`] | the processor, or a card |
//! | [`network`] | a student: architecture or TorchScript module, weights in one flat buffer |
//! | [`train`] | data-parallel training, bit-identical for any number of ranks and threads |
//! | [`scoring`] | acquisition scores of candidates |
//! | [`cvae`] | images from a conditional VAE |
//! | [`frozen`] | a student compiled for inference |
//! | [`export`] | TorchScript for use elsewhere |
//! | [`error`] | what can go wrong |
//!
//! All `unsafe` code is in `ffi`, over a C++ shim for what tch leaves out of libtorch.

pub mod cvae;
pub mod device;
pub mod error;
pub mod export;
mod ffi;
pub mod frozen;
mod graph;
pub mod network;
mod operators;
pub mod scoring;
mod script;
mod spec;
pub mod train;
mod weights;
pub mod zoo;

pub use error::StudentError;
pub use ffi::{InferenceMode, compute_alone, tune_allocator};
pub use frozen::Frozen;
pub use network::{Head, Mode, Network, NetworkSpec, unit_pixels};
