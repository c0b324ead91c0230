//! The ledger's queries and labels as one file, for other programs and other jobs.
//!
//! | module | what it is |
//! |---|---|
//! | `parquet` | every query, with or without a label |
//! | `tensors` | safetensors: the labelled ones |
//!
//! Both carry the same metadata, as text:
//!
//! | key | what |
//! |---|---|
//! | `stillhouse.format` | 1 |
//! | `stillhouse.job` | name of the job |
//! | `stillhouse.fingerprint` | of the teacher, hexadecimal |
//! | `stillhouse.classes` | values of a label |
//! | `stillhouse.shape` | of an image: `channels x height x width`, as in `1x28x28` |
//!
//! Whoever reads a file trusts nothing in it: a label is checked again, and is used only by a job
//! that computes its key from bytes of its own.

mod parquet;
mod tensors;

use std::path::Path;

use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, ImageShape, Key, SoftLabel};

use crate::failure::{Failure, Kind};
use crate::labels_file::Columns;

/// Version of both formats.
const FORMAT: &str = "1";

/// What a file is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Name of the job.
    pub job: String,
    /// Whose answers these are.
    pub fingerprint: Fingerprint,
    /// Values of a label.
    pub classes: u32,
    /// Shape of an image; `None` when it is not known.
    pub shape: Option<ImageShape>,
}

/// One query.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub key: Key,
    /// What was asked.
    pub sample: Columns,
    /// For whom it was asked first.
    pub arm: Arm,
    /// What became of it.
    pub state: &'static str,
    /// Charges that are or may be billed.
    pub charges: u32,
    /// The request that asked it, as 32 hexadecimal digits.
    pub request: Option<String>,
    /// Why it has no label.
    pub cause: Option<String>,
    /// The answer.
    pub label: Option<SoftLabel>,
}

/// Labels that were read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Whose answers these are.
    pub fingerprint: Fingerprint,
    /// Values of a label.
    pub classes: u32,
    /// Labels by key, in the order of the file.
    pub labels: Vec<(Key, SoftLabel)>,
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet.
    Parquet,
    /// Safetensors.
    Safetensors,
}

impl Format {
    /// The format that the name of a file asks for.
    ///
    /// # Errors
    /// When it ends in neither.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("safetensors") => Ok(Self::Safetensors),
            Some(_) | None => {
                let message = format!("expected *.parquet or *.safetensors, found {}", path.display());
                Err(Failure::message(Kind::Usage, message))
            }
        }
    }
}

/// The bytes of a file of `rows`.
///
/// # Errors
/// When it cannot be made.
pub fn encode(format: Format, header: &Header, rows: &[Row]) -> Result<Vec<u8>, Failure> {
    let bytes = match format {
        Format::Parquet => parquet::encode(header, rows),
        Format::Safetensors => tensors::encode(header, rows),
    };
    bytes.map_err(|error| Failure::new(Kind::Internal, error))
}

/// The bytes of a safetensors file of labels and nothing else.
///
/// # Errors
/// When it cannot be made.
pub fn encode_labels(header: &Header, labels: &[(Key, SoftLabel)]) -> Result<Vec<u8>, Failure> {
    tensors::encode_labels(header, labels).map_err(|error| Failure::new(Kind::Internal, error))
}

/// Reads the labels of the file at `path`, and checks each.
///
/// # Errors
/// When it cannot be read, is no such file, or holds something that is no label.
pub fn read(path: &Path) -> Result<Known, Failure> {
    let format = Format::of(path)?;
    let refused = |error: anyhow::Error| Failure::new(Kind::Usage, error).context(path.display().to_string());
    let bytes = std::fs::read(path).map_err(|error| refused(error.into()).context("cannot read labels"))?;
    match format {
        Format::Parquet => parquet::decode(bytes),
        Format::Safetensors => tensors::decode(&bytes),
    }
    .map_err(|error| refused(error).hint("stillhouse ledger export writes such files; or name a job directory"))
}

/// The metadata of a file.
fn metadata(header: &Header) -> Vec<(String, String)> {
    let pairs = [
        ("format", Some(FORMAT.to_owned())),
        ("job", Some(header.job.clone())),
        ("fingerprint", Some(header.fingerprint.to_string())),
        ("classes", Some(header.classes.to_string())),
        ("shape", header.shape.map(|shape| shape.to_string())),
    ];
    let pairs = pairs.into_iter();
    pairs
        .filter_map(|(name, value)| Some((format!("stillhouse.{name}"), value?)))
        .collect()
}

/// Teacher and number of classes from the metadata of a file.
fn identity<'a>(lookup: impl Fn(&str) -> Option<&'a str>) -> anyhow::Result<(Fingerprint, u32)> {
    let get = |name: &str| {
        let name = format!("stillhouse.{name}");
        lookup(&name).ok_or_else(|| anyhow::anyhow!("expected metadata `{name}`, found none"))
    };
    let format = get("format")?;
    anyhow::ensure!(format == FORMAT, "expected format {FORMAT}, found {format}");
    let fingerprint = get("fingerprint")?;
    let bytes = blake3::Hash::from_hex(fingerprint)
        .map_err(|error| anyhow::anyhow!("expected a fingerprint of 64 hexadecimal digits: {error}"))?;
    let classes = get("classes")?;
    let classes: u32 = classes
        .parse()
        .map_err(|_| anyhow::anyhow!("expected a number of classes, found {classes}"))?;
    anyhow::ensure!(classes >= 2, "expected at least 2 classes, found {classes}");
    Ok((Fingerprint(*bytes.as_bytes()), classes))
}

/// A label from a file, checked.
fn checked(at: usize, key: &[u8], probabilities: Vec<f32>, classes: u32) -> anyhow::Result<(Key, SoftLabel)> {
    let key = key
        .try_into()
        .map_err(|_| anyhow::anyhow!("row {at}: expected a key of 32 bytes, found {}", key.len()))?;
    let label = SoftLabel::from_probabilities(probabilities, classes as usize)
        .map_err(|error| anyhow::anyhow!("row {at}: {error}"))?;
    Ok((Key(key), label))
}

#[cfg(test)]
mod tests;
