//! A teacher behind the Open Inference Protocol v2 (REST).

mod address;
mod connect;
mod http;

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Url, header};
use stillhouse_core::job::{Response, TeacherSpec};
use stillhouse_core::{ImageShape, SoftLabel};
use tokio::time::Instant;

pub use address::BearerToken;
pub use connect::ConnectError;

use crate::failure::{FailureKind, TeacherFailure};
use crate::teacher::{Answer, Attempt, Teacher, TeacherInfo};
use crate::tensor::Encoder;
use crate::wire::{InferResponse, Tensor};
use address::Address;
use connect::{Inquiry, MAX_ANSWER_BYTES, MAX_CLASSES, VALUE_BYTES};
use http::BodyError;

/// Most bytes of an answer around its values.
const FRAME_BYTES: usize = 64 * 1024;

/// Longest time spent on the text of a refusal, whose status is known already.
const CAUSE_DEADLINE: Duration = Duration::from_secs(2);

/// A model behind the Open Inference Protocol.
///
/// Proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`) are used, except for a teacher on this
/// machine.
pub struct OpenInference {
    client: Client,
    address: Address,
    infer: Url,
    token: Option<BearerToken>,
    deadline: Duration,
    response: Response,
    encoder: Encoder,
    shape: ImageShape,
    info: TeacherInfo,
    /// The teacher's own number, or that of its first answer.
    classes: OnceLock<usize>,
}

impl OpenInference {
    /// Asks the free endpoints of the teacher whether it can label images of `shape`, and says
    /// what is known of it.
    ///
    /// # Errors
    /// One [`ConnectError`] that names what was expected and what was found. Nothing was spent.
    pub async fn connect(spec: &TeacherSpec, shape: ImageShape) -> Result<(Self, TeacherInfo), ConnectError> {
        Self::connect_with(spec, shape, None).await
    }

    /// As [`OpenInference::connect`], with a `token` that every request carries.
    ///
    /// # Errors
    /// As [`OpenInference::connect`].
    pub async fn connect_with(
        spec: &TeacherSpec,
        shape: ImageShape,
        token: Option<BearerToken>,
    ) -> Result<(Self, TeacherInfo), ConnectError> {
        let address = Address::new(spec, token.as_ref())?;
        let deadline = Duration::from_secs_f64(spec.timeout_seconds);
        let client = http::client(&address, deadline).map_err(|error| ConnectError::Unreachable {
            address: address.to_string(),
            cause: http::chain(error),
        })?;
        let inquiry = Inquiry {
            client: &client,
            address: &address,
            token: token.as_ref(),
            deadline,
        };
        let info = inquiry.run(spec, shape).await?;
        let encoder = Encoder::new(&info.input, shape).expect("the layout was chosen for this shape");
        let client = Self {
            infer: address.model(&["infer"]),
            classes: info.classes.map(OnceLock::from).unwrap_or_default(),
            response: spec.response,
            client,
            address,
            token,
            deadline,
            encoder,
            shape,
            info: info.clone(),
        };
        Ok((client, info))
    }

    /// Sends `body`; 200 and everything after it is left to the caller.
    async fn post(
        &self,
        body: Vec<u8>,
        attempt: &Attempt,
        until: Instant,
    ) -> Result<reqwest::Response, TeacherFailure> {
        let request = connect::authorised(self.client.post(self.infer.clone()), self.token.as_ref())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header("X-Request-Id", &attempt.request_id)
            .body(body);
        let request = match &attempt.idempotency_key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        match tokio::time::timeout_at(until, request.send()).await {
            Err(_) => Err(self.late()),
            Ok(Err(error)) if error.is_connect() => Err(TeacherFailure::new(
                FailureKind::Unreachable,
                format!(
                    "the teacher at {} cannot be reached: {}",
                    self.address,
                    http::chain(error)
                ),
            )),
            Ok(Err(error)) => Err(self.lost(error)),
            Ok(Ok(response)) => match FailureKind::of_status(response.status().as_u16()) {
                None => Ok(response),
                Some(kind) => Err(self.refusal(kind, response, until).await),
            },
        }
    }

    async fn refusal(&self, kind: FailureKind, response: reqwest::Response, until: Instant) -> TeacherFailure {
        let retry_after = connect::retry_after(&response);
        let status = response.status();
        let until = until.min(Instant::now() + CAUSE_DEADLINE);
        let body = http::body(response, FRAME_BYTES, until).await.unwrap_or_default();
        let cause = self.address.excerpt(&connect::error_text(&body));
        let message = format!("the teacher answered {status}: {cause}");
        TeacherFailure {
            retry_after,
            ..TeacherFailure::new(kind, message.trim_end_matches(": "))
        }
    }

