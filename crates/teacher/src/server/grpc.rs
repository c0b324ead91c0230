//! The protocol over gRPC: one function a method.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::post;
use http::Response;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::model::{Caller, Model, Trouble};
use super::question::{self, EXTENSIONS, SERVER};
use crate::proto::{
    ModelConfig, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelReadyResponse,
    ModelRequest, ParameterChoice, SERVICE, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, Tensor, TensorMetadata,
};
use crate::{binary, wire};

/// Most bytes around the images of a request.
const FRAME_BYTES: usize = 64 * 1024;

impl From<Trouble> for Status {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Malformed(cause) => Self::invalid_argument(cause),
            Trouble::Unknown(cause) => Self::not_found(cause),
            Trouble::Busy => {
                let mut metadata = MetadataMap::new();
                metadata.insert("grpc-retry-pushback-ms", "1000".parse().expect("digits"));
                Self::with_metadata(Code::ResourceExhausted, "too many requests in flight", metadata)
            }
            Trouble::OtherImages => Self::invalid_argument("this Idempotency-Key was used for other images"),
            Trouble::Failed(cause) => Self::internal(cause),
        }
    }
}

pub(super) fn router(model: Arc<Model>) -> Router {
    let path = |method: &str| format!("/{SERVICE}/{method}");
    Router::new()
        .route(&path("ServerLive"), post(server_live))
        .route(&path("ServerReady"), post(server_ready))
        .route(&path("ServerMetadata"), post(server_metadata))
        .route(&path("ModelReady"), post(model_ready))
        .route(&path("ModelMetadata"), post(model_metadata))
        .route(&path("ModelConfig"), post(model_config))
        .route(&path("ModelInfer"), post(model_infer))
        .fallback(no_such_method)
        .with_state(model)
}

/// Reads one message, and answers with one or a status.
async fn unary<Q, A, F>(
    request: Request,
    limit: usize,
    answer: impl Fn(Q, MetadataMap) -> F + Send,
) -> Response<tonic::body::Body>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    let service = tower::service_fn(|request: tonic::Request<Q>| {
        let (metadata, _, question) = request.into_parts();
        let answered = answer(question, metadata);
        async move { answered.await.map(tonic::Response::new) }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .max_decoding_message_size(limit)
        .unary(service, request.map(Body::from))
        .await
}

type Answer = Response<tonic::body::Body>;

async fn no_such_method() -> Answer {
    Status::unimplemented("no such method in the Open Inference Protocol").into_http()
}

async fn server_live(request: Request) -> Answer {
    unary(request, FRAME_BYTES, async |_: ServerLiveRequest, _| {
        Ok(ServerLiveResponse { live: true })
    })
    .await
}

async fn server_ready(request: Request) -> Answer {
    unary(request, FRAME_BYTES, async |_: ServerReadyRequest, _| {
        Ok(ServerReadyResponse { ready: true })
    })
    .await
}

async fn server_metadata(request: Request) -> Answer {
    let metadata = ServerMetadataResponse {
        name: SERVER.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    };
    let metadata = &metadata;
    unary(request, FRAME_BYTES, move |_: ServerMetadataRequest, _| async move {
        Ok(metadata.clone())
    })
    .await
}

/// Fails unless `request` names the model; an empty version is any.
fn check(model: &Model, name: &str, version: &str) -> Result<(), Status> {
    let version = Some(version).filter(|version| !version.is_empty());
    Ok(model.check_named(name, version)?)
}

async fn model_ready(State(model): State<Arc<Model>>, request: Request) -> Answer {
    let model = &model;
    let ready = move |asked: ModelRequest, _| async move {
        check(model, &asked.name, &asked.version)?;
        Ok(ModelReadyResponse { ready: true })
    };
    unary(request, FRAME_BYTES, ready).await
}

async fn model_metadata(State(model): State<Arc<Model>>, request: Request) -> Answer {
    let model = &model;
    let metadata = move |asked: ModelRequest, _| async move {
        check(model, &asked.name, &asked.version)?;
        let wire::ModelMetadata {
            name,
            versions,
            platform,
            inputs,
            outputs,
        } = model.metadata();
        let tensor = |tensor: wire::TensorMetadata| TensorMetadata {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
        };
        Ok(ModelMetadataResponse {
            name,
            versions: versions.unwrap_or_default(),
            platform: platform.unwrap_or_default(),
            inputs: inputs.into_iter().map(tensor).collect(),
            outputs: outputs.into_iter().map(tensor).collect(),
        })
    };
    unary(request, FRAME_BYTES, metadata).await
}

async fn model_config(State(model): State<Arc<Model>>, request: Request) -> Answer {
    let model = &model;
    let config = move |asked: ModelRequest, _| async move {
        check(model, &asked.name, &asked.version)?;
        let config = ModelConfig {
            name: model.config.name.clone(),
            max_batch_size: i32::try_from(model.config.max_batch).unwrap_or(i32::MAX),
        };
        Ok(ModelConfigResponse { config: Some(config) })
    };
    unary(request, FRAME_BYTES, config).await
}

async fn model_infer(State(model): State<Arc<Model>>, request: Request) -> Answer {
    // Images in `contents` take up to five bytes a number.
    let limit = model.request_bytes(5) + FRAME_BYTES;
    let model = &model;
    unary(request, limit, move |asked, metadata| infer(model, asked, metadata)).await
}

async fn infer(model: &Model, asked: ModelInferRequest, metadata: MetadataMap) -> Result<ModelInferResponse, Status> {
    let _slot = model.slot()?;
    check(model, &asked.model_name, &asked.model_version)?;
    let text = |name: &str| {
        metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let caller = Caller {
        request_id: text("x-request-id").unwrap_or_else(|| asked.id.clone()),
        idempotency_key: text("idempotency-key"),
        trace_parent: text("traceparent"),
    };
    let raw = asked.raw_input_contents;
    if !raw.is_empty() && raw.len() != asked.inputs.len() {
        return Err(Status::invalid_argument(format!(
            "expected {} raw inputs, found {}",
            asked.inputs.len(),
            raw.len()
        )));
    }
    let mut raw = raw.into_iter();
    let inputs = asked.inputs.into_iter().map(|input| input.into_wire(raw.next()));
    let inputs: Option<Vec<wire::Tensor>> = inputs.collect();
    let inputs = inputs.ok_or_else(|| Status::invalid_argument("an input's values are not of its type"))?;
    let wanted = asked
        .outputs
        .first()
        .and_then(|output| output.parameters.get("classification"));
    let classification = match wanted.and_then(|parameter| parameter.parameter_choice.as_ref()) {
        Some(ParameterChoice::Int64(k)) => Some(u32::try_from(*k).unwrap_or(0)),
        _ => None,
    };
    let output = question::answer(model, inputs, classification, caller).await?;
    Ok(ModelInferResponse {
        model_name: model.config.name.clone(),
        model_version: model.config.version.clone(),
        id: asked.id,
        raw_output_contents: vec![binary::encode(&output.data)],
        outputs: vec![Tensor {
            name: output.name,
            datatype: output.datatype,
            shape: output.shape.into_iter().map(|side| side as i64).collect(),
            ..Tensor::default()
        }],
        ..ModelInferResponse::default()
    })
}
