//! Jobs on a real Kubernetes control plane, whose pods run the programs that `make build` makes.
//!
//! | module | what must hold |
//! |---|---|
//! | [`whole`] | a job that is applied ends with the student that one machine makes, and says so on the way |

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod whole;
mod world;
