//! The steps of a job and what they cost, from its text and the number of images alone.

use serde::{Deserialize, Serialize};

use crate::job::{Job, MAX_GENERATED};

/// Which of a job's students a query or a training is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The student whose queries the acquisition function chooses.
    Active,
    /// The random control at equal queries.
    Control,
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Arm::Active => "active",
            Arm::Control => "control",
        })
    }
}

/// What a job will ask and compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Queries that may be billed in all.
    pub budget: u64,
    /// Seed images, all asked first.
    pub seeds: u32,
    /// Evaluation images that the teacher labels.
    pub evaluation: u32,
    /// Arms that buy each round.
    pub arms: u32,
    /// Candidates an arm buys a round, at most.
    pub per_round: u64,
    /// Pairs of the pool.
    pub pairs: u64,
    /// Images that are generated for it.
    pub generated: u32,
    /// Candidates scored a round: all, or a sample of the pairs and every generated image.
    pub scored: u64,
    /// Lambdas tried a pair.
    pub lambdas: u32,
}

/// The budget does not even pay for the seed images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the budget is {budget} queries, but the {seeds} seed images and {evaluation} evaluation images already need {}",
    u64::from(*seeds) + u64::from(*evaluation)
)]
pub struct BudgetTooSmall {
    /// Queries that may be billed.
    pub budget: u64,
    /// Seed images.
    pub seeds: u32,
    /// Evaluation images that the teacher labels.
    pub evaluation: u32,
}

impl Plan {
    /// The plan of `job` over `seeds` seed images.
    ///
    /// # Errors
    /// When the budget is smaller than the seed and evaluation queries.
    pub fn new(job: &Job, seeds: u32) -> Result<Self, BudgetTooSmall> {
        let pairs = job.pool(seeds).pairs();
        let mut plan = Self {
            budget: job.spec.budget.queries,
            seeds,
            evaluation: job.spec.evaluation.as_ref().map_or(0, |e| e.agreement_queries),
            arms: job.arms().len() as u32,
            per_round: job.spec.budget.per_round,
            pairs,
            generated: 0,
            scored: job.spec.acquisition.sample.map_or(pairs, |sample| sample.min(pairs)),
            lambdas: job.grid.lambdas().len() as u32,
        };
        if plan.first_queries() > plan.budget {
            let Self {
                budget,
                seeds,
                evaluation,
                ..
            } = plan;
            return Err(BudgetTooSmall {
                budget,
                seeds,
                evaluation,
            });
        }
        plan.generated = plan.generates(job);
        plan.scored += u64::from(plan.generated);
        Ok(plan)
    }

    /// Images to generate: as many as the job says, else as many as one-shot mixup drops, else as many as an arm may buy.
    fn generates(&self, job: &Job) -> u32 {
        let Some(cvae) = job.cvae else { return 0 };
        let bought = self.rounds().iter().sum::<u64>();
        let wanted = match (cvae.images, job.one_shot) {
            (Some(images), _) => u64::from(images),
            (None, Some(mixup)) => mixup.dropped(job.spec.training.seed, job.pool(self.seeds), bought),
            (None, None) => bought,
        };
        u32::try_from(wanted).map_or(MAX_GENERATED, |wanted| wanted.min(MAX_GENERATED))
    }

    /// Everything that an arm may buy in the end.
    #[must_use]
    pub fn candidates(&self) -> u64 {
        self.pairs + u64::from(self.generated)
    }

    /// Queries before the first round: seed images and the evaluation slice.
    #[must_use]
    pub fn first_queries(&self) -> u64 {
        u64::from(self.seeds) + u64::from(self.evaluation)
    }

    /// Candidates that each arm buys in the next round, when each bought `bought` so far; `None`
    /// when budget or pool have nothing left. Counts what was asked for, whether or not it was
    /// billed (a query that two arms share is billed once), so that it does not depend on luck.
    #[must_use]
    pub fn next_round(&self, bought: u64) -> Option<u64> {
        let arms = u64::from(self.arms);
        let left = self.budget.saturating_sub(self.first_queries() + bought * arms) / arms;
        let size = self.per_round.min(left).min(self.candidates().saturating_sub(bought));
        (size > 0).then_some(size)
    }

    /// Sizes of all rounds, for each arm.
    #[must_use]
    pub fn rounds(&self) -> Vec<u64> {
        let mut bought = 0;
        std::iter::from_fn(|| {
            let size = self.next_round(bought)?;
            bought += size;
            Some(size)
        })
        .collect()
    }

    /// Queries that will be billed at most.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.first_queries() + u64::from(self.arms) * self.rounds().iter().sum::<u64>()
    }

    /// Student forward passes of one scan of what a round scores.
    #[must_use]
    pub fn forwards_a_round(&self) -> u64 {
        self.scored * u64::from(self.lambdas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(budget: u64, arms: u32) -> Plan {
        Plan {
            budget,
            seeds: 2_000,
            evaluation: 100,
            arms,
            per_round: 6_000,
            pairs: 1_999_000,
            generated: 0,
            scored: 1_999_000,
            lambdas: 11,
        }
    }

    #[test]
    fn rounds_fill_the_budget_and_never_more() {
        assert_eq!(plan(26_100, 1).rounds(), [6_000; 4]);
        assert_eq!(plan(50_100, 2).rounds(), [6_000; 4]);
        assert_eq!(plan(9_101, 1).rounds(), [6_000, 1_001]);
        assert_eq!(plan(2_100, 1).rounds(), [] as [u64; 0]);
        for budget in (2_100..40_000).step_by(517) {
            for arms in [1, 2] {
                assert!(plan(budget, arms).queries() <= budget);
            }
        }
    }

    #[test]
    fn a_small_pool_ends_the_job_before_the_budget_does() {
        let small = Plan {
            pairs: 10,
            ..plan(26_100, 1)
        };
        assert_eq!(small.rounds(), [10]);
    }
}
