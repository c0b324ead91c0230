//! Messages of the Open Inference Protocol v2 over REST.
//!
//! Source: the protocol's `rest/inference_rest.yaml`; `ModelConfig` is Triton's model configuration
//! extension and `ModelStats` its statistics extension. Tensor data may be nested or flat, row-major.

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
        Response::TopK(_) => "top",
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
    /// Its values, row-major.
    pub data: Values,
}

impl Tensor {
    /// Number of values that the shape promises; `None` when that overflows.
    #[must_use]
    pub fn promised(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1_u64, |product, side| product.checked_mul(*side))
    }
}

/// Any answer that is not 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// Cause.
    pub error: String,
}

/// Numbers of a tensor; written flat, read flat or nested. `null` stands for a number that JSON
/// cannot write (NaN, infinite) and reads as NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Values(pub Vec<f32>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Vec::new();
        deserializer.deserialize_seq(Flatten(&mut values))?;
        Ok(Self(values))
    }
}

/// Appends a number, or all numbers of a list of lists. Depth is bounded by the JSON reader.
struct Flatten<'a>(&'a mut Vec<f32>);

impl<'de> serde::de::DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers or lists of numbers")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push(f32::NAN);
        Ok(())
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
        serde_json::from_str::<Values>(text).map(|values| values.0)
    }

    #[test]
    fn nested_and_flat_data_are_the_same_numbers() {
        assert_eq!(values("[1, -2, 0.5, 3e0]").unwrap(), [1.0, -2.0, 0.5, 3.0]);
        assert_eq!(values("[[1, -2], [[0.5]], [], 3e0]").unwrap(), [1.0, -2.0, 0.5, 3.0]);
        assert!(values("[null]").unwrap()[0].is_nan());
    }

    #[test]
    fn data_that_is_no_list_of_numbers_is_refused() {
        for bad in ["1", "null", "\"1\"", "[true]", "[\"1\"]", "[{}]", "[NaN]"] {
            assert!(values(bad).is_err(), "{bad}");
        }
        assert!(values(&"[".repeat(100_000)).is_err());
    }
}
