//! What a job says about its teacher.

mod check;
mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use check::{check, hint};
pub use template::{Axes, ImageForm, Piece, Slot, UnknownSlot, parse_template};

/// Images a request where the job does not say it.
const DEFAULT_BATCH: u32 = 64;

/// Key of a template object that stands for one entry an image: `{"{{each}}": ...}`.
pub const EACH: &str = "{{each}}";

/// Prompt of an OpenAI-compatible teacher where the job has none.
pub const DEFAULT_PROMPT: &str = "Which of these classes does the image show? {classes}";

/// The teacher endpoint. `docs/teachers.md` has an example for each protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TeacherSpec {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Base address, for example `http://127.0.0.1:8080`.
    pub url: String,
    /// Model name at that address.
    pub model: String,
    /// Model version; the server's default when absent.
    #[serde(default)]
    pub version: Option<String>,
    /// What it answers.
    #[serde(default)]
    pub response: Response,
    /// Images a request; see [`TeacherSpec::batch_size`].
    #[serde(default)]
    pub batch: Option<u32>,
    /// Requests that the teacher has at any moment, of all gateways together.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Images a second, at most, of all gateways together; unlimited when absent.
    #[serde(default)]
    pub rate_per_second: Option<f64>,
    /// Deadline of one request.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: f64,
    /// How long it may be away (unreachable, or refusing without naming a time) before the job stops.
    /// Until then the job is paused and nothing is spent.
    #[serde(default = "default_patience")]
    pub patience_seconds: f64,
    /// What one query costs, for `--dry-run` and reports, in any currency.
    #[serde(default)]
    pub price_per_query: Option<f64>,
    /// How tensors travel under [`Protocol::OpenInference`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoding: Encoding,
    /// Names of the classes, in the order of the student's; teachers that answer with names need them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub class_names: Vec<String>,
    /// Question of an [`Protocol::Openai`] teacher; `{classes}` stands for the list of classes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompt: Option<String>,
    /// Body of a [`Protocol::Json`] request, with placeholders such as `{{image.png.base64}}`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request: Option<serde_json::Value>,
    /// Where a [`Protocol::Json`] answer has what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub answer: Option<AnswerSpec>,
    /// The secret that every request carries.
    #[serde(default, skip_serializing_if = "is_default")]
    pub auth: Option<AuthSpec>,
    /// Further headers of every request; nothing secret.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    /// Certificates (PEM) that are trusted besides the system's, relative to the job file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ca_file: Option<PathBuf>,
    /// A name for the teacher's answers, in place of what is known of the teacher: equal names are
    /// taken as equal teachers, whatever their protocol, address and model.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fingerprint: Option<String>,
}

/// Teacher protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Open Inference Protocol v2 over HTTP.
    OpenInference,
    /// Open Inference Protocol v2 over gRPC.
    OpenInferenceGrpc,
    /// Chat completions with an image, as OpenAI's API has them.
    Openai,
    /// JSON over HTTP, as the job describes it.
    Json,
}

impl Protocol {
    /// Its name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenInference => "open-inference",
            Self::OpenInferenceGrpc => "open-inference-grpc",
            Self::Openai => "openai",
            Self::Json => "json",
        }
    }
}

/// What a teacher answers for one image. Everything becomes a soft label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// Class probabilities.
    #[default]
    Probabilities,
    /// Logits; their softmax is the label.
    Logits,
    /// The so many most probable classes with their probabilities; what is missing to 1 is spread
    /// evenly over the other classes.
    TopK(u32),
    /// One class; the label is one-hot.
    Label,
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Probabilities => f.write_str("probabilities"),
            Self::Logits => f.write_str("logits"),
            Self::TopK(k) => write!(f, "top-{k}"),
            Self::Label => f.write_str("label"),
        }
    }
}

/// How tensors travel over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Binary where the server lists the `binary_tensor_data` extension, else JSON.
    #[default]
    Auto,
    /// Numbers in JSON.
    Json,
    /// Raw tensors after the JSON.
    Binary,
}

