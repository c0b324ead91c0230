//! Multi-branch students (ONE): what is deployed is what was trained.

use stillhouse_core::job::Architecture;
use stillhouse_student::export::torchscript;
use stillhouse_student::train::{Init, TrainConfig, Training};
use stillhouse_student::{Head, Mode, Network, NetworkSpec, StudentError};
use tch::{CModule, Device, Kind, Tensor};

use crate::world::{Noise, alone, config, inputs, one, training, zoo};

/// Networks of every kind that can be branched.
const KINDS: [(Architecture, u32, u32); 4] = [
    (Architecture::Lenet5, 1, 12),
    (Architecture::AlexnetHalf, 3, 32),
    (Architecture::Resnet20, 3, 16),
    (Architecture::Vgg16Bn, 3, 32),
];

fn trained(spec: &NetworkSpec, settings: &TrainConfig) -> Network {
    let noise = Noise::new(32, spec.shape());
    alone(&training(spec, noise.set(), settings, 1)).unwrap().network
}

fn logits(network: &Network, x: &Tensor) -> Tensor {
    network.forward(x, Mode::Eval).unwrap()
}

#[test]
fn the_deployed_branch_is_a_plain_network_with_the_bits_of_the_branch_inside_the_whole() {
    for (architecture, channels, side) in KINDS {
        let spec = one(architecture, channels, side, Head::Branch);
        let whole = trained(&spec, &config(1));
        let deployed = whole.deployed().unwrap();
        let plain = zoo(architecture, channels, side);
        assert_eq!(deployed.spec(), &plain);
        // It goes through the file of a plain network.
        let mut alone = Network::build(&plain, 0, Device::Cpu).unwrap();
        alone.load_weights(&deployed.weights().unwrap()).unwrap();
        let x = inputs(&spec, 5);
        let want = logits(&whole, &x);
        assert_eq!(logits(&alone, &x), want, "{}", plain.name());
        let committee = logits(&whole.committee().unwrap(), &x);
        assert_eq!(committee.size(), [5, 30]);
        assert_eq!(committee.narrow(1, 0, 10), want, "{}", plain.name());
        assert_ne!(committee.narrow(1, 10, 10), want, "branches differ");
    }
}

#[test]
fn what_is_exported_is_the_head() {
    for head in [Head::Branch, Head::Ensemble] {
        let spec = one(Architecture::Lenet5, 1, 12, head);
        let network = trained(&spec, &config(1));
        let module = torchscript(&network).unwrap();
        let module = CModule::load_data(&mut module.as_slice()).unwrap();
        let x = inputs(&spec, 5);
        assert_eq!(module.forward_ts(&[&x]).unwrap(), logits(&network, &x), "{head:?}");
    }
}

#[test]
fn the_ensemble_weighs_its_branches_and_is_among_them() {
    let spec = one(Architecture::Lenet5, 1, 12, Head::Ensemble);
    let network = trained(&spec, &config(2));
    let x = inputs(&spec, 5);
    let ensemble = logits(&network, &x);
    let members = logits(&network.committee().unwrap(), &x).view([5, 3, 10]);
    let (low, high) = (
        members.amin([1_i64].as_slice(), false),
        members.amax([1_i64].as_slice(), false),
    );
    let within = ensemble
        .ge_tensor(&(low - 1e-5))
        .logical_and(&ensemble.le_tensor(&(high + 1e-5)));
    assert_eq!(within.all(), Tensor::from(true));
    assert_ne!(
        ensemble,
        members.mean_dim([1_i64].as_slice(), false, Kind::Float),
        "the gate is trained"
    );
}

#[test]
fn weights_of_branches_say_so_and_load_again() {
    let spec = one(Architecture::Resnet20, 3, 16, Head::Branch);
    let network = trained(&spec, &config(1));
    let weights = network.weights().unwrap();
    assert_eq!(NetworkSpec::of_weights(&weights).unwrap(), spec);
    let noise = Noise::new(32, spec.shape());
    let settings = config(1);
    let warm = Training {
        init: Init::Weights(&weights),
        ..training(&spec, noise.set(), &settings, 1)
    };
    assert!(alone(&warm).is_ok());
    let mut plain = Network::build(&zoo(Architecture::Resnet20, 3, 16), 0, Device::Cpu).unwrap();
    let message = plain.load_weights(&weights).unwrap_err().to_string();
    assert!(message.contains("in 3 branches"), "{message}");
}

#[test]
fn the_reported_loss_is_that_of_the_head_before_the_step() {
    let spec = one(Architecture::Lenet5, 1, 12, Head::Branch);
    let noise = Noise::new(32, spec.shape());
    let settings = TrainConfig {
        learning_rate: 1e-12,
        ..config(1)
    };
    let trained = alone(&training(&spec, noise.set(), &settings, 1)).unwrap();
    let x = Tensor::from_data_size(&noise.images, &[32, 1, 12, 12], Kind::Uint8);
    let x = stillhouse_student::unit_pixels(&x).unwrap();
    let labels = Tensor::from_slice(&noise.labels).view([32, 10]);
    let want = -(logits(&trained.network, &x).log_softmax(-1, Kind::Float) * labels)
        .sum(Kind::Double)
        .double_value(&[])
        / 32.0;
    assert!(
        (f64::from(trained.loss) - want).abs() < 1e-4,
        "{} and {want}",
        trained.loss
    );
}

#[test]
fn a_student_without_branches_has_no_committee() {
    let network = Network::build(&zoo(Architecture::Lenet5, 1, 12), 0, Device::Cpu).unwrap();
    assert!(matches!(network.committee(), Err(StudentError::Misfit { .. })));
    for branches in [0, 1, 17] {
        let mut spec = one(Architecture::Lenet5, 1, 12, Head::Branch);
        if let NetworkSpec::One { branches: count, .. } = &mut spec {
            *count = branches;
        }
        let message = Network::build(&spec, 0, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains("expected 2 to 16 branches"), "{message}");
    }
}
