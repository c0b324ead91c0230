//! The definition of a score on a card: candidates are mixed there too, from images that cross the
//! bus once a pair and not once a candidate.
//!
//! As on the processor, batches have one fixed number of rows, because cuBLAS and cuDNN choose their
//! kernels by it; the acquisition function is the same code, on the host. Scores have the same bits
//! on all cards of one kind, and differ from the processor's in the last bits.
//!
//! The approximation that a guarded scan uses is the same on matrix units that round operands to ten
//! bits (TF32).

use std::sync::Arc;

use stillhouse_core::LambdaGrid;
use stillhouse_core::pool::LAMBDA_DENOMINATOR;
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::Entry;
use tch::{Device, Kind, Tensor};

use super::{Best, Pair, PairScorer, ScoringError};
use crate::error::StudentError;
use crate::ffi::floats;
use crate::network::{Mode, Network, channels_last, unit_pixels};

/// Pixels times channels of a batch: enough to fill a card.
const BATCH_PIXELS: usize = 1 << 23;
/// Most rows of a batch.
const BATCH_ROWS: usize = 1024;
/// Pixels times channels that are mixed at once: some hundred megabytes while they are.
const MIXED_PIXELS: usize = 1 << 26;

/// Scores pairs by a network's answers on its card.
pub(super) struct OnCard {
    network: Network,
    /// Whether channels come last in memory, as matrix units want them.
    channels_last: bool,
    acquisition: Acquisition,
    lambdas: Arc<LambdaGrid>,
    /// Weights of the first and of the second image, `[1, lambdas, 1]`, in hundredths.
    weights: [Tensor; 2],
    rows: usize,
    /// First and second images of some pairs, one after another.
    bytes: [Vec<u8>; 2],
}

impl OnCard {
    pub(super) fn new(
        network: Network,
        lambdas: &Arc<LambdaGrid>,
        acquisition: Acquisition,
    ) -> Result<Self, ScoringError> {
        let hundredths = || lambdas.lambdas().iter().map(|lambda| i32::from(lambda.hundredths()));
        let first: Vec<i32> = hundredths().collect();
        let second: Vec<i32> = hundredths()
            .map(|weight| i32::from(LAMBDA_DENOMINATOR) - weight)
            .collect();
        let device = network.device();
        let tensor = |weights: &[i32]| -> Result<Tensor, StudentError> {
            Ok(Tensor::f_from_slice(weights)?.f_view([1, -1, 1])?.f_to_device(device)?)
        };
        let pixels = network.spec().shape().len().max(1);
        Ok(Self {
            acquisition,
            lambdas: Arc::clone(lambdas),
            weights: [tensor(&first)?, tensor(&second)?],
            rows: (BATCH_PIXELS / pixels).clamp(2, BATCH_ROWS),
            bytes: [Vec::new(), Vec::new()],
            channels_last: false,
            network,
        })
    }

    /// The same laid out for matrix units. They are used under [`Shortcuts`](crate::ffi::Shortcuts) alone.
    pub(super) fn approximate(self) -> Self {
        Self {
            channels_last: true,
            ..self
        }
    }

