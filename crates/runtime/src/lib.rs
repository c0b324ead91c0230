//! Process plumbing: signals, supervision, framed links.
//!
//! Nothing here knows what a job is; the roles are made of these parts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`secret`] | the job's shared secret, never printed |
//! | [`link`] | authenticated TCP links that carry bounded frames |
//! | [`supervise`] | keeps child processes alive, and ends them with their parent |
//! | [`process`] | processes that are never taken for another one |
//! | [`signals`] | the first signal drains, the second aborts |
//! | [`logging`] | where log lines go |
//! | [`atomic_file`] | replaces a file whole or not at all |
//! | [`exit_code`] | what a process says by its exit status |

pub mod atomic_file;
pub mod exit_code;
pub mod link;
pub mod logging;
pub mod process;
pub mod secret;
pub mod signals;
pub mod supervise;

mod ffi;

pub use link::{Connection, FrameReceiver, FrameSender, LinkError, Listener};
pub use secret::Secret;
pub use signals::Shutdown;
pub use supervise::{Child, Event, RestartPolicy, Supervisor};
