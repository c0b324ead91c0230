//! Seeded draws, one after another: what an ordeal or a tormentor does next.

use std::time::Duration;

use crate::sampler::Stream;

/// Draws that depend on a stream and on what was drawn before alone.
#[derive(Clone, Debug)]
pub struct Dice {
    stream: Stream,
    drawn: u64,
}

impl Dice {
    /// Draws of `stream`, from its first on.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, drawn: 0 }
    }

    /// Uniform in `0..bound`; `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        self.stream.below(self.drawn, bound)
    }

    /// Uniform in `least..=most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// `true` in so many of a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of `choices`, of which there is at least one.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Between two durations, with a uniform logarithm: short ones are as likely as long ones.
    pub fn duration(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let growth = longest.as_secs_f64() / shortest.as_secs_f64();
        shortest.mul_f64(growth.powf(f64::from(self.unit())))
    }

    /// A time until the next of many events that know nothing of each other and come `mean` apart, to the millisecond:
    /// exponential, and at most 17 times the mean.
    pub fn gap(&mut self, mean: Duration) -> Duration {
        // 1 - u is never 0.
        let waits = -f64::from(1.0 - self.unit()).ln();
        Duration::from_millis((mean.as_secs_f64() * waits * 1e3).round() as u64)
    }

    fn unit(&mut self) -> f32 {
        self.drawn += 1;
        self.stream.unit(self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Purpose;

    fn dice(seed: u64) -> Dice {
        Dice::new(Stream::new(seed, Purpose::Blows, 0))
    }

    #[test]
    fn gaps_have_the_mean_that_was_asked_for_and_are_exponential() {
        let (mut dice, mean) = (dice(1), Duration::from_secs(30));
        let gaps: Vec<f64> = (0..20_000).map(|_| dice.gap(mean).as_secs_f64()).collect();
        let found = gaps.iter().sum::<f64>() / gaps.len() as f64;
        // The mean of 20,000 has a standard error of 0.7 %.
        assert!((found / 30.0 - 1.0).abs() < 0.03, "{found} s");
        let longer = gaps.iter().filter(|gap| **gap > 30.0).count() as f64 / gaps.len() as f64;
        assert!(
            (longer - (-1.0_f64).exp()).abs() < 0.02,
            "{longer} are longer than the mean"
        );
    }

    #[test]
    fn a_seed_fixes_what_is_drawn() {
        let draw = |seed| -> Vec<u64> {
            let mut dice = dice(seed);
            (0..50).map(|_| dice.between(3, 1_000)).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|drawn| (3..=1_000).contains(drawn)));
    }
}
