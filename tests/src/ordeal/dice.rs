//! Seeded draws, one after another.

use std::time::Duration;

use stillhouse_core::sampler::{Purpose, Stream};

/// Draws that depend on the seed and the number of the job alone.
pub(super) struct Dice {
    stream: Stream,
    drawn: u64,
}

impl Dice {
    pub(super) fn new(seed: u64, job: u64) -> Self {
        Self {
            stream: Stream::new(seed, Purpose::Shuffle, job),
            drawn: 0,
        }
    }

    /// Uniform in `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        self.stream.below(self.drawn, bound)
    }

    /// Uniform in `least..=most`.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// `true` in so many of a hundred.
    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of `choices`.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Between two durations, with a uniform logarithm: short ones are as likely as long ones.
    pub(super) fn duration(&mut self, shortest: Duration, longest: Duration) -> Duration {
        self.drawn += 1;
        let growth = longest.as_secs_f64() / shortest.as_secs_f64();
        shortest.mul_f64(growth.powf(f64::from(self.stream.unit(self.drawn))))
    }
}
