//! The Redis queue on real servers, which the tests start, stop, wipe and cut off themselves.
//!
//! | module | what must hold |
//! |---|---|
//! | [`conforms`] | the suite of every queue, on each server that is installed |
//! | [`sharing`] | consumers share, die, are slow and leave; the newer of two dispatchers goes on |
//! | [`losses`] | content that vanishes, or comes back from an older copy, is noticed and filled again |
//! | [`faults`] | stalls, cut connections and strangers cost nothing |
//! | [`access`] | passwords, rights and certificates; servers that are not fit are refused |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod conforms;
mod faults;
mod losses;
mod server;
mod sharing;
