//! What each command does. Each returns the text that it prints.

pub mod budget;
pub mod gateway;
pub mod init;
pub mod ledger;
pub mod look;
pub mod run;
pub mod show;
pub mod validate;
