//! What is asked and checked before anything is spent.

use std::time::{Duration, SystemTime};

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use stillhouse_core::job::{Response, TeacherSpec};
use stillhouse_core::{Fingerprint, ImageShape};
use tokio::time::Instant;

use super::address::{Address, BearerToken};
use super::http;
use crate::teacher::TeacherInfo;
use crate::tensor::{Datatype, InputTensor, Layout};
use crate::wire::{self, ModelConfig, ModelMetadata, ModelReady, TensorMetadata};

/// Why a teacher cannot be used. Nothing was spent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection, or no whole answer in time.
    #[error("the teacher at {address} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// It is there, but not ready yet.
    #[error("the teacher at {address} is not ready: {cause}")]
    NotReady {
        /// Where.
        address: String,
        /// Its answer.
        cause: String,
    },
    /// It refuses us, or knows no such model.
    #[error("the teacher at {address} answered {status} to {path}: {cause}")]
    Refused {
        /// Where.
        address: String,
        /// HTTP status.
        status: u16,
        /// What was asked.
        path: String,
        /// Its answer.
        cause: String,
    },
    /// The job and the teacher do not fit.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// What the job or the protocol needs.
        expected: String,
        /// What the teacher says.
        found: String,
    },
}

impl ConnectError {
    /// Whether the same attempt would fail again: somebody has to mend the job or the teacher.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Mismatch { .. })
    }
}

/// Most classes of a teacher, as in the job file.
pub(super) const MAX_CLASSES: i64 = 100_000;

/// Most bytes of an answer that one value takes, white space and brackets included.
pub(super) const VALUE_BYTES: usize = 64;

/// Most bytes of any answer: 4,096 images of 1,000 classes.
pub(super) const MAX_ANSWER_BYTES: usize = 4096 * 1000 * VALUE_BYTES;

/// Most bytes of an answer about a model.
const ANSWER_BYTES: usize = 1 << 20;

/// Asks the free endpoints of one teacher.
pub(super) struct Inquiry<'a> {
    pub(super) client: &'a Client,
    pub(super) address: &'a Address,
    pub(super) token: Option<&'a BearerToken>,
    pub(super) deadline: Duration,
}

impl Inquiry<'_> {
    /// Ready, model, its shape, its limits.
    pub(super) async fn run(&self, spec: &TeacherSpec, shape: ImageShape) -> Result<TeacherInfo, ConnectError> {
        let ready = self.address.server(&["health", "ready"]);
        let (status, body) = self.get(&ready).await?;
        if status != StatusCode::OK {
            return Err(self.unusable(&ready, status, &body));
        }
        let path = self.address.model(&[]);
        let (status, body) = self.get(&path).await?;
        if status != StatusCode::OK {
            return Err(self.unusable(&path, status, &body));
        }
        let metadata: ModelMetadata = parse("the model's metadata", &body)?;
        let info = describe(spec, shape, &metadata)?;
        self.check_model_ready().await?;
        let max_batch = self.max_batch().await?;
        Ok(TeacherInfo { max_batch, ..info })
    }

    /// A model that is loading answers 200 with `ready: false`, or something else than 200.
    async fn check_model_ready(&self) -> Result<(), ConnectError> {
        let path = self.address.model(&["ready"]);
        let (status, body) = self.get(&path).await?;
        let says_no = serde_json::from_slice::<ModelReady>(&body).is_ok_and(|model| !model.ready);
        if status != StatusCode::OK || says_no {
            return Err(self.unusable(&path, status, &body));
        }
        Ok(())
    }

    /// The limit, where the server speaks the model configuration extension.
    async fn max_batch(&self) -> Result<Option<u32>, ConnectError> {
        let (status, body) = self.get(&self.address.model(&["config"])).await?;
        let config = serde_json::from_slice::<ModelConfig>(&body).ok();
        let config = config.filter(|_| status == StatusCode::OK);
        Ok(config
            .and_then(|config| u32::try_from(config.max_batch_size).ok())
            .filter(|max| *max > 0))
    }

    async fn get(&self, url: &Url) -> Result<(StatusCode, Vec<u8>), ConnectError> {
        let unreachable = |cause| ConnectError::Unreachable {
            address: self.address.to_string(),
            cause,
        };
        let late = || unreachable(format!("no answer within {:?}", self.deadline));
        let until = Instant::now() + self.deadline;
        let request = authorised(self.client.get(url.clone()), self.token);
        let response = tokio::time::timeout_at(until, request.send())
            .await
            .map_err(|_| late())?
            .map_err(|error| unreachable(http::chain(error)))?;
        let status = response.status();
        match http::body(response, ANSWER_BYTES, until).await {
            Ok(body) => Ok((status, body)),
            Err(http::BodyError::Late) => Err(late()),
            Err(http::BodyError::Lost(error)) => Err(unreachable(http::chain(error))),
            Err(http::BodyError::TooLong { limit }) => Err(unreachable(format!("an answer above {limit} bytes"))),
        }
    }

    /// Not ready where waiting may help (busy, failing, or 200 that says no), else refused.
    fn unusable(&self, url: &Url, status: StatusCode, body: &[u8]) -> ConnectError {
        let address = self.address.to_string();
        let cause = self.cause(body);
        let waiting = status.is_success() || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        if waiting {
            let path = url.path();
            let cause = format!("{status} to {path}: {cause}");
            return ConnectError::NotReady { address, cause };
        }
        ConnectError::Refused {
            address,
            status: status.as_u16(),
            path: url.path().to_owned(),
            cause,
        }
    }

    fn cause(&self, body: &[u8]) -> String {
        self.address.excerpt(&error_text(body))
    }
}

