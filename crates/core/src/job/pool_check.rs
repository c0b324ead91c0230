//! Whether the sources of candidates make sense, alone and together.

use super::check::{JobError, require, value};
use super::pool::{BetaMixupSpec, CvaeSpec, LambdaSpec, MAX_GENERATED, MixupSpec, PoolSource};
use super::spec::{Control, Spec};
use super::training::MAX_EPOCHS;
use crate::one_shot::BetaMixup;
use crate::pool::{LambdaGrid, Pairing};
use crate::score::Acquisition;

/// The checked sources of candidates.
pub(super) struct Sources {
    pub(super) grid: LambdaGrid,
    pub(super) pairing: Pairing,
    pub(super) one_shot: Option<BetaMixup>,
    pub(super) cvae: Option<CvaeSpec>,
}

pub(super) fn check_pool(spec: &Spec) -> Result<Sources, JobError> {
    const AT: &str = "spec.pool";
    let (mut pairs, mut cvae) = (None, None);
    for source in &spec.pool {
        let is_repeated = match source {
            PoolSource::Mixup(mixup) => pairs.replace((check_mixup(mixup)?, mixup.pairs, None)).is_some(),
            PoolSource::BetaMixup(mixup) => {
                let one_shot = check_beta(spec, *mixup)?;
                let grid = check_mixup(&MixupSpec::default())?;
                pairs.replace((grid, Pairing::All, Some(one_shot))).is_some()
            }
            PoolSource::Cvae(source) => {
                check_cvae(source)?;
                cvae.replace(*source).is_some()
            }
        };
        require(
            !is_repeated,
            AT,
            "one of mixup and betaMixup, and one cvae at most",
            "more",
        )?;
    }
    let (grid, pairing, one_shot) = pairs.ok_or_else(|| value(AT, "mixup or betaMixup", "neither"))?;
    Ok(Sources {
        grid,
        pairing,
        one_shot,
        cvae,
    })
}

fn check_mixup(mixup: &MixupSpec) -> Result<LambdaGrid, JobError> {
    let LambdaSpec { from, to, step } = mixup.lambda;
    let grid = match [from, to, step].map(hundredths) {
        [Some(from), Some(to), Some(step)] => LambdaGrid::new(from, to, step),
        _ => None,
    };
    let expected = "from <= to within 0..=1 and step > 0, all multiples of 0.01";
    let found = format!("from {from}, to {to}, step {step}");
    grid.ok_or_else(|| value("spec.pool.mixup.lambda", expected, found))
}

/// One-shot mixup asks what it draws: there is nothing to score, and a random control would be the same.
fn check_beta(spec: &Spec, mixup: BetaMixupSpec) -> Result<BetaMixup, JobError> {
    let BetaMixupSpec { alpha, margin } = mixup;
    require(
        (0.01..=100.0).contains(&alpha),
        "spec.pool.betaMixup.alpha",
        "0.01 to 100",
        alpha,
    )?;
    let margin = hundredths(margin).filter(|margin| *margin < 50).ok_or_else(|| {
        value(
            "spec.pool.betaMixup.margin",
            "a multiple of 0.01 from 0 up to below 0.5",
            margin,
        )
    })?;
    require(
        spec.acquisition.score == Acquisition::Random,
        "spec.acquisition.score",
        "random beside betaMixup, which chooses by no score",
        format!("{:?}", spec.acquisition.score),
    )?;
    require(
        spec.control == Control::None,
        "spec.control",
        "none beside betaMixup, which is random itself",
        "random",
    )?;
    Ok(BetaMixup { alpha, margin })
}

fn check_cvae(cvae: &CvaeSpec) -> Result<(), JobError> {
    let images = cvae.images.unwrap_or(1);
    require(
        (1..=MAX_GENERATED).contains(&images),
        "spec.pool.cvae.images",
        format!("1 to {MAX_GENERATED}"),
        images,
    )?;
    let epochs = cvae.epochs.unwrap_or(1);
    require(
        (1..=MAX_EPOCHS).contains(&epochs),
        "spec.pool.cvae.epochs",
        format!("1 to {MAX_EPOCHS}"),
        epochs,
    )?;
    let batch = cvae.batch.unwrap_or(1);
    require(
        (1..=65_536).contains(&batch),
        "spec.pool.cvae.batch",
        "1 to 65536",
        batch,
    )?;
    require(
        (1..=1_024).contains(&cvae.latent),
        "spec.pool.cvae.latent",
        "1 to 1024",
        cvae.latent,
    )?;
    let rate = cvae.learning_rate;
    require(
        rate.is_finite() && rate > 0.0,
        "spec.pool.cvae.learningRate",
        "a number above 0",
        rate,
    )?;
    let spread = cvae.spread;
    require(
        spread > 0.0 && spread <= 100.0,
        "spec.pool.cvae.spread",
        "above 0, at most 100",
        spread,
    )
}

fn hundredths(value: f64) -> Option<u8> {
    let scaled = value * 100.0;
    let whole = scaled.round();
    ((scaled - whole).abs() < 1e-6 && (0.0..=100.0).contains(&whole)).then_some(whole as u8)
}
