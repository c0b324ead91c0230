//! Every metric family of every role, and how they are served to Prometheus.
//!
//! | module | what it is |
//! |---|---|
//! | [`families`] | all names, with what they mean, in one place |
//! | [`buckets`] | the buckets of histograms |
//! | [`mod@page`] | `docs/metrics.md` |
//! | [`serve`] | `GET /metrics` |
//!
//! A role's families are one structure that is made when the role first uses it ([`coordinator`] and so on),
//! so a process shows those of its own roles only. They belong to the process, as its memory and its
//! threads do: a counter counts since the process started.
//!
//! No label has an unbounded set of values: none is taken from the job file, the network or a file, except for
//! the names in the two `info` families, of which there is one series each.

pub mod buckets;
pub mod families;
mod make;
pub mod page;
pub mod serve;

pub use families::{Coordinator, Desk, Gateway, LedgerWriter, Operator, Process, Queue, TeacherServer, Worker};
pub use families::{coordinator, desk, gateway, ledger, operator, process, queue, teacher_server, worker};