    /// The body of a 200.
    async fn receive(&self, response: reqwest::Response, n: usize, until: Instant) -> Result<Vec<u8>, TeacherFailure> {
        let classes = self.classes.get().copied().unwrap_or(MAX_CLASSES as usize);
        let limit = (n * classes * VALUE_BYTES).min(MAX_ANSWER_BYTES) + FRAME_BYTES;
        http::body(response, limit, until).await.map_err(|error| match error {
            BodyError::Late => self.late(),
            BodyError::Lost(error) => self.lost(error),
            BodyError::TooLong { limit } => malformed(format!("at most {limit} bytes"), "more"),
        })
    }

    /// The labels in the body of a 200.
    fn labels(&self, body: &[u8], n: usize) -> Result<Answer, TeacherFailure> {
        let answer: InferResponse =
            serde_json::from_slice(body).map_err(|error| malformed("an inference response in JSON", error))?;
        if let (Some(expected), Some(found)) = (&self.info.version, &answer.model_version)
            && !found.is_empty()
            && expected != found
        {
            return Err(malformed(
                format!("model version {expected}"),
                self.address.excerpt(found),
            ));
        }
        let output = answer
            .outputs
            .into_iter()
            .find(|output| output.name == self.info.output);
        let output = output.ok_or_else(|| malformed(format!("output {}", self.info.output), "none"))?;
        let classes = self.check_shape(&output, n)?;
        let label = |values: &[f32]| match self.response {
            Response::Probabilities => SoftLabel::from_probabilities(values.to_vec(), classes),
            Response::Logits => SoftLabel::from_logits(values, classes),
            Response::TopK(_) | Response::Label => unreachable!(),
        };
        Ok(output.data.0.chunks_exact(classes).map(label).collect())
    }

    /// The number of classes of `output`, which must hold `n` answers and as many values as it says.
    fn check_shape(&self, output: &Tensor, n: usize) -> Result<usize, TeacherFailure> {
        let known = self.classes.get().map(|classes| *classes as u64);
        let classes = match output.shape[..] {
            [rows, classes] if rows == n as u64 && known.is_none_or(|known| known == classes) => classes,
            _ => {
                let wanted = known.map_or("classes".to_owned(), |classes| classes.to_string());
                return Err(malformed(
                    format!("shape [{n}, {wanted}]"),
                    format!("{:?}", output.shape),
                ));
            }
        };
        if !(2..=MAX_CLASSES as u64).contains(&classes) {
            return Err(malformed(format!("2 to {MAX_CLASSES} classes"), classes));
        }
        let (expected, found) = (n * classes as usize, output.data.0.len());
        if expected != found {
            return Err(malformed(format!("{expected} values"), found));
        }
        Ok(*self.classes.get_or_init(|| classes as usize))
    }

    fn late(&self) -> TeacherFailure {
        TeacherFailure::new(
            FailureKind::Deadline,
            format!("the teacher gave no whole answer within {:?}", self.deadline),
        )
    }

    fn lost(&self, error: reqwest::Error) -> TeacherFailure {
        let message = format!(
            "the connection to the teacher was lost after the request began: {}",
            http::chain(error)
        );
        TeacherFailure::new(FailureKind::Lost, message)
    }
}

fn malformed(expected: impl std::fmt::Display, found: impl std::fmt::Display) -> TeacherFailure {
    let message = format!("the teacher's answer is not usable: expected {expected}, found {found}");
    TeacherFailure::new(FailureKind::Malformed, message)
}

#[async_trait]
impl Teacher for OpenInference {
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure> {
        assert!(
            n > 0 && images.len() == n * self.shape.len(),
            "{n} images of {}",
            self.shape
        );
        let body = self.encoder.encode(images, n);
        let until = Instant::now() + self.deadline;
        let response = self.post(body, attempt, until).await?;
        let body = self.receive(response, n, until).await?;
        self.labels(&body, n)
    }

    fn info(&self) -> &TeacherInfo {
        &self.info
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use stillhouse_core::job::{Protocol, TeacherSpec};

    pub(crate) fn spec(url: &str) -> TeacherSpec {
        TeacherSpec::new(Protocol::OpenInference, url, "lenet5")
    }
}
