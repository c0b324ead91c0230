use pulp::Arch;
use stillhouse_core::job::Architecture;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{Acquisition, PairId};
use tch::Device;

use super::*;
use crate::network::NetworkSpec;
use crate::scoring::exact::Batched;

/// Every instruction set that this processor has, and none.
pub(in crate::scoring) fn architectures() -> Vec<Arch> {
    let mut architectures = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    architectures.extend(pulp::x86::V3::try_new().map(Arch::V3));
    architectures
}

fn images(shape: ImageShape, count: usize) -> Vec<Vec<u8>> {
    let stream = Stream::new(5, Purpose::Initialisation, 0);
    let byte = |at: usize| (stream.unit(at as u64) * 256.0) as u8;
    (0..count)
        .map(|image| (0..shape.len()).map(|at| byte(image * shape.len() + at)).collect())
        .collect()
}

#[test]
fn lanes_agree_with_the_network_on_every_instruction_set_and_for_odd_sizes() {
    let lambdas = Arc::new(LambdaGrid::new(0, 96, 6).expect("valid"));
    let _no_gradients = tch::no_grad_guard();
    for [channels, height, width] in [
        [1, 28, 28],
        [1, 8, 8],
        [3, 32, 32],
        [1, 9, 13],
        [2, 14, 11],
        [1, 30, 17],
    ] {
        let shape = ImageShape {
            channels,
            height,
            width,
        };
        for architecture in [Architecture::Lenet5, Architecture::Lenet5Half] {
            let spec = NetworkSpec::Zoo {
                architecture,
                shape,
                classes: 7,
            };
            let network = Network::build(&spec, 1, Device::Cpu).expect("fits");
            // More pairs than lanes, and not a multiple of them.
            let images = images(shape, 19);
            let pairs: Vec<Pair<'_>> = (0..18)
                .map(|at| Pair {
                    id: PairId(at as u64),
                    first: &images[at],
                    second: &images[at + 1],
                })
                .collect();
            let mut want = Vec::new();
            let shared = network.share().expect("shares");
            let mut exact = Batched::new(shared, shape, Arc::clone(&lambdas), Acquisition::Entropy);
            exact.score(&pairs, &mut want).expect("scores");
            for arch in architectures() {
                let mut layers = Layers::pack(&network).expect("packs").expect("a LeNet");
                layers.arch = arch;
                let mut fused = Fused::with_layers(Arc::new(layers), Arc::clone(&lambdas), Acquisition::Entropy);
                let mut got = Vec::new();
                fused.score(&pairs, &mut got).expect("scores");
                for (got, want) in got.iter().zip(&want) {
                    let difference = (got.score.score() - want.score.score()).abs();
                    assert!(difference < 1e-5, "{shape} {arch:?}: {got:?} {want:?}");
                }
                assert_eq!(got.len(), want.len());
            }
        }
    }
}

#[test]
fn images_that_need_too_much_memory_are_left_to_libtorch() {
    let shape = ImageShape {
        channels: 1,
        height: 1000,
        width: 1000,
    };
    let spec = NetworkSpec::Zoo {
        architecture: Architecture::Lenet5Half,
        shape,
        classes: 2,
    };
    let network = Network::build(&spec, 1, Device::Cpu).expect("fits");
    let lambdas = Arc::new(LambdaGrid::new(50, 50, 1).expect("valid"));
    assert!(
        Fused::new(&network, &lambdas, Acquisition::Margin)
            .expect("packs")
            .is_none()
    );
}