pub(super) fn authorised(request: RequestBuilder, token: Option<&BearerToken>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(&token.0),
        None => request,
    }
}

/// What an error body says: its `error` where it is the protocol's, else all of it.
pub(super) fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<wire::ErrorMessage>(body) {
        Ok(message) => message.error,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned(),
    }
}

/// Whether `now` a `Retry-After` of `response` asks for a wait.
pub(super) fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?;
    crate::failure::parse_retry_after(value.to_str().ok()?, SystemTime::now())
}

fn parse<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, ConnectError> {
    serde_json::from_slice(body).map_err(|error| ConnectError::Mismatch {
        what,
        expected: "JSON of the Open Inference Protocol v2".into(),
        found: error.to_string(),
    })
}

/// What `metadata` says about the teacher of `spec`, checked against images of `shape`.
fn describe(spec: &TeacherSpec, shape: ImageShape, metadata: &ModelMetadata) -> Result<TeacherInfo, ConnectError> {
    let version = version(spec, metadata)?;
    let input = input(only("the model's inputs", &metadata.inputs)?, shape)?;
    let output = only("the model's outputs", &metadata.outputs)?;
    let classes = classes(spec.response, output)?;
    check_answer_size(spec.batch_size(), classes)?;
    let fingerprint = Fingerprint::of(&[
        "open-inference",
        &spec.model,
        version.as_deref().unwrap_or_default(),
        wire::output_name(spec.response),
        input.datatype.name(),
        input.layout.name(),
    ]);
    Ok(TeacherInfo {
        classes,
        input,
        output: output.name.clone(),
        version,
        fingerprint,
        max_batch: None,
    })
}

/// The version that answers: the job's, or the only one there is. With several, the server would
/// choose, and could choose another one tomorrow.
fn version(spec: &TeacherSpec, metadata: &ModelMetadata) -> Result<Option<String>, ConnectError> {
    let versions = metadata.versions.as_deref().unwrap_or_default();
    let mismatch = |expected: String| ConnectError::Mismatch {
        what: "the model's versions",
        expected,
        found: versions.join(", "),
    };
    match (&spec.version, versions) {
        (Some(wanted), []) => Ok(Some(wanted.clone())),
        (Some(wanted), _) if versions.contains(wanted) => Ok(Some(wanted.clone())),
        (Some(wanted), _) => Err(mismatch(wanted.clone())),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only.clone())),
        (None, _) => Err(mismatch("one, or one named in spec.teacher.version".into())),
    }
}

fn only<'a>(what: &'static str, tensors: &'a [TensorMetadata]) -> Result<&'a TensorMetadata, ConnectError> {
    match tensors {
        [tensor] => Ok(tensor),
        _ => Err(ConnectError::Mismatch {
            what,
            expected: "exactly one tensor".into(),
            found: format!("{}", tensors.len()),
        }),
    }
}

fn input(tensor: &TensorMetadata, shape: ImageShape) -> Result<InputTensor, ConnectError> {
    let datatype = Datatype::from_name(&tensor.datatype).ok_or_else(|| ConnectError::Mismatch {
        what: "the datatype of the model's input",
        expected: "UINT8 or FP32".into(),
        found: tensor.datatype.clone(),
    })?;
    let layout = Layout::matching(&tensor.shape, shape).ok_or_else(|| ConnectError::Mismatch {
        what: "the shape of the model's input",
        expected: format!(
            "batches of {shape} images, such as [-1, {}, {}, {}]",
            shape.channels, shape.height, shape.width
        ),
        found: format!("{:?}", tensor.shape),
    })?;
    Ok(InputTensor {
        name: tensor.name.clone(),
        datatype,
        layout,
        shape: tensor.shape.clone(),
    })
}

/// The number of classes, where the output `[-1, classes]` says it.
fn classes(response: Response, output: &TensorMetadata) -> Result<Option<usize>, ConnectError> {
    let other = match response {
        Response::Probabilities => Response::Logits,
        Response::Logits => Response::Probabilities,
        Response::TopK(_) | Response::Label => unreachable!(),
    };
    if output.name == wire::output_name(other) {
        return Err(ConnectError::Mismatch {
            what: "the model's output",
            expected: format!("{} (spec.teacher.response)", wire::output_name(response)),
            found: output.name.clone(),
        });
    }
    match output.shape[..] {
        [-1, -1] => Ok(None),
        [-1, classes @ 2..=MAX_CLASSES] => Ok(Some(classes as usize)),
        _ => Err(ConnectError::Mismatch {
            what: "the shape of the model's output",
            expected: format!("[-1, classes] with 2 to {MAX_CLASSES} classes"),
            found: format!("{:?}", output.shape),
        }),
    }
}

/// A batch whose answer would be too long to read is refused while it is free.
fn check_answer_size(batch: u32, classes: Option<usize>) -> Result<(), ConnectError> {
    let most = MAX_ANSWER_BYTES / (classes.unwrap_or(1) * VALUE_BYTES);
    if batch as usize <= most {
        return Ok(());
    }
    Err(ConnectError::Mismatch {
        what: "spec.teacher.batch",
        expected: format!("at most {most} images for {} classes", classes.unwrap_or_default()),
        found: batch.to_string(),
    })
}
