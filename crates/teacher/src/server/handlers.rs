//! One function a route.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::model::{Model, Pixels};
use crate::wire;

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

fn malformed(cause: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, cause.to_string())
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
        let Path(Named { model, version }) = named.map_err(malformed)?;
        let config = &state.config;
        if model != config.name || version.as_ref().is_some_and(|v| *v != config.version) {
            let version = version.map(|v| format!(" version {v}")).unwrap_or_default();
            return Err(Refusal(
                StatusCode::NOT_FOUND,
                format!(
                    "expected model {} version {}, found {model}{version}",
                    config.name, config.version
                ),
            ));
        }
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
        name: "stillhouse-teacher".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: vec!["model_configuration".into(), "statistics".into()],
    })
}

pub(super) async fn metadata(Known(model): Known) -> Json<wire::ModelMetadata> {
    let config = &model.config;
    let [c, h, w] = [config.shape.channels, config.shape.height, config.shape.width].map(i64::from);
    let tensor = |name: &str, datatype: &str, shape| wire::TensorMetadata {
        name: name.into(),
        datatype: datatype.into(),
        shape,
    };
    Json(wire::ModelMetadata {
        name: config.name.clone(),
        versions: Some(vec![config.version.clone()]),
        platform: Some("stillhouse".into()),
        inputs: vec![tensor("images", config.datatype.name(), vec![-1, c, h, w])],
        outputs: vec![tensor(
            wire::output_name(config.response),
            "FP32",
            vec![-1, config.classes as i64],
        )],
    })
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

pub(super) async fn infer(Known(model): Known, body: Body) -> Result<Json<wire::InferResponse>, Refusal> {
    let busy = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight".into());
    let _slot = model.slot().ok_or_else(busy)?;
    let request = read(&model, body).await?;
    let id = request.id.clone();
    let (pixels, n) = images(&model, request)?;
    let values = model
        .predict(pixels, n)
        .await
        .map_err(|cause| Refusal(StatusCode::INTERNAL_SERVER_ERROR, cause))?;
    let config = &model.config;
    Ok(Json(wire::InferResponse {
        model_name: Some(config.name.clone()),
        model_version: Some(config.version.clone()),
        id,
        outputs: vec![wire::Tensor {
            name: wire::output_name(config.response).into(),
            shape: vec![n as u64, config.classes as u64],
            datatype: "FP32".into(),
            data: wire::Values(values),
        }],
    }))
}

async fn read(model: &Model, body: Body) -> Result<wire::InferRequest, Refusal> {
    let numbers = model.config.max_batch as usize * model.config.shape.len();
    let limit = numbers * NUMBER_BYTES + FRAME_BYTES;
    let bytes = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, limit))
        .await
        .map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive".into()))?
        .map_err(|error| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("{error} (limit {limit} bytes)")))?;
    serde_json::from_slice(&bytes).map_err(malformed)
}

/// The images of a request, with everything about them checked.
fn images(model: &Model, mut request: wire::InferRequest) -> Result<(Pixels, usize), Refusal> {
    let config = &model.config;
    let Some(input) = request.inputs.pop().filter(|_| request.inputs.is_empty()) else {
        return Err(malformed("expected exactly one input"));
    };
    if input.name != "images" || input.datatype != config.datatype.name() {
        return Err(malformed(format!(
            "expected input images of {}, found {} of {}",
            config.datatype.name(),
            input.name,
            input.datatype
        )));
    }
    let [c, h, w] = [config.shape.channels, config.shape.height, config.shape.width].map(u64::from);
    let (batch, image) = input.shape.split_first().unwrap_or((&0, &[]));
    if image != [c, h, w] || !(1..=u64::from(config.max_batch)).contains(batch) {
        return Err(malformed(format!(
            "expected shape [1 to {}, {c}, {h}, {w}], found {:?}",
            config.max_batch, input.shape
        )));
    }
    let (expected, found) = (*batch as usize * config.shape.len(), input.data.0.len());
    if found != expected {
        return Err(malformed(format!("expected {expected} values, found {found}")));
    }
    let pixels = Pixels::new(input.data.0, config.datatype);
    let pixels = pixels.ok_or_else(|| malformed(format!("a value is no {}", config.datatype.name())))?;
    Ok((pixels, *batch as usize))
}
