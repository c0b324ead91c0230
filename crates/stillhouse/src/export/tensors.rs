//! Safetensors of the labelled queries, in order of keys.
//!
//! | tensor | type and shape | what |
//! |---|---|---|
//! | `keys` | u8 `[n, 32]` | names of the queries |
//! | `probabilities` | f32 `[n, classes]` | the teacher's answers |
//! | `kind` | u8 `[n]` | 0 seed image, 1 mix, 2 evaluation image, 3 generated image |
//! | `first`, `second` | u32 `[n]` | seed (evaluation, generated) images of that job; equal unless a mix |
//! | `lambda` | u8 `[n]` | weight of `first` in hundredths |
//! | `arm` | u8 `[n]` | 0 active, 1 control |

use std::collections::HashMap;

use anyhow::{Context, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, SoftLabel};

use super::{Header, Known, Row, checked, identity, metadata};

/// A tensor and its bytes.
type Column = (&'static str, Dtype, Vec<usize>, Vec<u8>);

pub(super) fn encode(header: &Header, rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let labelled: Vec<(&Row, &SoftLabel)> = rows.iter().filter_map(|row| Some((row, row.label.as_ref()?))).collect();
    let bytes = |of: &dyn Fn(&Row) -> u8| labelled.iter().map(|(row, _)| of(row)).collect();
    let numbers = |of: &dyn Fn(&Row) -> u32| labelled.iter().flat_map(|(row, _)| of(row).to_le_bytes()).collect();
    let n = vec![labelled.len()];
    let mut columns = labels(header, labelled.iter().map(|(row, label)| (row.key, *label)));
    columns.extend([
        ("kind", Dtype::U8, n.clone(), bytes(&|row| row.sample.kind)),
        ("first", Dtype::U32, n.clone(), numbers(&|row| row.sample.first)),
        ("second", Dtype::U32, n.clone(), numbers(&|row| row.sample.second)),
        ("lambda", Dtype::U8, n.clone(), bytes(&|row| row.sample.lambda)),
        ("arm", Dtype::U8, n, bytes(&|row| u8::from(row.arm == Arm::Control))),
    ]);
    serialize(header, &columns)
}

/// The first two tensors alone.
pub(super) fn encode_labels(header: &Header, known: &[(Key, SoftLabel)]) -> anyhow::Result<Vec<u8>> {
    serialize(header, &labels(header, known.iter().map(|(key, label)| (*key, label))))
}

fn labels<'a>(header: &Header, known: impl Iterator<Item = (Key, &'a SoftLabel)> + Clone) -> Vec<Column> {
    let keys: Vec<u8> = known.clone().flat_map(|(key, _)| key.0).collect();
    let floats = known.flat_map(|(_, label)| label.probabilities());
    let floats: Vec<u8> = floats.flat_map(|p| p.to_le_bytes()).collect();
    let n = keys.len() / 32;
    vec![
        ("keys", Dtype::U8, vec![n, 32], keys),
        ("probabilities", Dtype::F32, vec![n, header.classes as usize], floats),
    ]
}

fn serialize(header: &Header, columns: &[Column]) -> anyhow::Result<Vec<u8>> {
    let views: Result<Vec<_>, safetensors::SafeTensorError> = columns
        .iter()
        .map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect();
    let metadata: HashMap<String, String> = metadata(header).into_iter().collect();
    Ok(safetensors::serialize(views?, Some(metadata))?)
}

pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<Known> {
    let (_, head) = SafeTensors::read_metadata(bytes).context("expected a safetensors file")?;
    let metadata = head.metadata().as_ref();
    let (fingerprint, classes) = identity(|name| metadata?.get(name).map(String::as_str))?;
    let file = SafeTensors::deserialize(bytes).context("expected a safetensors file")?;
    let (keys, probabilities) = (file.tensor("keys")?, file.tensor("probabilities")?);
    let n = keys.shape().first().copied().unwrap_or(0);
    let shaped = |tensor: &TensorView<'_>, dtype, shape: [usize; 2], name| {
        let found = (tensor.dtype(), tensor.shape());
        ensure!(
            found == (dtype, &shape[..]),
            "expected {name} of {dtype:?} {shape:?}, found {found:?}"
        );
        Ok(())
    };
    shaped(&keys, Dtype::U8, [n, 32], "keys")?;
    shaped(&probabilities, Dtype::F32, [n, classes as usize], "probabilities")?;
    let rows = keys
        .data()
        .chunks_exact(32)
        .zip(probabilities.data().chunks_exact(4 * classes as usize));
    let label = |(at, (key, floats)): (usize, (&[u8], &[u8]))| {
        let (floats, _) = floats.as_chunks::<4>();
        checked(
            at,
            key,
            floats.iter().copied().map(f32::from_le_bytes).collect(),
            classes,
        )
    };
    let labels: anyhow::Result<Vec<(Key, SoftLabel)>> = rows.enumerate().map(label).collect();
    Ok(Known {
        fingerprint,
        classes,
        labels: labels?,
    })
}
