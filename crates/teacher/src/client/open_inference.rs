//! A teacher behind the Open Inference Protocol v2 over HTTP, with JSON or binary tensors.

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;
use stillhouse_core::ImageShape;
use stillhouse_core::job::{Encoding, TeacherSpec};

use super::error::mismatch;
use super::http::{Endpoint, Http, malformed};
use super::model::{self, Plan};
use super::{ConnectError, check_images};
use crate::binary;
use crate::failure::TeacherFailure;
use crate::teacher::{Answer, Attempt, Teacher, TeacherInfo};
use crate::tensor::{Encoder, InputTensor};
use crate::wire::{InferResponse, ModelConfig, ModelMetadata, ModelReady, ServerMetadata};

/// A model behind the Open Inference Protocol over HTTP.
pub struct OpenInference {
    endpoint: Endpoint,
    infer: Url,
    plan: Plan,
    encoder: Encoder,
    binary: bool,
    shape: ImageShape,
    /// The end of a request in JSON: which outputs are wanted, and how.
    wanted: String,
}

impl OpenInference {
    /// As [`connect`](super::connect), for this protocol.
    ///
    /// # Errors
    /// As [`connect`](super::connect).
    pub async fn connect(spec: &TeacherSpec, shape: ImageShape, classes: Option<u32>) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::new(spec, Http::One)?;
        let inquiry = Inquiry {
            endpoint: &endpoint,
            spec,
        };
        let ready = inquiry.server(&["health", "ready"]);
        inquiry.ask_ready(&ready).await?;
        let metadata: ModelMetadata = inquiry.ask("the model's metadata", &inquiry.model(&[])).await?;
        let extensions = inquiry.extensions().await?;
        inquiry.check_model_ready().await?;
        let max_batch = inquiry.max_batch().await?;
        let plan = model::plan(spec, shape, classes, &metadata, &extensions, max_batch)?;
        let listed = extensions.iter().any(|name| name == binary::EXTENSION);
        let binary = match spec.encoding {
            Encoding::Auto => listed,
            Encoding::Json => false,
            Encoding::Binary if listed => true,
            Encoding::Binary => {
                let expected = format!("{} (spec.teacher.encoding)", binary::EXTENSION);
                return Err(mismatch("the server's extensions", expected, extensions.join(", ")));
            }
        };
        Ok(Self {
            infer: inquiry.model(&["infer"]),
            wanted: wanted(&plan, binary),
            encoder: Encoder::new(&plan.input, shape).expect("the layout was chosen for this shape"),
            endpoint,
            plan,
            binary,
            shape,
        })
    }

    /// The tensor that carries the images.
    #[must_use]
    pub fn input(&self) -> &InputTensor {
        &self.plan.input
    }

    /// Whether tensors travel raw.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// The body of a request, and how much of it is JSON where tensors follow.
    fn encode(&self, images: &[u8], n: usize, attempt: &Attempt) -> (Vec<u8>, Option<usize>) {
        let id = serde_json::to_string(&attempt.request_id).expect("a string is JSON");
        let mut body = format!(r#"{{"id":{id},"inputs":["#).into_bytes();
        if self.binary {
            self.encoder.announce(n, &mut body);
            body.extend_from_slice(self.wanted.as_bytes());
            let header = body.len();
            self.encoder.raw(images, &mut body);
            return (body, Some(header));
        }
        self.encoder.json(images, n, &mut body);
        body.extend_from_slice(self.wanted.as_bytes());
        (body, None)
    }

    /// The labels in the body of a 200.
    fn labels(&self, body: &[u8], header: Option<&str>, n: usize) -> Result<Answer, TeacherFailure> {
        let answer: InferResponse = binary::read(body, header, |answer: &mut InferResponse| &mut answer.outputs)
            .map_err(|error| malformed("an inference response", error.with_cause()))?;
        self.plan
            .reading
            .labels(&answer.outputs, answer.model_version.as_deref(), n)
    }
}

