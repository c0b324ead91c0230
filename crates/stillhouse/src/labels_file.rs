//! `labels.safetensors`: every image that was asked, with the teacher's answer, ready to train on.
//!
//! | tensor | type and shape | what |
//! |---|---|---|
//! | `images` | u8 `[n, channels, height, width]` | the exact bytes that were asked |
//! | `probabilities` | f32 `[n, classes]` | the teacher's answer |
//! | `kind` | u8 `[n]` | 0 seed image, 1 mix, 2 evaluation image |
//! | `first`, `second` | u32 `[n]` | seed (or evaluation) images; equal unless a mix |
//! | `lambda` | u8 `[n]` | weight of `first` in hundredths |

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stillhouse_core::{Sample, SoftLabel};

use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;

/// The bytes of `labels.safetensors` for `labels`, in the order given.
///
/// # Errors
/// When a label does not belong to this job's images.
pub fn encode(inputs: &Inputs, classes: usize, labels: &[(Sample, SoftLabel)]) -> Result<Vec<u8>, Failure> {
    let n = labels.len();
    let shape = inputs.shape();
    let mut images = Vec::with_capacity(n * shape.len());
    let (mut probabilities, mut kind, mut lambda) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (sample, label) in labels {
        images.extend_from_slice(&inputs.pixels(*sample));
        probabilities.extend(label.probabilities().iter().flat_map(|p| p.to_le_bytes()));
        let (k, a, b, l) = describe(inputs, *sample)?;
        kind.push(k);
        first.extend(a.to_le_bytes());
        second.extend(b.to_le_bytes());
        lambda.push(l);
    }
    let side = |side: u32| side as usize;
    let image_shape = vec![n, side(shape.channels), side(shape.height), side(shape.width)];
    let views = [
        ("images", view(Dtype::U8, image_shape, &images)?),
        ("probabilities", view(Dtype::F32, vec![n, classes], &probabilities)?),
        ("kind", view(Dtype::U8, vec![n], &kind)?),
        ("first", view(Dtype::U32, vec![n], &first)?),
        ("second", view(Dtype::U32, vec![n], &second)?),
        ("lambda", view(Dtype::U8, vec![n], &lambda)?),
    ];
    safetensors::serialize(views, None).map_err(|error| Failure::new(Kind::Internal, error))
}

fn view(dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Result<TensorView<'_>, Failure> {
    TensorView::new(dtype, shape, data).map_err(|error| Failure::new(Kind::Internal, error))
}

fn describe(inputs: &Inputs, sample: Sample) -> Result<(u8, u32, u32, u8), Failure> {
    match sample {
        Sample::Seed(index) => Ok((0, index, index, 100)),
        Sample::Evaluation(index) => Ok((2, index, index, 100)),
        Sample::Mix(candidate) => {
            let foreign = || {
                Failure::message(
                    Kind::Storage,
                    "the ledger holds a pair that this job's pool does not offer",
                )
            };
            let (a, b) = inputs.pool().unrank(candidate.pair).ok_or_else(foreign)?;
            Ok((1, a, b, candidate.lambda.hundredths()))
        }
    }
}
