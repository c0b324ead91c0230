//! In-batch mixing: every sample of a batch is mixed with another one of the batch, together with its
//! soft label. No query is spent.
//!
//! Source: FS-BBT (arXiv 2207.12106), released code; weights from Beta(1, 1), which is uniform, here in
//! hundredths like every other mix.

use std::ops::Range;

use stillhouse_core::Lambda;
use stillhouse_core::job::Mixing;
use stillhouse_core::sampler::{Purpose, Stream};

use super::config::TrainConfig;
use super::shard::Step;

/// What a sample is mixed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Partner {
    /// Position in the transfer set.
    pub(crate) sample: u32,
    /// Weight of the sample itself.
    pub(crate) lambda: Lambda,
}

/// The partners of the samples `range` of `step`: a function of the step and the whole batch, so that
/// it does not matter how the batch is cut. `None` when nothing is mixed.
pub(crate) fn partners(config: &TrainConfig, step: &Step<'_>, range: Range<usize>) -> Option<Vec<Partner>> {
    match config.mixing {
        Mixing::None => None,
        Mixing::Uniform => {
            let stream = Stream::new(config.seed, Purpose::Mixing, config.round).fork(step.index);
            let order = stream.fork(0).permutation(step.samples.len() as u32);
            let weights = stream.fork(1);
            let partner = |at: usize| Partner {
                sample: step.samples[order[at] as usize],
                lambda: lambda(weights.unit(at as u64)),
            };
            Some(range.map(partner).collect())
        }
    }
}

/// `unit`, in `0..1`, to the nearest hundredth.
fn lambda(unit: f32) -> Lambda {
    Lambda::from_hundredths((unit * 100.0).round() as u8).expect("at most 100")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::tests::config;
    use stillhouse_core::job::Schedule;

    #[test]
    fn partners_are_a_permutation_of_the_batch_however_it_is_cut() {
        let config = TrainConfig {
            mixing: Mixing::Uniform,
            ..config(1, Schedule::Cosine, 0)
        };
        let samples: Vec<u32> = (100..164).collect();
        let step = |index| Step {
            index,
            epoch: 0,
            samples: &samples,
        };
        let all = partners(&config, &step(3), 0..64).expect("mixes");
        let mut found: Vec<u32> = all.iter().map(|partner| partner.sample).collect();
        assert_ne!(found, samples);
        found.sort_unstable();
        assert_eq!(found, samples);
        let halves = [0..32, 32..64].map(|range| partners(&config, &step(3), range).expect("mixes"));
        assert_eq!(halves.concat(), all);
        assert_ne!(partners(&config, &step(4), 0..64).expect("mixes"), all);
        let mean: f32 = all.iter().map(|partner| partner.lambda.as_f32()).sum::<f32>() / 64.0;
        assert!((0.3..0.7).contains(&mean), "{mean}");
    }

    #[test]
    fn nothing_is_mixed_unless_asked_for() {
        let step = Step {
            index: 0,
            epoch: 0,
            samples: &[1, 2],
        };
        assert_eq!(partners(&config(1, Schedule::Cosine, 0), &step, 0..2), None);
    }
}
