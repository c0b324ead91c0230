//! What the tests of both kinds of lanes share: an approximation beside the definition of a score.

use std::sync::Arc;

use pulp::Arch;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{Acquisition, ImageShape, LambdaGrid, PairId};

use super::exact::Batched;
use super::{Pair, PairScorer};
use crate::network::Network;

/// Every instruction set that this processor has, and none.
pub(super) fn architectures() -> Vec<Arch> {
    let mut architectures = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    architectures.extend(pulp::x86::V3::try_new().map(Arch::V3));
    architectures
}

/// Scores `count` pairs of noise by entropy, as the definition has it and by what `approximation`
/// makes for each instruction set.
///
/// # Panics
/// When a score differs by `tolerance` or more.
pub(super) fn agrees<S: PairScorer>(
    network: &Network,
    shape: ImageShape,
    count: usize,
    tolerance: f32,
    mut approximation: impl FnMut(Arch, Arc<LambdaGrid>, Acquisition) -> S,
) {
    let lambdas = Arc::new(LambdaGrid::new(0, 96, 6).expect("valid"));
    let noise = Stream::new(5, Purpose::Initialisation, 0);
    let bytes: Vec<u8> = (0..((count + 1) * shape.len()) as u64)
        .map(|at| (noise.unit(at) * 256.0) as u8)
        .collect();
    let images: Vec<&[u8]> = bytes.chunks_exact(shape.len()).collect();
    let pairs: Vec<Pair<'_>> = (images.windows(2).enumerate())
        .map(|(at, images)| Pair {
            id: PairId(at as u64),
            first: images[0],
            second: images[1],
        })
        .collect();
    let mut want = Vec::new();
    let shared = network.share().expect("shares");
    let mut exact = Batched::new(shared, network.spec(), Arc::clone(&lambdas), Acquisition::Entropy);
    exact.score(&pairs, &mut want).expect("scores");
    for arch in architectures() {
        let mut got = Vec::new();
        let mut scorer = approximation(arch, Arc::clone(&lambdas), Acquisition::Entropy);
        scorer.score(&pairs, &mut got).expect("scores");
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            let difference = (got.score.score() - want.score.score()).abs();
            assert!(difference < tolerance, "{shape} {arch:?}: {got:?} {want:?}");
        }
    }
}
