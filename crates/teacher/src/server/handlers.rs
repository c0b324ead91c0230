//! One function a route.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::model::{Caller, Model, Trouble};
use super::question::{self, EXTENSIONS, SERVER};
use crate::{binary, wire};

/// Longest time for one request body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// Most bytes that one number takes in a request: a float, a comma, spaces and brackets.
const NUMBER_BYTES: usize = 32;

/// Most bytes around the numbers.
const FRAME_BYTES: usize = 64 * 1024;

/// Any answer that is not 200: a status and `{"error": cause}`.
pub(super) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        let body = Json(wire::ErrorMessage { error });
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(header::RETRY_AFTER, "1")], body).into_response();
        }
        (status, body).into_response()
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Malformed(cause) => Self(StatusCode::BAD_REQUEST, cause),
            Trouble::Unknown(cause) => Self(StatusCode::NOT_FOUND, cause),
            Trouble::Busy => Self(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight".into()),
            Trouble::OtherImages => Self(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for other images".into(),
            ),
            Trouble::Failed(cause) => Self(StatusCode::INTERNAL_SERVER_ERROR, cause),
        }
    }
}

/// The model, when the path names it.
pub(super) struct Known(Arc<Model>);

#[derive(Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

impl FromRequestParts<Arc<Model>> for Known {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Model>) -> Result<Self, Refusal> {
        let named = Path::<Named>::from_request_parts(parts, state).await;
        let Path(Named { model, version }) =
            named.map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
        state.check_named(&model, version.as_deref())?;
        Ok(Self(state.clone()))
    }
}

pub(super) async fn no_such_path() -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        "no such path in the Open Inference Protocol".into(),
    )
}

pub(super) async fn health() -> StatusCode {
    StatusCode::OK
}

pub(super) async fn server() -> Json<wire::ServerMetadata> {
    Json(wire::ServerMetadata {
        name: SERVER.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    })
}

pub(super) async fn metadata(Known(model): Known) -> Json<wire::ModelMetadata> {
    Json(model.metadata())
}

pub(super) async fn model_ready(Known(model): Known) -> Json<wire::ModelReady> {
    Json(wire::ModelReady {
        name: Some(model.config.name.clone()),
        ready: true,
    })
}

pub(super) async fn config(Known(model): Known) -> Json<wire::ModelConfig> {
    Json(wire::ModelConfig {
        name: model.config.name.clone(),
        max_batch_size: i64::from(model.config.max_batch),
    })
}

pub(super) async fn stats(Known(model): Known) -> Json<wire::ModelStats> {
    let (inference_count, execution_count) = model.counts();
    Json(wire::ModelStats {
        model_stats: vec![wire::VersionStats {
            name: model.config.name.clone(),
            version: model.config.version.clone(),
            inference_count,
            execution_count,
        }],
    })
}

pub(super) async fn infer(Known(model): Known, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let _slot = model.slot()?;
    let request = read(&model, &headers, body).await?;
    let wire::InferRequest {
        id,
        inputs,
        outputs,
        parameters,
    } = request;
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let caller = Caller {
        request_id: text("x-request-id").or_else(|| id.clone()).unwrap_or_default(),
        idempotency_key: text("idempotency-key"),
        trace_parent: text("traceparent"),
    };
    let everywhere = parameters
        .and_then(|parameters| parameters.binary_data_output)
        .unwrap_or(false);
    let wanted = Wanted::of(&outputs);
    let raw = wanted.raw.unwrap_or(everywhere);
    let output = question::answer(&model, inputs, wanted.classification, caller).await?;
    let config = &model.config;
    let answer = wire::InferResponse {
        model_name: Some(config.name.clone()),
        model_version: Some(config.version.clone()),
        id,
        outputs: vec![output],
    };
    if !raw {
        return Ok(Json(answer).into_response());
    }
    let (body, length) = binary::write(answer, |answer| &mut answer.outputs);
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (HeaderName::from_static(binary::HEADER), length.into()),
    ];
    Ok((headers, body).into_response())
}

/// How the only output is wanted.
struct Wanted {
    raw: Option<bool>,
    classification: Option<u32>,
}

impl Wanted {
    fn of(outputs: &[wire::RequestedOutput]) -> Self {
        let parameters = outputs.first().and_then(|output| output.parameters.as_ref());
        Self {
            raw: parameters.and_then(|parameters| parameters.binary_data),
            classification: parameters.and_then(|parameters| parameters.classification),
        }
    }
}

async fn read(model: &Model, headers: &HeaderMap, body: Body) -> Result<wire::InferRequest, Refusal> {
    let limit = model.request_bytes(NUMBER_BYTES) + FRAME_BYTES;
    let bytes = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, limit))
        .await
        .map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive".into()))?
        .map_err(|error| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("{error} (limit {limit} bytes)")))?;
    let header = headers.get(binary::HEADER).map(|header| header.to_str().unwrap_or("?"));
    let request = binary::read(&bytes, header, |request: &mut wire::InferRequest| &mut request.inputs);
    request.map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.with_cause()))
}
