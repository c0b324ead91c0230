//! One binary for all tests of this crate that need libtorch and more than one module.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod branches;
mod determinism;
mod digits;
mod elastic;
mod exported;
mod failures;
mod gradient;
mod script;
mod weights;
mod world;
