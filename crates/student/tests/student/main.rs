//! One binary for all tests of this crate that need libtorch and more than one module.

mod determinism;
mod digits;
mod exported;
mod failures;
mod gradient;
mod script;
mod weights;
mod world;
