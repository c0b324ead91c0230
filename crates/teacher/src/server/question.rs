//! One question, from tensors to a tensor, whichever way they travel.

use stillhouse_core::job::Response;
use stillhouse_trace::{Kind, Place, Span};

use super::model::{Caller, Model, Pixels, Trouble};
use crate::{binary, wire};

/// Name of the server software.
pub(super) const SERVER: &str = "stillhouse-teacher";

/// Extensions of the protocol that it speaks.
pub(super) const EXTENSIONS: [&str; 4] = ["model_configuration", "statistics", "classification", binary::EXTENSION];

impl Model {
    /// # Errors
    /// When `model` or `version` is not what is served here.
    pub(super) fn check_named(&self, model: &str, version: Option<&str>) -> Result<(), Trouble> {
        let config = &self.config;
        if model == config.name && version.is_none_or(|version| version == config.version) {
            return Ok(());
        }
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        Err(Trouble::Unknown(format!(
            "expected model {} version {}, found {model}{version}",
            config.name, config.version
        )))
    }

    /// What the model says of itself.
    pub(super) fn metadata(&self) -> wire::ModelMetadata {
        let config = &self.config;
        let [c, h, w] = [config.shape.channels, config.shape.height, config.shape.width].map(i64::from);
        let tensor = |name: &str, datatype: &str, shape| wire::TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape,
        };
        wire::ModelMetadata {
            name: config.name.clone(),
            versions: Some(vec![config.version.clone()]),
            platform: Some("stillhouse".into()),
            inputs: vec![tensor("images", config.datatype.name(), vec![-1, c, h, w])],
            outputs: vec![tensor(
                wire::output_name(config.response),
                "FP32",
                vec![-1, config.classes as i64],
            )],
        }
    }

    /// Most bytes of the images of a request, of so many bytes a number.
    pub(super) fn request_bytes(&self, number: usize) -> usize {
        self.config.max_batch as usize * self.config.shape.len() * number
    }
}

/// Answers a request with its only output; `classification` asks for so many classes instead of
/// all values.
pub(super) async fn answer(
    model: &Model,
    inputs: Vec<wire::Tensor>,
    classification: Option<u32>,
    caller: Caller,
) -> Result<wire::Tensor, Trouble> {
    let config = &model.config;
    if classification
        .is_some_and(|k| k == 0 || k as usize > config.classes || config.response != Response::Probabilities)
    {
        let expected = format!("expected classification of 1 to {} probabilities", config.classes);
        return Err(Trouble::Malformed(expected));
    }
    let (pixels, n) = images(model, inputs)?;
    let metrics = stillhouse_metrics::teacher_server();
    let mut span = span(&caller, n);
    let timed = metrics.seconds.start_timer();
    let answered = model.predict(pixels, n, caller).await;
    timed.observe_duration();
    let outcome = match &answered {
        Ok(_) => "answered",
        Err(Trouble::Failed(_)) => "failed",
        Err(_) => "refused",
    };
    if answered.is_err() {
        span.fail(outcome);
    }
    drop(span);
    metrics.requests.with_label_values(&[outcome]).inc();
    let values = answered?;
    metrics.images.inc_by(n as u64);
    let output = |datatype: &str, columns: usize, data| wire::Tensor {
        name: wire::output_name(config.response).into(),
        shape: vec![n as u64, columns as u64],
        datatype: datatype.into(),
        parameters: None,
        data,
    };
    Ok(match classification {
        None => output("FP32", config.classes, wire::Values::Numbers(values)),
        Some(k) => {
            let rows = values.chunks_exact(config.classes);
            let texts = rows.flat_map(|row| most_probable(row, k as usize)).collect();
            output("BYTES", k as usize, wire::Values::Texts(texts))
        }
    })
}

/// The span of a request, below the client's where that said which.
fn span(caller: &Caller, n: usize) -> Span {
    let parent = caller.trace_parent.as_deref().and_then(Place::parse);
    let mut span = parent
        .map(|parent| parent.span("answer", Kind::Server))
        .unwrap_or_default();
    span.set("stillhouse.images", n as i64);
    span.set("stillhouse.request", caller.request_id.clone());
    span
}

/// `score:class` of the `k` largest, the lower class first of equals.
fn most_probable(row: &[f32], k: usize) -> Vec<String> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    order
        .iter()
        .take(k)
        .map(|class| format!("{}:{class}", row[*class]))
        .collect()
}

/// The images of a request, with everything about them checked.
fn images(model: &Model, mut inputs: Vec<wire::Tensor>) -> Result<(Pixels, usize), Trouble> {
    let malformed = |cause: String| Trouble::Malformed(cause);
    let config = &model.config;
    let Some(input) = inputs.pop().filter(|_| inputs.is_empty()) else {
        return Err(malformed("expected exactly one input".into()));
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
    let (expected, found) = (*batch as usize * config.shape.len(), input.data.len());
    if found != expected {
        return Err(malformed(format!("expected {expected} values, found {found}")));
    }
    let pixels = match input.data {
        wire::Values::Numbers(values) => Pixels::new(values, config.datatype),
        wire::Values::Texts(_) => None,
    };
    let pixels = pixels.ok_or_else(|| malformed(format!("a value is no {}", config.datatype.name())))?;
    Ok((pixels, *batch as usize))
}
