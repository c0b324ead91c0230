//! A vision model behind OpenAI's chat completions, or one of the many servers that speak alike.
//!
//! One image a request. `response: label` asks for one of the class names, held to them by a JSON
//! schema; `response: probabilities` asks for one letter a class and reads the probabilities of
//! all letters at its place.

mod chat;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use stillhouse_core::ImageShape;
use stillhouse_core::job::{Response, TeacherSpec};

use super::error::mismatch;
use super::http::{Endpoint, Http, malformed};
use super::{ConnectError, check_images, fingerprint, picture, response_name};
use crate::failure::TeacherFailure;
use crate::teacher::{Answer, Attempt, Teacher, TeacherInfo};

/// Most bytes of an answer.
const ANSWER_BYTES: usize = 1 << 20;

/// Tokens of an answer that names a class in JSON; an answer that is cut off is of no use.
const LABEL_TOKENS: u32 = 256;

/// Tokens of an answer that is one letter: some models begin with white space or a quotation mark.
const LETTER_TOKENS: u32 = 4;

/// Most alternatives of a token that the API tells.
const TOP_LOGPROBS: u32 = 20;

/// A vision model behind chat completions.
pub struct OpenAi {
    endpoint: Endpoint,
    completions: Url,
    model: String,
    response: Response,
    classes: Vec<String>,
    question: String,
    shape: ImageShape,
    info: TeacherInfo,
}

impl OpenAi {
    /// As [`connect`](super::connect), for this protocol. Asks for the list of models, which is
    /// free and tells a wrong key.
    ///
    /// # Errors
    /// As [`connect`](super::connect).
    pub async fn connect(spec: &TeacherSpec, shape: ImageShape) -> Result<Self, ConnectError> {
        if !picture::is_drawable(shape) {
            return Err(mismatch("the images of the job", "1 or 3 channels", shape));
        }
        let endpoint = Endpoint::new(spec, Http::One)?;
        let models = under(&endpoint, &["models"]);
        let (status, body) = endpoint.get(&models).await?;
        let helpless = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if helpless || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(endpoint.unusable(&models, status, &body));
        }
        let mut parts = vec!["openai", endpoint.address.url().as_str(), &spec.model, spec.prompt()];
        let response = response_name(spec.response);
        parts.push(&response);
        parts.extend(spec.class_names.iter().map(String::as_str));
        let info = TeacherInfo {
            classes: Some(spec.class_names.len()),
            version: None,
            fingerprint: fingerprint(spec, &parts),
            max_batch: Some(1),
        };
        Ok(Self {
            completions: under(&endpoint, &["chat", "completions"]),
            model: spec.model.clone(),
            response: spec.response,
            classes: spec.class_names.clone(),
            question: question(spec),
            endpoint,
            shape,
            info,
        })
    }

    fn request(&self, image: &[u8]) -> Value {
        let mut request = json!({
            "model": self.model,
            "temperature": 0,
            "messages": [{ "role": "user", "content": [
                { "type": "text", "text": self.question },
                { "type": "image_url", "image_url": { "url": picture::data_url(image, self.shape) } },
            ] }],
        });
        let more = match self.response {
            Response::Label => json!({
                "max_tokens": LABEL_TOKENS,
                "response_format": { "type": "json_schema", "json_schema": {
                    "name": "label",
                    "strict": true,
                    "schema": {
                        "type": "object",
                        "properties": { "class": { "type": "string", "enum": self.classes } },
                        "required": ["class"],
                        "additionalProperties": false,
                    },
                } },
            }),
            Response::Probabilities | Response::Logits | Response::TopK(_) => json!({
                "max_tokens": LETTER_TOKENS,
                "logprobs": true,
                "top_logprobs": TOP_LOGPROBS,
            }),
        };
        if let (Value::Object(request), Value::Object(more)) = (&mut request, more) {
            request.extend(more);
        }
        request
    }
}

/// `path` under `/v1`, which the address may name or leave out.
fn under(endpoint: &Endpoint, path: &[&str]) -> Url {
    let named = endpoint.address.url().path().trim_end_matches('/').ends_with("/v1");
    let prefix: &[&str] = if named { &[] } else { &["v1"] };
    endpoint.address.join(&[prefix, path].concat())
}

/// The prompt with its classes, and in which form to answer.
fn question(spec: &TeacherSpec) -> String {
    let names = &spec.class_names;
    let fill = |list: String| spec.prompt().replace("{classes}", &list);
    match spec.response {
        Response::Label => fill(names.join(", ")),
        Response::Probabilities | Response::Logits | Response::TopK(_) => {
            let lettered = names
                .iter()
                .enumerate()
                .map(|(class, name)| format!("{}: {name}", chat::letter(class)));
            let list = lettered.collect::<Vec<_>>().join(", ");
            format!("{} Answer with the letter alone.", fill(list))
        }
    }
}

#[async_trait]
impl Teacher for OpenAi {
    /// # Panics
    /// For more than one image too, as [`TeacherInfo::max_batch`] says.
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure> {
        check_images(images, n, self.shape);
        assert_eq!(n, 1, "a chat is about one image");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::to_vec(&self.request(images)).expect("text keys");
        let until = self.endpoint.until();
        let response = self
            .endpoint
            .post(&self.completions, headers, body, attempt, until)
            .await?;
        let body = self.endpoint.body(response, ANSWER_BYTES, until).await?;
        let completion: chat::Completion =
            serde_json::from_slice(&body).map_err(|error| malformed("a chat completion", error))?;
        let choice = completion.choices.into_iter().next();
        let choice = choice.ok_or_else(|| malformed("a choice", "none"))?;
        let label = match self.response {
            Response::Label => choice.label(&self.classes),
            Response::Probabilities | Response::Logits | Response::TopK(_) => choice.probabilities(self.classes.len()),
        };
        Ok(vec![label])
    }

    fn info(&self) -> &TeacherInfo {
        &self.info
    }
}