    /// The canonical bytes of all candidates of `pairs`, in order, `[candidates, c, h, w]`, followed
    /// by black images up to a whole number of batches. As `core::mix` has it: integers, halves up.
    fn mix(&mut self, pairs: &[Pair<'_>]) -> Result<Tensor, StudentError> {
        let (shape, device) = (self.network.spec().shape(), self.network.device());
        let image = |side: usize| -> Result<Tensor, StudentError> {
            let size = [pairs.len() as i64, 1, shape.len() as i64];
            let bytes = Tensor::f_from_data_size(&self.bytes[side], &size, Kind::Uint8)?;
            Ok(bytes.f_to_device(device)?.f_to_kind(Kind::Int)?)
        };
        let sum = image(0)?.f_mul(&self.weights[0])?;
        let mut sum = sum.f_add(&image(1)?.f_mul(&self.weights[1])?)?;
        let denominator = i64::from(LAMBDA_DENOMINATOR);
        let _same = sum.f_add_scalar_(denominator / 2)?;
        let mixed = sum.f_divide_scalar_mode(denominator, "trunc")?.f_to_kind(Kind::Uint8)?;
        let candidates = pairs.len() * self.lambdas.lambdas().len();
        let padded = candidates.next_multiple_of(self.rows);
        let size = [
            padded as i64,
            shape.channels.into(),
            shape.height.into(),
            shape.width.into(),
        ];
        let all = Tensor::f_zeros(size, (Kind::Uint8, device))?;
        all.f_narrow(0, 0, candidates as i64)?
            .f_view([candidates as i64, -1])?
            .f_copy_(&mixed.f_view([candidates as i64, -1])?)?;
        Ok(all)
    }

    /// Logits of `images`, batch by batch, on the host.
    fn logits(&self, images: &Tensor) -> Result<Tensor, StudentError> {
        let batches = images.size()[0] / self.rows as i64;
        let logits = (0..batches).map(|batch| {
            let batch = images.f_narrow(0, batch * self.rows as i64, self.rows as i64)?;
            let images = unit_pixels(&batch)?;
            if self.channels_last {
                self.network.forward(&channels_last(&images)?, Mode::Eval)
            } else {
                self.network.forward(&images, Mode::Eval)
            }
        });
        let logits = logits.collect::<Result<Vec<_>, StudentError>>()?;
        Ok(Tensor::f_cat(&logits, 0)?.f_to_device(Device::Cpu)?.f_contiguous()?)
    }

    fn score_some(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        self.bytes.iter_mut().for_each(Vec::clear);
        for pair in pairs {
            self.bytes[0].extend_from_slice(pair.first);
            self.bytes[1].extend_from_slice(pair.second);
        }
        let images = self.mix(pairs)?;
        let logits = self.logits(&images)?;
        let answers = floats(&logits).ok_or_else(|| StudentError::Torch("logits are not f32".to_owned()))?;
        let width = answers.len() / (images.size()[0] as usize).max(1);
        let classes = self.network.spec().classes();
        let mut answers = answers.chunks_exact(width);
        for pair in pairs {
            let mut best = Best::new(pair.id);
            for lambda in self.lambdas.lambdas() {
                let answer = answers.next().expect("a row for each candidate");
                best.take(self.acquisition, *lambda, answer, classes)?;
            }
            entries.push(best.entry());
        }
        Ok(())
    }
}

impl PairScorer for OnCard {
    /// Whole batches for any grid.
    const CHUNK_PAIRS: u64 = BATCH_ROWS as u64;

