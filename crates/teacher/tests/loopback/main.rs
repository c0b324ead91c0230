//! Client and server over loopback: with each other, and the client against raw hostile servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod docs;
mod hostile;
mod raw;
mod spoken;
mod tls;
mod ways;
