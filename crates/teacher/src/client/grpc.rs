//! A teacher behind the Open Inference Protocol v2 over gRPC.

mod call;

use std::collections::HashMap;

use async_trait::async_trait;
use prost::Message;
use stillhouse_core::ImageShape;
use stillhouse_core::job::TeacherSpec;

use super::error::mismatch;
use super::http::{Endpoint, Http, malformed};
use super::model::{self, Plan};
use super::{ConnectError, check_images};
use crate::failure::{FailureKind, TeacherFailure};
use crate::proto::{
    InferParameter, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse,
    ModelReadyResponse, ModelRequest, ParameterChoice, RequestedOutput, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse, Tensor,
};
use crate::teacher::{Answer, Attempt, Teacher, TeacherInfo};
use crate::tensor::Encoder;
use crate::wire::{self, ModelMetadata, TensorMetadata};
use call::Code;

/// A model behind the Open Inference Protocol over gRPC.
pub struct OpenInferenceGrpc {
    endpoint: Endpoint,
    plan: Plan,
    encoder: Encoder,
    shape: ImageShape,
    /// A request without images and name.
    blank: ModelInferRequest,
}

impl OpenInferenceGrpc {
    /// As [`connect`](super::connect), for this protocol.
    ///
    /// # Errors
    /// As [`connect`](super::connect).
    pub async fn connect(spec: &TeacherSpec, shape: ImageShape, classes: Option<u32>) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::new(spec, Http::Two)?;
        let inquiry = Inquiry {
            endpoint: &endpoint,
            model: ModelRequest {
                name: spec.model.clone(),
                version: spec.version.clone().unwrap_or_default(),
            },
        };
        inquiry.check_ready().await?;
        let metadata = inquiry.metadata().await?;
        let extensions = inquiry.extensions().await?;
        let max_batch = inquiry.max_batch().await?;
        let plan = model::plan(spec, shape, classes, &metadata, &extensions, max_batch)?;
        Ok(Self {
            blank: blank(inquiry.model, &plan),
            encoder: Encoder::new(&plan.input, shape).expect("the layout was chosen for this shape"),
            endpoint,
            plan,
            shape,
        })
    }

    fn request(&self, images: &[u8], n: usize, attempt: &Attempt) -> ModelInferRequest {
        let mut request = self.blank.clone();
        request.id.clone_from(&attempt.request_id);
        request.inputs[0].shape = self.encoder.shape(n);
        self.encoder.raw(images, &mut request.raw_input_contents[0]);
        request
    }

    fn labels(&self, answer: ModelInferResponse, n: usize) -> Result<Answer, TeacherFailure> {
        let ModelInferResponse {
            model_version,
            outputs,
            raw_output_contents: raw,
            ..
        } = answer;
        if !raw.is_empty() && raw.len() != outputs.len() {
            return Err(malformed(format!("{} raw outputs", outputs.len()), raw.len()));
        }
        let mut raw = raw.into_iter();
        let outputs: Option<Vec<wire::Tensor>> =
            outputs.into_iter().map(|output| output.into_wire(raw.next())).collect();
        let outputs = outputs.ok_or_else(|| malformed("outputs with values of their types", "others"))?;
        self.plan.reading.labels(&outputs, Some(&model_version), n)
    }
}

/// The parts of every request to `model` that do not change.
fn blank(model: ModelRequest, plan: &Plan) -> ModelInferRequest {
    let outputs = plan.reading.wanted().into_iter().map(|(name, k)| {
        let parameter = |k| InferParameter {
            parameter_choice: Some(ParameterChoice::Int64(i64::from(k))),
        };
        RequestedOutput {
            name: name.to_owned(),
            parameters: k
                .map(|k| ("classification".to_owned(), parameter(k)))
                .into_iter()
                .collect(),
        }
    });
    ModelInferRequest {
        model_name: model.name,
        model_version: model.version,
        id: String::new(),
        parameters: HashMap::new(),
        inputs: vec![Tensor {
            name: plan.input.name.clone(),
            datatype: plan.input.datatype.name().to_owned(),
            shape: vec![],
            parameters: HashMap::new(),
            contents: None,
        }],
        outputs: outputs.collect(),
        raw_input_contents: vec![vec![]],
    }
}

