//! Speaks to black boxes and classifies their failures.
//!
//! Modules in reading order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`teacher`] | the [`Teacher`] trait: one request, one attempt, labels or a classified failure |
//! | [`failure`] | what a failure means for the bill: not sent, refused, billed, ambiguous |
//! | [`tensor`] | how images are laid out and encoded for a teacher |
//! | [`wire`] | messages of the Open Inference Protocol v2 (REST) |
//! | [`client`] | [`OpenInference`]: a teacher behind that protocol |
//! | [`server`] | the other end: serves any prediction function behind that protocol |
//! | [`bill`] | the server's own account of what it answered |
//!
//! Nothing here retries, follows a redirect or reuses a connection: one call of
//! [`Teacher::infer`] is at most one request on the wire.

pub mod bill;
pub mod client;
pub mod failure;
pub mod server;
pub mod teacher;
pub mod tensor;
pub mod wire;

pub use bill::BillFile;
pub use client::{BearerToken, ConnectError, OpenInference};
pub use failure::{Billing, FailureKind, TeacherFailure};
pub use server::{ModelServer, Pixels, Predict, serve};
pub use teacher::{Answer, Attempt, Teacher, TeacherInfo};
pub use tensor::{Datatype, InputTensor, Layout};