/// Where the answer of a [`Protocol::Json`] teacher has what: JSON pointers (RFC 6901).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnswerSpec {
    /// A list with one entry an image, in the order asked; the other pointers begin at an entry.
    /// Without it the whole answer speaks of one image.
    #[serde(skip_serializing_if = "is_default")]
    pub images: Option<String>,
    /// Probabilities or logits: a list with one number a class, or an object of class names.
    #[serde(skip_serializing_if = "is_default")]
    pub values: Option<String>,
    /// The class of `response: label`: its number, from 0, or its name.
    #[serde(skip_serializing_if = "is_default")]
    pub label: Option<String>,
    /// A list with one object a class; `class` and `score` then begin at such an object.
    #[serde(skip_serializing_if = "is_default")]
    pub items: Option<String>,
    /// Classes of `topK`: a list of numbers or names, or with `items` one of them.
    #[serde(skip_serializing_if = "is_default")]
    pub class: Option<String>,
    /// Their probabilities: a list, or with `items` one of them.
    #[serde(skip_serializing_if = "is_default")]
    pub score: Option<String>,
}

/// A secret that travels in a header. The job file names where it is, never what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthSpec {
    /// The header.
    #[serde(default = "default_auth_header")]
    pub header: String,
    /// What stands before the secret: `Bearer` in `Authorization`, nothing in another header.
    #[serde(default)]
    pub scheme: Option<String>,
    /// A file that holds the secret, relative to the job file.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// An environment variable that holds it.
    #[serde(default)]
    pub environment: Option<String>,
}

impl AuthSpec {
    /// What stands before the secret; empty for nothing.
    #[must_use]
    pub fn scheme(&self) -> &str {
        let usual = if self.header.eq_ignore_ascii_case("authorization") {
            "Bearer"
        } else {
            ""
        };
        self.scheme.as_deref().unwrap_or(usual)
    }
}

impl TeacherSpec {
    /// A teacher of which nothing else is said.
    #[must_use]
    pub fn new(protocol: Protocol, url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            protocol,
            url: url.into(),
            model: model.into(),
            version: None,
            response: Response::default(),
            batch: None,
            concurrency: default_concurrency(),
            rate_per_second: None,
            timeout_seconds: default_timeout(),
            patience_seconds: default_patience(),
            price_per_query: None,
            encoding: Encoding::default(),
            class_names: vec![],
            prompt: None,
            request: None,
            answer: None,
            auth: None,
            headers: BTreeMap::new(),
            ca_file: None,
            fingerprint: None,
        }
    }

    /// Images a request, at most: what the job says, else 64, or 1 where the protocol (or the
    /// template of the request) has room for one.
    #[must_use]
    pub fn batch_size(&self) -> u32 {
        let default = if self.takes_one_image() { 1 } else { DEFAULT_BATCH };
        self.batch.unwrap_or(default)
    }

    fn takes_one_image(&self) -> bool {
        match self.protocol {
            Protocol::OpenInference | Protocol::OpenInferenceGrpc => false,
            Protocol::Openai => true,
            Protocol::Json => {
                let listed = self.answer.as_ref().is_some_and(|answer| answer.images.is_some());
                !listed || self.request.as_ref().is_none_or(template::is_of_one_image)
            }
        }
    }

    /// The prompt, `{classes}` not filled in.
    #[must_use]
    pub fn prompt(&self) -> &str {
        self.prompt.as_deref().unwrap_or(DEFAULT_PROMPT)
    }

    /// Makes the paths of files begin at `base`, the folder of the job file.
    pub fn resolve_paths(&mut self, base: &Path) {
        let auth = self.auth.as_mut().and_then(|auth| auth.file.as_mut());
        for path in auth.into_iter().chain(self.ca_file.as_mut()) {
            *path = base.join(&path);
        }
    }

    /// What makes it this teacher to the job: without where it is, how fast it is asked, and how
    /// the same tensors travel.
    pub(super) fn identity(&self) -> Self {
        Self {
            protocol: match self.protocol {
                Protocol::OpenInferenceGrpc => Protocol::OpenInference,
                Protocol::OpenInference | Protocol::Openai | Protocol::Json => self.protocol,
            },
            url: String::new(),
            batch: Some(0),
            concurrency: 0,
            rate_per_second: None,
            timeout_seconds: 0.0,
            patience_seconds: 0.0,
            price_per_query: None,
            encoding: Encoding::default(),
            auth: None,
            headers: BTreeMap::new(),
            ca_file: None,
            ..self.clone()
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_concurrency() -> u32 {
    4
}

fn default_timeout() -> f64 {
    30.0
}

fn default_patience() -> f64 {
    60.0
}

fn default_auth_header() -> String {
    "Authorization".into()
}
