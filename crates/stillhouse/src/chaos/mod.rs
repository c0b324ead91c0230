//! Disturbing a running job on purpose, and what it came to: `stillhouse chaos`.
//!
//! | module | what it is |
//! |---|---|
//! | [`schedule`] | which blows fall when: a function of the seed |
//! | [`order`] | how a coordinator is asked to cut or slow one of its links |
//! | [`lines`] | the coordinator's side of that |
//! | [`log`] | what the job says of itself, as it happens |
//! | [`quarry`] | the processes of the job, and nobody else's |
//! | [`undo`] | whatever was stopped goes on, whatever becomes of who stopped it |
//! | [`life`] | the job as a child that is started again |
//! | [`trial`] | blow after blow, until the job ends |
//! | [`cost`] | what each blow cost |
//! | [`reckon`] | what must hold all the same |
//! | [`twin`] | the same job, unharmed |
//! | [`report`] | all of that, for people and programs |
//!
//! What is struck is a process, by SIGKILL or SIGSTOP, or a link, by the coordinator that holds its reins. The first needs
//! the right to signal the process, the second the job's token and a coordinator that was started with `--chaos`.

pub mod cost;
pub mod life;
pub mod lines;
pub mod log;
pub mod order;
pub mod quarry;
pub mod reckon;
pub mod report;
pub mod schedule;
pub mod trial;
pub mod twin;
pub mod undo;
