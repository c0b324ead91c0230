//! Where candidates come from, as a job file says it.

use serde::{Deserialize, Serialize};

use crate::pool::Pairing;

/// One source of candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PoolSource {
    /// Every pair of seed images at every weight of a grid (Active Mixup).
    Mixup(MixupSpec),
    /// Random pairs, each at one random weight, chosen by no score (FS-BBT).
    BetaMixup(BetaMixupSpec),
    /// Images that a conditional VAE makes (FS-BBT).
    Cvae(CvaeSpec),
}

/// A mixup pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MixupSpec {
    /// The weights tried for each pair.
    pub lambda: LambdaSpec,
    /// Which pairs.
    pub pairs: Pairing,
}

impl Default for MixupSpec {
    /// The paper's weights, and the antipodal pairs too.
    fn default() -> Self {
        Self {
            lambda: LambdaSpec::default(),
            pairs: Pairing::All,
        }
    }
}

/// A grid of mixing weights, in multiples of 0.01.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LambdaSpec {
    /// First weight.
    pub from: f64,
    /// Last weight.
    pub to: f64,
    /// Distance between weights.
    pub step: f64,
}

impl Default for LambdaSpec {
    fn default() -> Self {
        Self {
            from: 0.30,
            to: 0.70,
            step: 0.04,
        }
    }
}

/// One-shot mixup.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BetaMixupSpec {
    /// Both parameters of the Beta distribution that weights are drawn from.
    pub alpha: f64,
    /// Mixes whose weight is within this of 0 or 1 are dropped, in multiples of 0.01.
    pub margin: f64,
}

impl Default for BetaMixupSpec {
    /// The paper's: Beta(1, 1), and the released code's threshold of 0.05.
    fn default() -> Self {
        Self {
            alpha: 1.0,
            margin: 0.05,
        }
    }
}

/// A conditional VAE, trained on the seed images with the teacher's class as condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CvaeSpec {
    /// Images that it makes, as many of each class. By default as many as [`BetaMixupSpec`] drops mixes; beside
    /// [`MixupSpec`], as many as an arm may buy.
    pub images: Option<u32>,
    /// Passes over the seed images; by default 100, or 600 for colour.
    pub epochs: Option<u32>,
    /// Samples a step; by default 256, or 64 for colour.
    pub batch: Option<u32>,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Dimensions of a code.
    pub latent: u32,
    /// Half of the codes are drawn from a normal distribution, half uniformly within this of 0.
    pub spread: f64,
}

/// Most images that a conditional VAE makes.
pub const MAX_GENERATED: u32 = 1_000_000;

impl Default for CvaeSpec {
    /// The released code's.
    fn default() -> Self {
        Self {
            images: None,
            epochs: None,
            batch: None,
            learning_rate: 1e-3,
            latent: 2,
            spread: 3.0,
        }
    }
}

pub(super) fn default_pool() -> Vec<PoolSource> {
    vec![PoolSource::Mixup(MixupSpec::default())]
}
