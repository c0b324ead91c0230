//! Checks of how candidates are chosen.

use super::check::{JobError, require};
use super::spec::{GuardSpec, Spec};
use crate::diversity::Diversity;
use crate::score::Acquisition;
use crate::stochastic::Stochastic;

/// Most pairs of a sample: the coordinator holds them.
const MAX_SAMPLE: u64 = 10_000_000;

/// What `field` says is about a score.
fn needs_score(spec: &Spec, field: &'static str) -> Result<(), JobError> {
    require(
        spec.acquisition.score != Acquisition::Random,
        field,
        "a score beside it",
        "random",
    )
}

fn check_stochastic(spec: &Spec, stochastic: Stochastic) -> Result<(), JobError> {
    require(
        (0.0..=1_000.0).contains(&stochastic.sharpness()),
        "spec.acquisition.stochastic",
        "power or softmax of 0 to 1000",
        stochastic.sharpness(),
    )?;
    needs_score(spec, "spec.acquisition.stochastic")
}

fn check_diversity(spec: &Spec, diversity: &Diversity) -> Result<(), JobError> {
    needs_score(spec, "spec.acquisition.diversity")?;
    require(
        diversity.per_image.is_some() || diversity.class_pairs,
        "spec.acquisition.diversity",
        "perImage, classPairs or both",
        "neither",
    )?;
    let times = diversity.per_image.unwrap_or(1.0);
    require(
        (1.0..=1e6).contains(&times),
        "spec.acquisition.diversity.perImage",
        "1 to 1000000",
        times,
    )?;
    require(
        diversity.shortlist.is_none() || spec.acquisition.sample.is_none(),
        "spec.acquisition.diversity.shortlist",
        "no spec.acquisition.sample beside it: a sample is the shortlist",
        "both",
    )?;
    let shortlist = diversity.shortlist.unwrap_or(2);
    require(
        (2..=1_000).contains(&shortlist),
        "spec.acquisition.diversity.shortlist",
        "2 to 1000",
        shortlist,
    )
}

fn check_guard(spec: &Spec, guard: GuardSpec) -> Result<(), JobError> {
    require(
        (0.01..=0.5).contains(&guard.share),
        "spec.acquisition.guard.share",
        "0.01 to 0.5",
        guard.share,
    )?;
    needs_score(spec, "spec.acquisition.guard")?;
    require(
        spec.budget.per_round >= 2,
        "spec.budget.perRound",
        "at least 2 beside spec.acquisition.guard",
        spec.budget.per_round,
    )
}

pub(super) fn check_acquisition(spec: &Spec) -> Result<(), JobError> {
    require(
        spec.acquisition.score != Acquisition::Bald || spec.student.one.is_some(),
        "spec.acquisition.score",
        "spec.student.one beside bald, which asks how much its branches disagree",
        "a student without branches",
    )?;
    spec.acquisition
        .stochastic
        .map_or(Ok(()), |stochastic| check_stochastic(spec, stochastic))?;
    spec.acquisition
        .diversity
        .as_ref()
        .map_or(Ok(()), |diversity| check_diversity(spec, diversity))?;
    spec.acquisition
        .guard
        .map_or(Ok(()), |guard| check_guard(spec, guard))?;
    let Some(sample) = spec.acquisition.sample else {
        return Ok(());
    };
    needs_score(spec, "spec.acquisition.sample")?;
    require(
        (spec.budget.per_round..=MAX_SAMPLE).contains(&sample),
        "spec.acquisition.sample",
        format!("spec.budget.perRound ({}) to {MAX_SAMPLE}", spec.budget.per_round),
        sample,
    )
}
