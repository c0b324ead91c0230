//! The only durable truth of a job: permits and labels, and the journal of what was done.
//!
//! | module | what it is |
//! |---|---|
//! | [`permit`] | the words of the permit protocol |
//! | [`book`] | its rules, as a pure state machine |
//! | [`counts`] | sums of its charges, for the budget |
//! | `codec`, `frame` | records and changes as bytes |
//! | `lock`, `store` | the file: an append-only log, one process writes it |
//! | `replay`, `compact` | reading it, and writing it anew |
//! | `writer` | the one thread that writes: many requests, one fsync |
//! | `handle` | [`Ledger`], by which everybody else speaks to that thread |
//! | `reader` | [`Reader`], for a job that is not running |
//! | [`audit`] | everything that is wrong with a ledger |
//! | [`witness`] | whether what a ledger once held it still holds |
//! | [`error`] | what can go wrong |
//!
//! Every write returns after fsync. Invariants: billed queries never exceed the budget (I1); nothing
//! may be sent before [`Ledger::mark_sent`] returned (I2); a label survives any crash once
//! [`Ledger::commit`] returned (I3); reports of an earlier life, or of a request that did not send,
//! change nothing but may still bring a label that was paid for (I5).

pub mod audit;
pub mod book;
pub mod counts;
pub mod error;
pub mod permit;
pub mod witness;

mod codec;
mod compact;
mod frame;
mod handle;
mod lock;
mod reader;
mod replay;
mod store;
mod writer;

pub use audit::{Audit, Finding};
pub use counts::{Categories, Counts};
pub use error::LedgerError;
pub use handle::{Admission, Entry, Genesis, Ledger, MAX_ENTRY_BYTES, Request};
pub use permit::{Cause, Charge, OnAmbiguous, Permit, Proof, RequestId, State};
pub use reader::Reader;
pub use store::{Head, file};
pub use witness::{Sight, Witness};
