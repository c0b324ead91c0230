use stillhouse_core::Acquisition;
use stillhouse_core::job::Architecture;
use tch::Device;

use super::*;
use crate::network::NetworkSpec;
use crate::scoring::agreement::agrees;

#[test]
fn lanes_agree_with_the_network_on_every_instruction_set_and_for_odd_sizes() {
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
            agrees(&network, shape, 18, 1e-5, |arch, lambdas, acquisition| {
                let mut layers = Layers::pack(&network).expect("packs").expect("a LeNet");
                layers.arch = arch;
                Fused::with_layers(Arc::new(layers), lambdas, acquisition)
            });
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
