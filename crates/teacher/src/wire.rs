//! Messages of the Open Inference Protocol v2 over REST.
//!
//! Source: the protocol's `rest/inference_rest.yaml`; `ModelConfig` is Triton's model configuration
//! extension, `ModelStats` its statistics extension, `classification` its classification extension
//! and `binary_data*` its binary tensor data extension (see [`crate::binary`]). Tensor data may be
//! nested or flat, row-major.

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use stillhouse_core::job::Response;

/// Name of the output tensor of our own server; a client takes it as a statement of what the
/// values are.
#[must_use]
pub fn output_name(response: Response) -> &'static str {
    match response {
        Response::Probabilities => "probabilities",
        Response::Logits => "logits",
        Response::TopK(_) => "classes",
        Response::Label => "label",
    }
}

/// `GET /v2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerMetadata {
    /// Server software.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Extensions of the protocol that it speaks.
    #[serde(default)]
    pub extensions: Vec<String>,
}

/// `GET /v2/models/{model}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Name of the model.
    pub name: String,
    /// Versions that can be asked.
    #[serde(default)]
    pub versions: Option<Vec<String>>,
    /// Framework of the model.
    #[serde(default)]
    pub platform: Option<String>,
    /// Input tensors.
    pub inputs: Vec<TensorMetadata>,
    /// Output tensors.
    pub outputs: Vec<TensorMetadata>,
}

/// A tensor as declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its element type, for example `FP32`.
    pub datatype: String,
    /// Its shape, -1 for a free dimension.
    pub shape: Vec<i64>,
}

/// `GET /v2/models/{model}/ready`, where the answer has a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReady {
    /// Name of the model.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it can be asked.
    pub ready: bool,
}

/// `GET /v2/models/{model}/config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Name of the model.
    pub name: String,
    /// Most images a request; 0 when the model has no batch dimension.
    #[serde(default)]
    pub max_batch_size: i64,
}

/// `GET /v2/models/{model}/stats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelStats {
    /// One entry a version.
    pub model_stats: Vec<VersionStats>,
}

/// What one version of a model has done since the server started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionStats {
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Images answered.
    pub inference_count: u64,
    /// Requests answered.
    pub execution_count: u64,
}

/// `POST /v2/models/{model}/infer`, the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferRequest {
    /// Repeated in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Input tensors.
    pub inputs: Vec<Tensor>,
    /// Output tensors wanted; all when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<RequestedOutput>,
    /// What holds for all outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<RequestParameters>,
}

/// An output tensor that is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<OutputParameters>,
}

/// How an output is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputParameters {
    /// Raw, after the JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_data: Option<bool>,
    /// As so many of the most probable classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<u32>,
}

/// How all outputs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestParameters {
    /// Raw, after the JSON, where an output does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_data_output: Option<bool>,
}

/// `POST /v2/models/{model}/infer`, the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferResponse {
    /// Name of the model.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Version of the model that answered.
    #[serde(default)]
    pub model_version: Option<String>,
    /// The question's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Output tensors.
    pub outputs: Vec<Tensor>,
}

/// A tensor with its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its element type.
    pub datatype: String,
    /// Where its values are, when they are not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<TensorParameters>,
    /// Its values, row-major; empty when they are raw after the JSON.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub data: Values,
}

/// Where the values of a tensor are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorParameters {
    /// So many bytes after the JSON, in the order of the tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_data_size: Option<u64>,
}

/// Any answer that is not 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// Cause.
    pub error: String,
}

/// Values of a tensor; written flat, read flat or nested. `null` stands for a number that JSON
/// cannot write (NaN, infinite) and reads as NaN.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// Of a numeric element type.
    Numbers(Vec<f32>),
    /// Of `BYTES`.
    Texts(Vec<String>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Numbers(vec![])
    }
}

impl Values {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers; `None` for texts.
    #[must_use]
    pub fn numbers(&self) -> Option<&[f32]> {
        match self {
            Self::Numbers(numbers) => Some(numbers),
            Self::Texts(_) => None,
        }
    }

    fn push_number<E: Error>(&mut self, number: f32) -> Result<(), E> {
        match self {
            Self::Numbers(numbers) => {
                numbers.push(number);
                Ok(())
            }
            Self::Texts(_) => Err(E::custom("expected texts only, found a number")),
        }
    }

    fn push_text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        if self.is_empty() {
            *self = Self::Texts(vec![]);
        }
        match self {
            Self::Texts(texts) => {
                texts.push(text.to_owned());
                Ok(())
            }
            Self::Numbers(_) => Err(E::custom("expected numbers only, found a text")),
        }
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Self::default();
        deserializer.deserialize_seq(Flatten(&mut values))?;
        Ok(values)
    }
}

/// Appends a value, or all values of a list of lists. Depth is bounded by the JSON reader.
struct Flatten<'a>(&'a mut Values);

impl<'de> serde::de::DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers, texts or lists of them")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.push_number(value as f32)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.push_number(value as f32)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.push_number(value as f32)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push_number(f32::NAN)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.push_text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Result<Vec<f32>, serde_json::Error> {
        serde_json::from_str::<Values>(text).map(|values| values.numbers().expect("numbers").to_vec())
    }

    #[test]
    fn nested_and_flat_data_are_the_same_numbers() {
        assert_eq!(values("[1, -2, 0.5, 3e0]").unwrap(), [1.0, -2.0, 0.5, 3.0]);
        assert_eq!(values("[[1, -2], [[0.5]], [], 3e0]").unwrap(), [1.0, -2.0, 0.5, 3.0]);
        assert!(values("[null]").unwrap()[0].is_nan());
    }

    #[test]
    fn texts_are_kept_apart_from_numbers() {
        let texts: Values = serde_json::from_str(r#"[["a"], "b"]"#).unwrap();
        assert_eq!(texts, Values::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(serde_json::to_string(&texts).unwrap(), r#"["a","b"]"#);
    }

    #[test]
    fn data_that_is_no_list_of_numbers_or_texts_is_refused() {
        for bad in [
            "1",
            "null",
            "\"1\"",
            "[true]",
            "[\"1\", 1]",
            "[1, \"1\"]",
            "[{}]",
            "[NaN]",
        ] {
            assert!(serde_json::from_str::<Values>(bad).is_err(), "{bad}");
        }
        assert!(values(&"[".repeat(100_000)).is_err());
    }
}
