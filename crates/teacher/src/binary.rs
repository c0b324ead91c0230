//! The binary tensor data extension: raw tensors after the JSON of a message.
//!
//! | bytes | what |
//! |---|---|
//! | `Inference-Header-Content-Length` | the message as JSON; a tensor whose `parameters` have a `binary_data_size` has no `data` |
//! | `binary_data_size` of each such tensor, in order | its values, little-endian, row-major; a `BYTES` value is its length as `u32` and then its bytes |
//!
//! Source: Triton's `docs/protocol/extension_binary_data.md`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{Tensor, TensorParameters, Values};

/// The header that says how long the JSON is.
pub const HEADER: &str = "inference-header-content-length";

/// Name of the extension in a server's metadata.
pub const EXTENSION: &str = "binary_tensor_data";

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The header says more bytes than there are, or is no number.
    #[error("{HEADER}: expected at most the {body} bytes of the body, found {found}")]
    Header {
        /// Bytes of the body.
        body: usize,
        /// The header.
        found: String,
    },
    /// Not the JSON that it should be.
    #[error("expected the message in JSON")]
    Json(#[from] serde_json::Error),
    /// The raw part is not as long as the tensors together.
    #[error("expected {expected} bytes of raw tensors, found {found}")]
    Length {
        /// What the tensors say.
        expected: u64,
        /// Bytes after the JSON.
        found: usize,
    },
    /// Bytes that are no values of the tensor's type.
    #[error("tensor {name}: {bytes} bytes are no values of {datatype}")]
    Values {
        /// Name of the tensor.
        name: String,
        /// Its element type.
        datatype: String,
        /// Its bytes.
        bytes: usize,
    },
}

impl BinaryError {
    /// The error and what caused it, on one line.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Json(cause) => format!("{self}: {cause}"),
            Self::Header { .. } | Self::Length { .. } | Self::Values { .. } => self.to_string(),
        }
    }
}

/// Reads a message; `header` is the value of [`HEADER`], `None` when everything is JSON. `tensors`
/// names those that may be raw.
///
/// # Errors
/// When the parts do not fit together.
pub fn read<T: DeserializeOwned>(
    body: &[u8],
    header: Option<&str>,
    tensors: impl FnOnce(&mut T) -> &mut [Tensor],
) -> Result<T, BinaryError> {
    let Some(header) = header else {
        return Ok(serde_json::from_slice(body)?);
    };
    let wrong = || BinaryError::Header {
        body: body.len(),
        found: header.chars().take(20).collect(),
    };
    let length: usize = header.trim().parse().map_err(|_| wrong())?;
    let (json, raw) = body.split_at_checked(length).ok_or_else(wrong)?;
    let mut message = serde_json::from_slice(json)?;
    attach(tensors(&mut message), raw)?;
    Ok(message)
}

/// Gives each tensor that has a size its values.
fn attach(tensors: &mut [Tensor], raw: &[u8]) -> Result<(), BinaryError> {
    let size = |tensor: &Tensor| tensor.parameters.as_ref().and_then(|p| p.binary_data_size);
    let expected = tensors.iter().filter_map(size).fold(0, u64::saturating_add);
    if expected != raw.len() as u64 {
        let found = raw.len();
        return Err(BinaryError::Length { expected, found });
    }
    let mut rest = raw;
    for tensor in tensors {
        let Some(size) = size(tensor) else { continue };
        let (own, others) = rest.split_at(size as usize);
        rest = others;
        tensor.data = decode(&tensor.datatype, own).ok_or_else(|| BinaryError::Values {
            name: tensor.name.clone(),
            datatype: tensor.datatype.clone(),
            bytes: own.len(),
        })?;
    }
    Ok(())
}

/// The values in the raw bytes of a tensor; `None` when they are none of `datatype`, or the type
/// is not known.
#[must_use]
pub fn decode(datatype: &str, bytes: &[u8]) -> Option<Values> {
    let numbers = match datatype {
        "BOOL" | "UINT8" => bytes.iter().copied().map(f32::from).collect(),
        "INT8" => elements(bytes, |b| f32::from(i8::from_le_bytes(b)))?,
        "UINT16" => elements(bytes, |b| f32::from(u16::from_le_bytes(b)))?,
        "INT16" => elements(bytes, |b| f32::from(i16::from_le_bytes(b)))?,
        "UINT32" => elements(bytes, |b| u32::from_le_bytes(b) as f32)?,
        "INT32" => elements(bytes, |b| i32::from_le_bytes(b) as f32)?,
        "UINT64" => elements(bytes, |b| u64::from_le_bytes(b) as f32)?,
        "INT64" => elements(bytes, |b| i64::from_le_bytes(b) as f32)?,
        "FP16" => elements(bytes, |b| half(u16::from_le_bytes(b)))?,
        // The upper half of a float.
        "BF16" => elements(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))?,
        "FP32" => elements(bytes, f32::from_le_bytes)?,
        "FP64" => elements(bytes, |b| f64::from_le_bytes(b) as f32)?,
        "BYTES" => return texts(bytes),
        _ => return None,
    };
    Some(Values::Numbers(numbers))
}

fn elements<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    rest.is_empty()
        .then(|| chunks.iter().map(|chunk| value(*chunk)).collect())
}

