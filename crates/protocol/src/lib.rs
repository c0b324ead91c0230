//! The verbs of Stillhouse: who does what next. Pure: no clock, thread, file or socket; time is an
//! argument, effects are returned.
//!
//! | module | what it is |
//! |---|---|
//! | [`history`] | what a job has durably done, and the one step that follows from it |
//! | [`coordinator`] | the state machine that gets that step done by workers that come and go |
//! | [`effects`] | what goes into that state machine and what comes out |
//! | [`selecting`] | one exact query batch from scored shards |
//! | [`message`] | what coordinator and workers say to each other |
//! | [`codec`] | how messages become bytes |
//! | `compact` | how a histogram does |
//! | `fault` | rules that tests break on purpose |

pub mod codec;
mod compact;
pub mod coordinator;
pub mod effects;
mod fault;
pub mod history;
pub mod message;
pub mod selecting;
mod twins;
mod wave;

pub use coordinator::{Action, Coordinator, Durable, Effects, Event, JobFailure, Occupation, Settings};
pub use history::{
    AskOutcome, CompareOutcome, GenerateOutcome, History, Measurement, Selection, Step, StopReason, Student,
    TrainOutcome, Transition,
};
pub use message::{Fence, FromWorker, Report, ToWorker, WorkerId};

#[cfg(test)]
mod choices;
#[cfg(test)]
mod random_schedules;
