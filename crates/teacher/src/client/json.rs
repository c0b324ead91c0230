//! A teacher behind JSON over HTTP, as the job describes it.

mod answer;
mod body;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use stillhouse_core::ImageShape;
use stillhouse_core::job::{AnswerSpec, TeacherSpec};

use super::error::mismatch;
use super::http::{Endpoint, Http, malformed};
use super::{ConnectError, check_images, fingerprint, picture, response_name, said_classes};
use crate::failure::TeacherFailure;
use crate::teacher::{Answer, Attempt, Teacher, TeacherInfo};
use answer::Reader;
use body::Request;

/// Most bytes of an answer: 64 MiB.
const ANSWER_BYTES: usize = 64 << 20;

/// A teacher that a template speaks to.
pub struct JsonTeacher {
    endpoint: Endpoint,
    request: Request,
    reader: Reader,
    shape: ImageShape,
    info: TeacherInfo,
}

impl JsonTeacher {
    /// As [`connect`](super::connect), for this protocol. Nothing is asked: which of the teacher's
    /// endpoints are free is not known.
    ///
    /// # Errors
    /// As [`connect`](super::connect).
    pub fn connect(spec: &TeacherSpec, shape: ImageShape, classes: Option<u32>) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::new(spec, Http::One)?;
        let template = spec.request.clone().unwrap_or_default();
        let request = Request::new(&template, spec, shape)
            .map_err(|unknown| mismatch("spec.teacher.request", "placeholders that are known", unknown))?;
        if request.draws() && !picture::is_drawable(shape) {
            return Err(mismatch("the images of the job", "1 or 3 channels for a PNG", shape));
        }
        let classes = said_classes(spec, classes);
        let info = TeacherInfo {
            classes,
            version: spec.version.clone(),
            fingerprint: described(spec, &endpoint, &template.to_string()),
            max_batch: Some(spec.batch_size()),
        };
        let answer = spec.answer.clone().unwrap_or_default();
        Ok(Self {
            reader: Reader::new(answer, spec.response, classes, &spec.class_names),
            endpoint,
            request,
            shape,
            info,
        })
    }
}

/// The fingerprint from everything that the job says about question and answer.
fn described(spec: &TeacherSpec, endpoint: &Endpoint, template: &str) -> stillhouse_core::Fingerprint {
    let response = response_name(spec.response);
    let AnswerSpec {
        images,
        values,
        label,
        items,
        class,
        score,
    } = spec.answer.clone().unwrap_or_default();
    let pointers = [images, values, label, items, class, score].map(|pointer| pointer.unwrap_or_else(|| "-".into()));
    let mut parts = vec![
        "json",
        endpoint.address.url().as_str(),
        &spec.model,
        spec.version.as_deref().unwrap_or_default(),
        template,
        &response,
    ];
    parts.extend(pointers.iter().map(String::as_str));
    parts.extend(spec.class_names.iter().map(String::as_str));
    fingerprint(spec, &parts)
}

#[async_trait]
impl Teacher for JsonTeacher {
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure> {
        check_images(images, n, self.shape);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = self.request.render(images, n, attempt);
        let body = serde_json::to_vec(&body).expect("text keys");
        let until = self.endpoint.until();
        let url = self.endpoint.address.url();
        let response = self.endpoint.post(url, headers, body, attempt, until).await?;
        let body = self.endpoint.body(response, ANSWER_BYTES, until).await?;
        let answer = serde_json::from_slice(&body).map_err(|error| malformed("an answer in JSON", error))?;
        self.reader.labels(&answer, n)
    }

    fn info(&self) -> &TeacherInfo {
        &self.info
    }
}
