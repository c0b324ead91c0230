//! Whether active selection pays on this data: a part of every batch is drawn at random, and two short trainings, on equally
//! many candidates of either kind, are compared on seed images that neither has seen.
//!
//! No published method has this. Why it is needed: on Fashion-MNIST the published figure of Active Mixup (arXiv 2003.13960) lies below
//! that of training on the seed images alone.

use serde::{Deserialize, Serialize};

/// Which of the two trainings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Twin {
    /// On candidates that were drawn at random.
    Random,
    /// On as many that the acquisition function chose.
    Active,
}

impl Twin {
    /// Both, in the order in which they are trained.
    pub const BOTH: [Self; 2] = [Self::Random, Self::Active];
}

/// Parts into which the seed images are cut: each round keeps another one back.
pub const FOLDS: u32 = 5;

/// Whether `round` keeps the seed image at this position back, to compare its twins on.
#[must_use]
pub fn is_held_out(round: u32, seed: u32) -> bool {
    seed % FOLDS == round % FOLDS
}

/// How a job guards its selection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Part of each batch that is drawn at random.
    pub share: f64,
    /// Whether later batches shift towards what works.
    pub shifts: bool,
}

impl Guard {
    /// How many of a batch of `size` are drawn at random, after `verdict`: the share, or all but it where active
    /// selection harms and the job shifts. At least one of either kind; a batch of one has no room for it.
    #[must_use]
    pub fn random(self, size: u64, verdict: Verdict) -> u64 {
        if size < 2 {
            return 0;
        }
        let part = match verdict {
            Verdict::Harms if self.shifts => 1.0 - self.share,
            Verdict::Harms | Verdict::Undecided | Verdict::Pays => self.share,
        };
        let random = (size as f64 * part).round() as u64;
        random.clamp(1, size - 1)
    }
}

/// What the comparisons of a job found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Seed images that both twins were compared on, over all rounds.
    pub images: u64,
    /// Of those, where the twin of chosen candidates names the teacher's class.
    pub active: u64,
    /// Where the twin of random ones does.
    pub random: u64,
}

/// Whether active selection pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The difference may be chance.
    Undecided,
    /// Chosen candidates teach more than random ones.
    Pays,
    /// They teach less.
    Harms,
}

/// One-sided 95 % quantile of the normal distribution.
const DECIDES: f64 = 1.645;

impl Evidence {
    /// How many standard errors the chosen candidates' twin lies above the random ones': a test of two proportions, which is
    /// cautious here, since both are measured on the same images. 0 without images, and where both are always right.
    #[must_use]
    pub fn deviations(self) -> f64 {
        let images = self.images as f64;
        let pooled = (self.active + self.random) as f64 / (2.0 * images);
        let error = (2.0 * images * pooled * (1.0 - pooled)).sqrt();
        let difference = self.active as f64 - self.random as f64;
        if error > 0.0 { difference / error } else { 0.0 }
    }

    /// What follows.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self.deviations() {
            high if high > DECIDES => Verdict::Pays,
            low if low < -DECIDES => Verdict::Harms,
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Purpose, Stream};

    fn evidence(images: u64, active: u64, random: u64) -> Evidence {
        Evidence { images, active, random }
    }

    #[test]
    fn a_verdict_needs_a_difference_that_chance_does_not_make() {
        assert_eq!(Evidence::default().verdict(), Verdict::Undecided);
        assert_eq!(evidence(400, 400, 400).verdict(), Verdict::Undecided);
        assert_eq!(evidence(400, 388, 384).verdict(), Verdict::Undecided);
        assert_eq!(evidence(1_600, 1_280, 1_330).verdict(), Verdict::Harms);
        assert_eq!(evidence(1_600, 1_330, 1_280).verdict(), Verdict::Pays);
    }

    #[test]
    fn equal_twins_are_told_apart_in_at_most_one_of_ten_cases() {
        let right = |stream: Stream| (0..400).filter(|at| stream.unit(*at) < 0.85).count() as u64;
        let decided = (0..1_000).filter(|trial| {
            let stream = Stream::new(*trial, Purpose::Shuffle, 0);
            let found = evidence(400, right(stream.fork(0)), right(stream.fork(1)));
            found.verdict() != Verdict::Undecided
        });
        let decided = decided.count();
        assert!((60..=140).contains(&decided), "{decided} of 1000, one in ten expected");
    }

    #[test]
    fn a_batch_shifts_only_where_selection_harms_and_the_job_wants_it() {
        let guard = |shifts| Guard { share: 0.1, shifts };
        assert_eq!(guard(true).random(6_000, Verdict::Undecided), 600);
        assert_eq!(guard(true).random(6_000, Verdict::Pays), 600);
        assert_eq!(guard(true).random(6_000, Verdict::Harms), 5_400);
        assert_eq!(guard(false).random(6_000, Verdict::Harms), 600);
        assert_eq!(
            [1, 2, 3].map(|size| guard(true).random(size, Verdict::Undecided)),
            [0, 1, 1]
        );
        assert_eq!(guard(true).random(2, Verdict::Harms), 1);
    }

    #[test]
    fn every_seed_image_is_held_out_once_in_five_rounds() {
        for seed in 0..23 {
            assert_eq!((1..=5).filter(|round| is_held_out(*round, seed)).count(), 1);
        }
    }
}