    fn score(&mut self, pairs: &[Pair<'_>], entries: &mut Vec<Entry>) -> Result<(), ScoringError> {
        let candidate = self.network.spec().shape().len() * self.lambdas.lambdas().len();
        let some = (MIXED_PIXELS / candidate.max(1)).clamp(1, pairs.len().max(1));
        pairs.chunks(some).try_for_each(|pairs| self.score_some(pairs, entries))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use stillhouse_core::mix::mix_into;
    use stillhouse_core::pool::Pairing;
    use stillhouse_core::sampler::{Purpose, Stream};
    use stillhouse_core::{ImageSet, ImageShape, PairId, Pool};

    use super::*;
    use crate::network::NetworkSpec;
    use crate::scoring::exact::Batched;
    use crate::scoring::walk::{Bound, Chunk, Walk, walk, walk_here};
    use stillhouse_core::job::Architecture;
    use stillhouse_core::sample::Sources;

    fn spec() -> NetworkSpec {
        NetworkSpec::Zoo {
            architecture: Architecture::Lenet5,
            shape: ImageShape {
                channels: 1,
                height: 8,
                width: 8,
            },
            classes: 10,
        }
    }

    fn images(count: u64) -> Vec<Vec<u8>> {
        let stream = Stream::new(5, Purpose::Calibration, 0);
        let image = |at: u64| (0..64).map(|pixel| stream.fork(at).at(pixel) as u8).collect();
        (0..count).map(image).collect()
    }

    fn pairs(images: &[Vec<u8>]) -> Vec<Pair<'_>> {
        let pairs = (0..).zip(images.iter().zip(&images[1..]));
        pairs
            .map(|(id, (first, second))| Pair {
                id: PairId(id),
                first,
                second,
            })
            .collect()
    }

    /// Every bit of it runs on the processor too.
    fn scorer(grid: &LambdaGrid) -> OnCard {
        let network = Network::build(&spec(), 3, Device::Cpu).expect("fits");
        OnCard::new(network, &Arc::new(grid.clone()), Acquisition::LeastConfidence).expect("fits")
    }

    #[test]
    fn candidates_are_mixed_to_the_canonical_bytes() {
        let grid = LambdaGrid::new(0, 100, 1).expect("valid");
        let images = images(40);
        let pairs = pairs(&images);
        let mut scorer = scorer(&grid);
        for pair in &pairs {
            scorer.bytes[0].extend_from_slice(pair.first);
            scorer.bytes[1].extend_from_slice(pair.second);
        }
        let mixed = scorer.mix(&pairs).expect("mixes");
        let rows = mixed.size()[0] as usize;
        assert!(rows.is_multiple_of(scorer.rows) && rows >= pairs.len() * 101);
        let found = Vec::<u8>::try_from(mixed.view([-1])).expect("bytes");
        let mut candidates = found.chunks_exact(64);
        let mut want = [0; 64];
        for pair in &pairs {
            for lambda in grid.lambdas() {
                mix_into(pair.first, pair.second, *lambda, &mut want);
                assert_eq!(candidates.next().expect("a row"), want, "{pair:?} {lambda:?}");
            }
        }
        assert!(candidates.all(|row| row == [0; 64]), "the rest is black");
    }

    #[test]
    fn scores_are_the_definitions_for_any_number_of_pairs() {
        let grid = LambdaGrid::new(30, 70, 4).expect("valid");
        let images = images(200);
        let pairs = pairs(&images);
        let network = Network::build(&spec(), 3, Device::Cpu).expect("fits");
        let mut exact = Batched::new(network, &spec(), Arc::new(grid.clone()), Acquisition::LeastConfidence);
        let (mut want, mut found) = (Vec::new(), Vec::new());
        exact.score(&pairs, &mut want).expect("scores");
        let mut scorer = scorer(&grid);
        scorer.score(&pairs[..7], &mut found).expect("scores");
        scorer.score(&pairs[7..], &mut found).expect("scores");
        assert_close(&want, &found);
    }

    fn assert_close(want: &[Entry], found: &[Entry]) {
        assert_eq!(want.len(), found.len());
        for (a, b) in want.iter().zip(found) {
            assert_eq!(a.pair, b.pair);
            assert!((a.score.score() - b.score.score()).abs() < 1e-6, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_card_is_walked_by_one_thread_as_a_processor_by_several() {
        let grid = LambdaGrid::new(30, 70, 4).expect("valid");
        let seeds = ImageSet::new(spec().shape(), images(60).concat()).expect("whole images");
        let plan = Walk {
            sources: Sources {
                seeds: &seeds,
                evaluation: None,
                generated: None,
                pool: Pool::new(60, Pairing::All),
            },
            pairs: &|at| PairId(at + 100),
            total: 1_500,
            range: Acquisition::LeastConfidence.range(10),
            noise: None,
            bound: &Bound::new(f32::INFINITY),
        };
        let network = Network::build(&spec(), 3, Device::Cpu).expect("fits");
        let mut exact = Batched::new(network, &spec(), Arc::new(grid.clone()), Acquisition::LeastConfidence);
        let (mut want, mut walked) = (Vec::new(), 0);
        let done = walk(vec![&mut exact], plan, |chunk| {
            walked += chunk.pairs;
            want.extend(chunk.entries);
            ControlFlow::Continue(())
        });
        done.expect("scores");
        want.sort_by_key(|entry| entry.pair);
        let (mut found, mut pairs) = (Vec::new(), 0);
        let mut consume = |chunk: Chunk| {
            pairs += chunk.pairs;
            found.extend(chunk.entries);
            ControlFlow::Continue(())
        };
        walk_here(&mut scorer(&grid), plan, &mut consume).expect("scores");
        assert_close(&want, &found);
        assert_eq!((pairs, walked), (1_500, 1_500));
        let mut before = 0;
        let broken = walk_here(&mut scorer(&grid), plan, |chunk| {
            before += chunk.pairs;
            ControlFlow::Break(())
        });
        broken.expect("whoever breaks off knows why");
        assert!(0 < before && before < 1_500, "{before}");
    }
}