/// `],"outputs":[...]}`.
fn wanted(plan: &Plan, binary: bool) -> String {
    let outputs = plan.reading.wanted().into_iter().map(|(name, k)| {
        let mut parameters = serde_json::Map::new();
        if binary {
            parameters.insert("binary_data".into(), true.into());
        }
        if let Some(k) = k {
            parameters.insert("classification".into(), k.into());
        }
        match parameters.is_empty() {
            true => serde_json::json!({ "name": name }),
            false => serde_json::json!({ "name": name, "parameters": parameters }),
        }
    });
    let outputs = serde_json::Value::Array(outputs.collect());
    format!(r#"],"outputs":{outputs}}}"#)
}

fn content(header: Option<usize>) -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::new();
    let Some(length) = header else {
        headers.insert(CONTENT_TYPE, json.clone());
        headers.insert(ACCEPT, json);
        return headers;
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static(binary::HEADER), length.into());
    headers
}

#[async_trait]
impl Teacher for OpenInference {
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure> {
        check_images(images, n, self.shape);
        let (body, header) = self.encode(images, n, attempt);
        let until = self.endpoint.until();
        let response = self
            .endpoint
            .post(&self.infer, content(header), body, attempt, until)
            .await?;
        let header = response.headers().get(binary::HEADER).cloned();
        let body = self.endpoint.body(response, self.plan.reading.limit(n), until).await?;
        // A header that is no text is no number either, and is refused as such.
        let header = header.as_ref().map(|header| header.to_str().unwrap_or("?"));
        self.labels(&body, header, n)
    }

    fn info(&self) -> &TeacherInfo {
        &self.plan.info
    }
}

/// Asks the free endpoints of one teacher.
struct Inquiry<'a> {
    endpoint: &'a Endpoint,
    spec: &'a TeacherSpec,
}

impl Inquiry<'_> {
    /// `path` under `/v2`.
    fn server(&self, path: &[&str]) -> Url {
        self.endpoint.address.join(&[&["v2"], path].concat())
    }

    /// `path` under the model, and under its version where the job names one.
    fn model(&self, path: &[&str]) -> Url {
        let mut segments = vec!["models", &self.spec.model];
        if let Some(version) = &self.spec.version {
            segments.extend(["versions", version]);
        }
        self.server(&[&segments, path].concat())
    }

    async fn ask_ready(&self, url: &Url) -> Result<Vec<u8>, ConnectError> {
        let (status, body) = self.endpoint.get(url).await?;
        if status != StatusCode::OK {
            return Err(self.endpoint.unusable(url, status, &body));
        }
        Ok(body)
    }

    async fn ask<T: DeserializeOwned>(&self, what: &'static str, url: &Url) -> Result<T, ConnectError> {
        let body = self.ask_ready(url).await?;
        let wrong = |error| mismatch(what, "JSON of the Open Inference Protocol v2", error);
        serde_json::from_slice(&body).map_err(wrong)
    }

    /// None where the server does not say.
    async fn extensions(&self) -> Result<Vec<String>, ConnectError> {
        let (status, body) = self.endpoint.get(&self.server(&[])).await?;
        let metadata = serde_json::from_slice::<ServerMetadata>(&body).ok();
        let metadata = metadata.filter(|_| status == StatusCode::OK);
        Ok(metadata.map(|metadata| metadata.extensions).unwrap_or_default())
    }

    /// A model that is loading answers 200 with `ready: false`, or something else than 200.
    async fn check_model_ready(&self) -> Result<(), ConnectError> {
        let url = self.model(&["ready"]);
        let body = self.ask_ready(&url).await?;
        let says_no = serde_json::from_slice::<ModelReady>(&body).is_ok_and(|model| !model.ready);
        if says_no {
            return Err(self.endpoint.unusable(&url, StatusCode::OK, &body));
        }
        Ok(())
    }

    /// The limit, where the server speaks the model configuration extension.
    async fn max_batch(&self) -> Result<Option<u32>, ConnectError> {
        let (status, body) = self.endpoint.get(&self.model(&["config"])).await?;
        let config = serde_json::from_slice::<ModelConfig>(&body).ok();
        let config = config.filter(|_| status == StatusCode::OK);
        Ok(config
            .and_then(|config| u32::try_from(config.max_batch_size).ok())
            .filter(|max| *max > 0))
    }
}
