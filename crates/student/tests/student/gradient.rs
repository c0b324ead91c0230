//! The gradient that training applies is that of the loss that it reports.

use std::ops::ControlFlow;

use stillhouse_collective::Local;
use stillhouse_core::job::Architecture;
use stillhouse_student::train::{Init, TrainConfig, Training, train};
use stillhouse_student::{Network, NetworkSpec};
use tch::{Device, Kind, Tensor};

use crate::world::{Noise, config, training, zoo};

/// Few, so that their gradients do not cancel out.
const SAMPLES: u64 = 4;
const RATE: f64 = 0.01;

/// One plain step over all samples.
fn one_step() -> TrainConfig {
    TrainConfig {
        batch: SAMPLES as usize,
        learning_rate: RATE,
        momentum: 0.0,
        weight_decay: 0.0,
        warmup_steps: 0,
        ..config(1)
    }
}

/// Loss at `network`'s weights, and the network after one step.
fn step(spec: &NetworkSpec, network: &Network, noise: &Noise) -> (f64, Network) {
    let (config, weights) = (one_step(), network.weights().unwrap());
    let training = Training {
        init: Init::Weights(&weights),
        ..training(spec, noise.set(), &config, 1)
    };
    let mut loss = 0.0;
    let mut observer = |progress: &stillhouse_student::train::Progress, _: &stillhouse_student::train::Session| {
        loss = f64::from(progress.loss);
        ControlFlow::Continue(())
    };
    let trained = train(&training, &mut Local, &mut observer).unwrap();
    (loss, trained.network)
}

/// A copy of `network` with parameter `at` moved by `delta`.
fn moved(network: &Network, at: usize, delta: &Tensor) -> Network {
    let mut copy = Network::build(network.spec(), 0, Device::Cpu).unwrap();
    copy.load_weights(&network.weights().unwrap()).unwrap();
    let (_, parameter) = copy.parameters().nth(at).unwrap();
    let _ = parameter.shallow_clone().g_add_(delta);
    copy
}

fn check(spec: &NetworkSpec) {
    let noise = Noise::new(SAMPLES, spec.shape());
    let network = Network::build(spec, 5, Device::Cpu).unwrap();
    // Fresh networks are so flat that float losses cannot resolve the slope of the first layer.
    for (_, parameter) in network.parameters() {
        let _ = parameter.shallow_clone().g_mul_scalar_(2.0);
    }
    let (_, after) = step(spec, &network, &noise);
    for (at, ((name, before), (_, after))) in network.parameters().zip(after.parameters()).enumerate() {
        let gradient = (before - after) / RATE;
        let slope = gradient.norm().double_value(&[]);
        assert!(slope > 0.0, "{name} is trained");
        let far = (1e-3 / slope).min(0.01);
        let delta = gradient / slope * far;
        let (up, _) = step(spec, &moved(&network, at, &delta), &noise);
        let (down, _) = step(spec, &moved(&network, at, &(-&delta)), &noise);
        let found = (up - down) / (2.0 * far);
        // Noise of float losses is 1e-3 of the change; kinks of ReLU and pooling add up to 3e-2.
        assert!(
            (found / slope - 1.0).abs() < 0.06,
            "{name}: slope {slope}, differences {found}"
        );
    }
}

#[test]
fn every_parameter_of_a_lenet_follows_the_slope_of_the_loss() {
    check(&zoo(Architecture::Lenet5Half, 1, 12));
}

#[test]
fn the_loss_is_the_mean_soft_cross_entropy() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let network = Network::build(&spec, 5, Device::Cpu).unwrap();
    let (loss, _) = step(&spec, &network, &noise);
    let x = Tensor::from_data_size(&noise.images, &[SAMPLES as i64, 1, 12, 12], Kind::Uint8);
    let x = stillhouse_student::unit_pixels(&x).unwrap();
    let logits = network.forward(&x, stillhouse_student::Mode::Eval).unwrap();
    let labels = Tensor::from_slice(&noise.labels).view([SAMPLES as i64, 10]);
    let want = -(logits.log_softmax(-1, Kind::Float) * labels)
        .sum(Kind::Double)
        .double_value(&[])
        / SAMPLES as f64;
    assert!((loss - want).abs() < 1e-5, "{loss} and {want}");
}
