//! The only durable truth of a job: permits and labels, and the journal of what was done.
//!
//! | module | what it is |
//! |---|---|
//! | [`permit`] | the permit protocol as a pure state machine |
//! | [`store`] | how records become bytes in a redb file |
//! | [`writer`] | the one thread that writes: many requests, one fsync |
//! | [`error`] | what can go wrong |
//!
//! [`Ledger`] is a handle to that thread. Every write returns after fsync. Invariants: billed
//! queries never exceed the budget (I1); nothing may be sent before [`Ledger::mark_sent`] returned
//! (I2); a label survives any crash once [`Ledger::commit`] returned (I3); reports of an earlier
//! life change nothing but may still bring a label that was paid for (I5).

pub mod error;
pub mod permit;
pub mod store;
pub mod writer;

mod handle;

#[cfg(test)]
mod random_schedules;

pub use error::LedgerError;
pub use handle::{Admission, Entry, Genesis, Ledger, Request};
pub use permit::{Categories, Counts, OnAmbiguous, Permit, Proof, State};
