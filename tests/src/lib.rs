//! What the whole-system tests in `tests/` are made of: they drive the built programs as processes.
//!
//! | module | what it is |
//! |---|---|
//! | [`teacher`] | a deterministic teacher with a bill and faults |
//! | [`jobs`] | small job files on real digits |
//! | [`processes`] | programs as child processes: start, watch, kill |
//! | [`outcomes`] | what a job left in its directory |
//! | [`ports`] | ports that programs keep over many lives |
//! | [`mortal`] | programs that are killed, stopped and started again |
//! | [`collector`] | a collector of traces that keeps what it is sent |
//! | [`prometheus`] | a real Prometheus, and the panels that it must answer |
//! | [`proxy`] | a TCP proxy that cuts and stalls |
//! | [`redis`] | a Redis server whose data can be lost |
//! | [`object_store`] | a server that speaks S3 |
//! | [`kubernetes`] | a real control plane, and nodes that run pods as processes |
//! | [`ordeal`] | whole jobs under random blows, and what must hold all the same |

pub mod collector;
pub mod jobs;
pub mod kubernetes;
pub mod mortal;
pub mod object_store;
pub mod ordeal;
pub mod outcomes;
pub mod ports;
pub mod processes;
pub mod prometheus;
pub mod proxy;
pub mod redis;
pub mod teacher;
