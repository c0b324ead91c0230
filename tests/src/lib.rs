//! What the whole-system tests in `tests/` are made of: they drive the built programs as processes.
//!
//! | module | what it is |
//! |---|---|
//! | [`teacher`] | a deterministic teacher with a bill and faults |
//! | [`jobs`] | small job files on real digits |
//! | [`processes`] | programs as child processes: start, watch, kill |
//! | [`outcomes`] | what a job left in its directory |

pub mod jobs;
pub mod outcomes;
pub mod processes;
pub mod teacher;