/// The value of an IEEE 754 binary16.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff) / 1024.0;
    let magnitude = match i32::from(bits >> 10 & 0x1f) {
        0 => fraction * 2_f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => (1.0 + fraction) * 2_f32.powi(exponent - 15),
    };
    sign * magnitude
}

fn texts(mut bytes: &[u8]) -> Option<Values> {
    let mut texts = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        texts.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    bytes.is_empty().then_some(Values::Texts(texts))
}

/// Raw bytes of `values`: numbers as `FP32`, texts as `BYTES`.
#[must_use]
pub fn encode(values: &Values) -> Vec<u8> {
    match values {
        Values::Numbers(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        Values::Texts(texts) => texts
            .iter()
            .flat_map(|text| {
                let length = (text.len() as u32).to_le_bytes();
                length.into_iter().chain(text.bytes())
            })
            .collect(),
    }
}

/// Moves the values of `tensors` (`FP32` or `BYTES`) behind the JSON of `message`: the body, and the
/// value of [`HEADER`].
///
/// # Panics
/// When `message` cannot be JSON: a bug of the caller.
pub fn write<T: Serialize>(mut message: T, tensors: impl FnOnce(&mut T) -> &mut [Tensor]) -> (Vec<u8>, usize) {
    let mut raw = vec![];
    for tensor in tensors(&mut message) {
        let bytes = encode(&std::mem::take(&mut tensor.data));
        tensor.parameters = Some(TensorParameters {
            binary_data_size: Some(bytes.len() as u64),
        });
        raw.extend(bytes);
    }
    let mut body = serde_json::to_vec(&message).expect("messages have text keys");
    let header = body.len();
    body.extend(raw);
    (body, header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::InferResponse;

    fn tensor(name: &str, datatype: &str, data: Values) -> Tensor {
        Tensor {
            name: name.into(),
            shape: vec![data.len() as u64],
            datatype: datatype.into(),
            parameters: None,
            data,
        }
    }

    fn message() -> InferResponse {
        InferResponse {
            model_name: None,
            model_version: Some("1".into()),
            id: None,
            outputs: vec![
                tensor("a", "FP32", Values::Numbers(vec![0.5, f32::INFINITY])),
                tensor("b", "BYTES", Values::Texts(vec!["0.5:1:cat".into(), String::new()])),
            ],
        }
    }

    #[test]
    fn raw_tensors_come_back_as_they_were() {
        let (body, header) = write(message(), |message| &mut message.outputs);
        let json: serde_json::Value = serde_json::from_slice(&body[..header]).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 8);
        assert!(json["outputs"][0].get("data").is_none(), "{json}");
        let header = header.to_string();
        let read: InferResponse = read(&body, Some(&header), |m: &mut InferResponse| &mut m.outputs).unwrap();
        let values: Vec<_> = read.outputs.into_iter().map(|output| output.data).collect();
        assert_eq!(
            values,
            message().outputs.into_iter().map(|o| o.data).collect::<Vec<_>>()
        );
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let (body, header) = write(message(), |message| &mut message.outputs);
        let said = |header: &str, body: &[u8]| {
            read(body, Some(header), |m: &mut InferResponse| &mut m.outputs)
                .unwrap_err()
                .to_string()
        };
        let header = header.to_string();
        assert!(said("999", &body).contains("found 999"));
        assert!(said("-1", &body).contains("found -1"));
        assert!(said("1", &body).contains("in JSON"));
        assert!(said(&header, &body[..body.len() - 1]).contains("bytes of raw tensors"));
        let huge = br#"{"outputs":[{"name":"a","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":18446744073709551615}}]}"#;
        assert!(said(&huge.len().to_string(), huge).contains("found 0"));
    }

    #[test]
    fn every_element_type_is_read() {
        for (datatype, bytes, value) in [
            ("UINT8", &[200_u8][..], 200.0),
            ("INT8", &[0xff], -1.0),
            ("UINT16", &[1, 1], 257.0),
            ("INT16", &[0xfe, 0xff], -2.0),
            ("UINT32", &[0, 0, 1, 0], 65536.0),
            ("INT32", &[0xff, 0xff, 0xff, 0xff], -1.0),
            ("UINT64", &[7, 0, 0, 0, 0, 0, 0, 0], 7.0),
            ("INT64", &[0xff; 8], -1.0),
            ("BF16", &[0x80, 0x3f], 1.0),
            ("FP16", &[0x00, 0xbe], -1.5),
            ("FP16", &[0x01, 0x00], 5.960_464_5e-8),
            ("FP32", &[0, 0, 0x80, 0x3f], 1.0),
            ("FP64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], 1.0),
        ] {
            assert_eq!(
                decode(datatype, bytes),
                Some(Values::Numbers(vec![value])),
                "{datatype}"
            );
        }
        assert_eq!(decode("FP32", &[0; 5]), None);
        assert_eq!(decode("FP17", &[0; 4]), None);
        for bad in [&[1, 0, 0, 0][..], &[9, 0, 0, 0, b'a'], &[1, 0, 0, 0, 0xff], &[0, 0]] {
            assert_eq!(decode("BYTES", bad), None, "{bad:?}");
        }
    }
}
