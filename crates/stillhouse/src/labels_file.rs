//! `labels.safetensors`: every image that was asked, with the teacher's answer, ready to train on.
//!
//! | tensor | type and shape | what |
//! |---|---|---|
//! | `images` | u8 `[n, channels, height, width]` | the exact bytes that were asked |
//! | `probabilities` | f32 `[n, classes]` | the teacher's answer |
//! | `kind` | u8 `[n]` | 0 seed image, 1 mix, 2 evaluation image, 3 generated image |
//! | `first`, `second` | u32 `[n]` | seed (evaluation, generated) images; equal unless a mix |
//! | `lambda` | u8 `[n]` | weight of `first` in hundredths |

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stillhouse_core::{Pool, Sample, SoftLabel};

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
    let foreign = || {
        Failure::message(
            Kind::Storage,
            "the ledger holds a pair that this job's pool does not offer",
        )
    };
    for (sample, label) in labels {
        images.extend_from_slice(&inputs.pixels(*sample));
        probabilities.extend(label.probabilities().iter().flat_map(|p| p.to_le_bytes()));
        let columns = Columns::of(&inputs.pool(), *sample).ok_or_else(foreign)?;
        kind.push(columns.kind);
        first.extend(columns.first.to_le_bytes());
        second.extend(columns.second.to_le_bytes());
        lambda.push(columns.lambda);
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

pub(crate) fn view(dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Result<TensorView<'_>, Failure> {
    TensorView::new(dtype, shape, data).map_err(|error| Failure::new(Kind::Internal, error))
}

/// A sample as four plain columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// 0 seed image, 1 mix, 2 evaluation image, 3 generated image.
    pub kind: u8,
    /// Position of the seed (evaluation, generated) image.
    pub first: u32,
    /// Position of the other seed image; the same unless a mix.
    pub second: u32,
    /// Weight of `first` in hundredths.
    pub lambda: u8,
}

impl Columns {
    /// Columns of `sample`; `None` when `pool` does not offer its pair.
    #[must_use]
    pub fn of(pool: &Pool, sample: Sample) -> Option<Self> {
        let plain = |kind, index| Self {
            kind,
            first: index,
            second: index,
            lambda: 100,
        };
        match sample {
            Sample::Seed(index) => Some(plain(0, index)),
            Sample::Evaluation(index) => Some(plain(2, index)),
            Sample::Mix(candidate) => match pool.generated_at(candidate.pair) {
                Some(index) => Some(plain(3, index)),
                None => pool.unrank(candidate.pair).map(|(first, second)| Self {
                    kind: 1,
                    first,
                    second,
                    lambda: candidate.lambda.hundredths(),
                }),
            },
        }
    }

    /// Name of the kind.
    #[must_use]
    pub fn kind_name(self) -> &'static str {
        match self.kind {
            0 => "seed",
            1 => "mix",
            2 => "evaluation",
            _ => "generated",
        }
    }
}
