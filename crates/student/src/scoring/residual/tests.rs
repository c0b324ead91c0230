use stillhouse_core::Acquisition;
use stillhouse_core::job::Architecture;
use tch::{Device, Tensor};

use super::*;
use crate::network::NetworkSpec;
use crate::scoring::agreement::agrees;

/// A network with running statistics unlike those of the beginning.
fn lived_in(spec: &NetworkSpec) -> Network {
    let network = Network::build(spec, 1, Device::Cpu).expect("fits");
    let _no_gradients = tch::no_grad_guard();
    for (at, (name, tensor)) in network.parameters().chain(network.buffers()).enumerate() {
        let noise = Tensor::randn(tensor.size(), (tch::Kind::Float, Device::Cpu)) * 0.1;
        let mut tensor: Tensor = tensor.shallow_clone();
        match name.rsplit_once('.') {
            Some((_, "running_var")) => tensor += noise.abs(),
            Some((layer, "bias" | "running_mean")) if layer.contains("bn") => tensor += noise,
            Some((layer, "weight")) if layer.contains("bn") && at % 2 == 0 => tensor += noise,
            _ => {}
        }
    }
    network
}

#[test]
fn lanes_agree_with_the_network_on_every_instruction_set_and_for_odd_sizes() {
    tch::manual_seed(1);
    let _no_gradients = tch::no_grad_guard();
    for ([channels, height, width], architecture) in [
        ([3, 32, 32], Architecture::Resnet20),
        ([1, 28, 28], Architecture::Resnet20),
        ([2, 17, 39], Architecture::Resnet20),
        ([3, 32, 32], Architecture::Resnet32),
    ] {
        let shape = ImageShape {
            channels,
            height,
            width,
        };
        let spec = NetworkSpec::Zoo {
            architecture,
            shape,
            classes: 7,
        };
        let network = lived_in(&spec);
        agrees(&network, shape, 3, 1e-4, |arch, lambdas, acquisition| {
            let layers = pack::pack(&network, arch).expect("packs").expect("a residual network");
            Residual::with_layers(Arc::new(layers), lambdas, acquisition)
        });
    }
}

#[test]
fn networks_and_images_that_do_not_suit_the_lanes_are_left_to_libtorch() {
    let lambdas = Arc::new(LambdaGrid::new(50, 50, 1).expect("valid"));
    for (architecture, channels, side) in [
        (Architecture::Vgg16Bn, 3, 32),
        (Architecture::Lenet5, 1, 28),
        (Architecture::Resnet20, 3, 590),
    ] {
        let spec = NetworkSpec::Zoo {
            architecture,
            shape: ImageShape {
                channels,
                height: side,
                width: side,
            },
            classes: 2,
        };
        let network = Network::build(&spec, 1, Device::Cpu).expect("fits");
        let residual = Residual::new(&network, &lambdas, Acquisition::Margin).expect("packs");
        assert!(residual.is_none(), "{architecture:?} {side}");
    }
}
