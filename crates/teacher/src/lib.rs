//! Speaks to black boxes and classifies their failures.
//!
//! Modules in reading order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`teacher`] | the [`Teacher`] trait: one request, one attempt, labels or a classified failure |
//! | [`failure`] | what a failure means for the bill: not sent, refused, billed, ambiguous |
//! | [`client`] | [`connect`]: teachers behind the Open Inference Protocol (HTTP, gRPC), chat completions, and JSON |
//! | [`tensor`] | how images are laid out and encoded for a teacher |
//! | [`wire`], [`binary`], [`proto`] | messages of the Open Inference Protocol v2: JSON, raw tensors after it, protobuf |
//! | [`server`] | the other end: serves any prediction function behind that protocol |
//! | [`bill`], [`invoice`] | the server's own account of what it answered |
//!
//! Nothing here retries or follows a redirect: one call of [`Teacher::infer`] is at most one
//! request on the wire. Connections are kept for a second; `client/http.rs` says why that is safe.

pub mod bill;
pub mod binary;
pub mod client;
pub mod failure;
pub mod invoice;
pub mod proto;
pub mod server;
pub mod teacher;
pub mod tensor;
pub mod wire;

pub use bill::BillFile;
pub use client::{ConnectError, JsonTeacher, OpenAi, OpenInference, OpenInferenceGrpc, connect};
pub use failure::{Billing, FailureKind, TeacherFailure};
pub use invoice::{InvoiceFile, InvoiceLine};
pub use server::{Books, Host, ModelServer, Pixels, Predict, serve};
pub use teacher::{Answer, Attempt, Teacher, TeacherInfo};
pub use tensor::{Datatype, InputTensor, Layout};
