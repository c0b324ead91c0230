//! Weights survive a file, and nothing else passes for weights.

use stillhouse_core::job::Architecture;
use stillhouse_student::{Mode, Network, NetworkSpec, StudentError};
use tch::{Device, Kind, Tensor};

use crate::world::{generator, inputs, small_script, zoo};

fn logits(network: &Network) -> Vec<f32> {
    let shape = network.spec().shape();
    let size = [
        3,
        i64::from(shape.channels),
        i64::from(shape.height),
        i64::from(shape.width),
    ];
    let x = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu))
        .sin()
        .abs()
        .view(size);
    Vec::try_from(network.forward(&x, Mode::Eval).unwrap().flatten(0, -1)).unwrap()
}

fn specs() -> Vec<NetworkSpec> {
    let lenet = zoo(Architecture::Lenet5, 1, 28);
    vec![
        lenet,
        zoo(Architecture::AlexnetHalf, 3, 32),
        zoo(Architecture::Resnet20, 3, 32),
        small_script(),
    ]
}

#[test]
fn weights_survive_a_file_bit_for_bit() {
    for spec in specs() {
        let first = Network::build(&spec, 1, Device::Cpu).unwrap();
        for (_, buffer) in first.buffers() {
            let _ = buffer.shallow_clone().g_add_scalar_(0.25);
        }
        let bytes = first.weights().unwrap();
        let mut second = Network::build(&spec, 2, Device::Cpu).unwrap();
        assert_ne!(logits(&second), logits(&first));
        second.load_weights(&bytes).unwrap();
        assert_eq!(second.weights().unwrap(), bytes);
        assert_eq!(logits(&second), logits(&first));
    }
}

#[test]
fn initial_weights_depend_on_the_seed_alone() {
    let _generator = generator();
    let spec = zoo(Architecture::Resnet20, 3, 32);
    let weights = |seed| Network::build(&spec, seed, Device::Cpu).unwrap().weights().unwrap();
    tch::manual_seed(1);
    let first = weights(9);
    tch::manual_seed(2);
    assert_eq!(weights(9), first);
    assert_ne!(weights(10), first);
}

#[test]
fn initial_weights_spread_as_in_pytorch() {
    let network = Network::build(&zoo(Architecture::Lenet5, 1, 28), 3, Device::Cpu).unwrap();
    for (name, fan_in) in [("fc1.weight", 576.0), ("fc2.weight", 120.0), ("conv2.weight", 150.0)] {
        let (_, tensor) = network.parameters().find(|(found, _)| *found == name).unwrap();
        let bound = 1.0 / f64::sqrt(fan_in);
        let largest = tensor.abs().max().double_value(&[]);
        assert!(
            largest <= bound * 1.000_001 && largest > bound * 0.99,
            "{name}: {largest}, bound {bound}"
        );
        let std = tensor.std(false).double_value(&[]);
        assert!((std / (bound / 3.0_f64.sqrt()) - 1.0).abs() < 0.05, "{name}: {std}");
    }
    let network = Network::build(&zoo(Architecture::Resnet20, 3, 32), 3, Device::Cpu).unwrap();
    let (_, tensor) = network
        .parameters()
        .find(|(name, _)| *name == "layer3.1.conv1.weight")
        .unwrap();
    let std = tensor.std(false).double_value(&[]);
    assert!(
        (std / (2.0 / (64.0 * 9.0_f64)).sqrt() - 1.0).abs() < 0.02,
        "He, fan-out: {std}"
    );
}

#[test]
fn weights_of_another_network_are_refused_and_change_nothing() {
    let lenet = Network::build(&zoo(Architecture::Lenet5, 1, 28), 1, Device::Cpu).unwrap();
    let mut half = Network::build(&zoo(Architecture::Lenet5Half, 1, 28), 1, Device::Cpu).unwrap();
    let before = half.weights().unwrap();
    let error = half.load_weights(&lenet.weights().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weights do not fit the network: expected those of lenet5-half for 1x28x28 images and 10 classes, \
         found lenet5 for 1x28x28 images and 10 classes"
    );
    assert_eq!(half.weights().unwrap(), before);
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    let mut network = Network::build(&zoo(Architecture::Lenet5Half, 1, 12), 1, Device::Cpu).unwrap();
    let bytes = network.weights().unwrap();
    for length in (0..bytes.len()).step_by(1_013) {
        assert!(network.load_weights(&bytes[..length]).is_err(), "cut to {length}");
    }
    for at in 0..600 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x15;
        let _either_way = network.load_weights(&damaged);
    }
    let mut not_finite = bytes.clone();
    let end = not_finite.len();
    not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = network.load_weights(&not_finite).unwrap_err();
    assert!(
        matches!(error, StudentError::Weights { ref reason } if reason.contains("not finite")),
        "{error}"
    );
}

#[test]
fn the_tail_of_a_lenet_continues_its_first_layer() {
    let network = Network::build(&zoo(Architecture::Lenet5, 1, 28), 4, Device::Cpu).unwrap();
    let parts = network.lenet_parts().unwrap();
    let x = inputs(network.spec(), 5);
    let first = &parts.first;
    let (stride, padding) = ([first.stride; 2], [first.padding; 2]);
    let pooled = x
        .conv2d(&first.weight, first.bias.as_ref(), stride, padding, [1, 1], 1)
        .relu()
        .max_pool2d_default(2);
    let difference = parts.tail(&pooled).unwrap() - network.forward(&x, Mode::Eval).unwrap();
    assert!(difference.abs().max().double_value(&[]) < 1e-6);
    let resnet = Network::build(&zoo(Architecture::Resnet20, 3, 32), 4, Device::Cpu).unwrap();
    assert!(resnet.lenet_parts().is_none());
    assert_eq!(resnet.first_layer().unwrap().weight.size(), [16, 3, 3, 3]);
}

#[test]
fn one_handle_sees_what_another_loads() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let mut network = Network::build(&spec, 1, Device::Cpu).unwrap();
    let shared = network.share().unwrap();
    let other = Network::build(&spec, 2, Device::Cpu).unwrap();
    network.load_weights(&other.weights().unwrap()).unwrap();
    assert_eq!(logits(&shared), logits(&other));
}
