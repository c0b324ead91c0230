//! What each command does. Each returns the text that it prints.

pub mod budget;
pub mod chaos;
pub mod cluster;
pub mod gateway;
pub mod history;
pub mod init;
pub mod ledger;
pub mod look;
pub mod run;
pub mod show;
pub mod validate;

use crate::failure::{Failure, Kind};

/// What asynchronous commands run on.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Kind::Internal, error).context("cannot start"))
}
