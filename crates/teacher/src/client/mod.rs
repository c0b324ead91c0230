//! Teachers behind endpoints.
//!
//! | module | what it holds |
//! |---|---|
//! | [`connect`] | from a job's teacher to a [`Teacher`], whatever its protocol |
//! | `http` | one HTTP exchange, classified |
//! | `address`, `credential` | where a teacher is, and the secret that it wants |
//! | `model`, `reading` | what an Open Inference model declares, and how its outputs become labels |
//! | `open_inference`, `grpc` | that protocol over HTTP and over gRPC |
//! | `openai` | chat completions |
//! | `json` | JSON as the job describes it |

mod address;
mod credential;
mod error;
mod grpc;
mod http;
mod json;
mod model;
mod open_inference;
mod openai;
mod picture;
mod reading;

use std::sync::Arc;

use stillhouse_core::job::{Protocol, Response, TeacherSpec};
use stillhouse_core::{Fingerprint, ImageShape};

pub use error::ConnectError;
pub use grpc::OpenInferenceGrpc;
pub use json::JsonTeacher;
pub use open_inference::OpenInference;
pub use openai::OpenAi;

use crate::teacher::{Teacher, TeacherInfo};

/// Most classes of a teacher, as in the job file.
const MAX_CLASSES: usize = 100_000;

/// Asks the free endpoints of the teacher of `spec` whether it can label images of `shape`, and
/// says what is known of it. `classes` is the job's number of classes, where it has one; paths in
/// `spec` begin at the current folder.
///
/// # Errors
/// One [`ConnectError`] that names what was expected and what was found. Nothing was spent.
pub async fn connect(
    spec: &TeacherSpec,
    shape: ImageShape,
    classes: Option<u32>,
) -> Result<(Arc<dyn Teacher>, TeacherInfo), ConnectError> {
    let teacher: Arc<dyn Teacher> = match spec.protocol {
        Protocol::OpenInference => Arc::new(OpenInference::connect(spec, shape, classes).await?),
        Protocol::OpenInferenceGrpc => Arc::new(OpenInferenceGrpc::connect(spec, shape, classes).await?),
        Protocol::Openai => Arc::new(OpenAi::connect(spec, shape).await?),
        Protocol::Json => Arc::new(JsonTeacher::connect(spec, shape, classes)?),
    };
    let info = teacher.info().clone();
    Ok((teacher, info))
}

/// The number of classes that the job says, by names or as a number.
fn said_classes(spec: &TeacherSpec, classes: Option<u32>) -> Option<usize> {
    match spec.class_names.len() {
        0 => classes.map(|classes| classes as usize),
        names => Some(names),
    }
}

/// The fingerprint of the teacher of `spec`: its declared name, else `parts`, which say all that
/// is known of what makes its answers.
fn fingerprint(spec: &TeacherSpec, parts: &[&str]) -> Fingerprint {
    match &spec.fingerprint {
        Some(name) => Fingerprint::of(&["declared", name, &response_name(spec.response)]),
        None => Fingerprint::of(parts),
    }
}

/// A response in a fingerprint.
fn response_name(response: Response) -> String {
    response.to_string()
}

/// # Panics
/// When `images` are not `n` images of `shape`.
fn check_images(images: &[u8], n: usize, shape: ImageShape) {
    assert!(n > 0 && images.len() == n * shape.len(), "{n} images of {shape}");
}