#[async_trait]
impl Teacher for OpenInferenceGrpc {
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure> {
        check_images(images, n, self.shape);
        let request = self.request(images, n, attempt);
        let limit = self.plan.reading.limit(n);
        let answer = call::unary(&self.endpoint, "ModelInfer", &request, attempt, limit).await?;
        self.labels(answer, n)
    }

    fn info(&self) -> &TeacherInfo {
        &self.plan.info
    }
}

/// Most bytes of an answer about a model.
const ANSWER_BYTES: usize = 1 << 20;

/// Calls the free methods of one teacher.
struct Inquiry<'a> {
    endpoint: &'a Endpoint,
    model: ModelRequest,
}

impl Inquiry<'_> {
    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, TeacherFailure> {
        let attempt = Attempt::new(method);
        call::unary(self.endpoint, method, request, &attempt, ANSWER_BYTES).await
    }

    /// As [`Inquiry::call`]; a method that the server does not have answers nothing.
    async fn call_optional<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Option<A>, ConnectError> {
        match self.call(method, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure)
                if failure.kind
                    == FailureKind::Rejected {
                        status: Code::Unimplemented.status(),
                    } =>
            {
                Ok(None)
            }
            Err(failure) => Err(self.unusable(method, failure)),
        }
    }

    fn unusable(&self, method: &str, failure: TeacherFailure) -> ConnectError {
        let address = self.endpoint.address.to_string();
        let cause = failure.message;
        match failure.kind {
            FailureKind::Rejected { status } => ConnectError::Refused {
                address,
                status,
                path: method.to_owned(),
                cause,
            },
            FailureKind::Unreachable | FailureKind::Deadline | FailureKind::Lost => {
                ConnectError::Unreachable { address, cause }
            }
            FailureKind::Malformed => mismatch("the server's answer", format!("that of {method}"), cause),
            FailureKind::Busy { .. } | FailureKind::Server { .. } => ConnectError::NotReady { address, cause },
        }
    }

    async fn check_ready(&self) -> Result<(), ConnectError> {
        let server = self.call_optional::<ServerReadyResponse>("ServerReady", &ServerReadyRequest {});
        let model = self.call_optional::<ModelReadyResponse>("ModelReady", &self.model);
        let not_ready = |what: &str| ConnectError::NotReady {
            address: self.endpoint.address.to_string(),
            cause: format!("{what} says that it is not ready"),
        };
        if server.await?.is_some_and(|server| !server.ready) {
            return Err(not_ready("the server"));
        }
        if model.await?.is_some_and(|model| !model.ready) {
            return Err(not_ready("the model"));
        }
        Ok(())
    }

    async fn metadata(&self) -> Result<ModelMetadata, ConnectError> {
        const METHOD: &str = "ModelMetadata";
        let answer = self.call::<ModelMetadataResponse>(METHOD, &self.model).await;
        let answer = answer.map_err(|failure| self.unusable(METHOD, failure))?;
        let tensors = |tensors: Vec<crate::proto::TensorMetadata>| {
            let tensor = |tensor: crate::proto::TensorMetadata| TensorMetadata {
                name: tensor.name,
                datatype: tensor.datatype,
                shape: tensor.shape,
            };
            tensors.into_iter().map(tensor).collect()
        };
        Ok(ModelMetadata {
            name: answer.name,
            versions: Some(answer.versions),
            platform: Some(answer.platform),
            inputs: tensors(answer.inputs),
            outputs: tensors(answer.outputs),
        })
    }

    async fn extensions(&self) -> Result<Vec<String>, ConnectError> {
        let metadata = self.call_optional::<ServerMetadataResponse>("ServerMetadata", &ServerMetadataRequest {});
        Ok(metadata.await?.map(|metadata| metadata.extensions).unwrap_or_default())
    }

    async fn max_batch(&self) -> Result<Option<u32>, ConnectError> {
        let config = self
            .call_optional::<ModelConfigResponse>("ModelConfig", &self.model)
            .await?;
        let max = config
            .and_then(|config| config.config)
            .map(|config| config.max_batch_size);
        Ok(max.and_then(|max| u32::try_from(max).ok()).filter(|max| *max > 0))
    }
}
