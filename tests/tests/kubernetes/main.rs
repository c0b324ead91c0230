//! Jobs on a real Kubernetes control plane, whose pods run the programs that `make build` makes.
//!
//! | module | what must hold |
//! |---|---|
//! | [`blows`] | what a cluster does to a job changes neither its queries nor its student |
//! | [`commands`] | what a user does with `stillhouse` alone |
//! | [`kueue`] | the real Kueue lets jobs in and takes their workers back, and the operator does not fight it |
//! | [`refused`] | bad jobs are refused with a sentence, and a job that waits says for what |
//! | [`rights`] | the operator's roles hold exactly the rights that it uses |
//! | [`whole`] | a job that is applied ends with the student that one machine makes, and says so on the way |

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod blows;
mod commands;
mod kueue;
mod refused;
mod rights;
mod whole;
mod world;
