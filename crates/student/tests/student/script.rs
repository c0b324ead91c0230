//! Students that come as TorchScript.

use std::sync::Arc;

use stillhouse_core::ImageShape;
use stillhouse_student::{Network, NetworkSpec, StudentError};
use tch::Device;

use crate::world::{Noise, alone, config, small_script, training};

fn build_error(spec: &NetworkSpec) -> String {
    Network::build(spec, 0, Device::Cpu).expect_err("refused").to_string()
}

#[test]
fn a_module_trains_and_its_running_statistics_move() {
    let spec = small_script();
    let noise = Noise::new(64, spec.shape());
    let config = config(20);
    let trained = alone(&training(&spec, noise.set(), &config, 2)).unwrap();
    let start = alone(&training(
        &spec,
        noise.set(),
        &stillhouse_student::train::TrainConfig {
            epochs: 1,
            ..config.clone()
        },
        2,
    ))
    .unwrap();
    assert!(trained.loss < start.loss, "{} after {}", trained.loss, start.loss);
    let (name, mean) = trained.network.buffers().next().unwrap();
    assert_eq!(name, "bn.running_mean");
    assert!(mean.abs().max().double_value(&[]) > 0.0);
}

#[test]
fn names_and_count_are_those_of_the_module() {
    let network = Network::build(&small_script(), 0, Device::Cpu).unwrap();
    let names: Vec<&str> = network.parameters().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "conv.weight",
            "conv.bias",
            "bn.weight",
            "bn.bias",
            "head.weight",
            "head.bias"
        ]
    );
    assert_eq!(network.parameter_count(), 36 + 4 + 4 + 4 + 640 + 10);
}

#[test]
fn a_module_for_other_classes_or_images_is_refused() {
    let NetworkSpec::TorchScript { module, shape, .. } = small_script() else {
        unreachable!("it is TorchScript");
    };
    let spec = NetworkSpec::TorchScript {
        module: Arc::clone(&module),
        shape,
        classes: 7,
    };
    let message = build_error(&spec);
    assert!(
        message.contains("gives [2, 10] of Float for input [2, 1, 8, 8], expected [2, 7]"),
        "{message}"
    );
    let shape = ImageShape {
        channels: 3,
        height: 8,
        width: 8,
    };
    let message = build_error(&NetworkSpec::TorchScript {
        module,
        shape,
        classes: 10,
    });
    assert!(
        message.starts_with("the TorchScript student fails in forward"),
        "{message}"
    );
}

#[test]
fn bytes_that_are_no_module_are_refused() {
    let NetworkSpec::TorchScript { module, shape, classes } = small_script() else {
        unreachable!("it is TorchScript");
    };
    for length in [0, 1, 100, module.len() / 2, module.len() - 30] {
        let module: Arc<[u8]> = module[..length].into();
        let error = Network::build(&NetworkSpec::TorchScript { module, shape, classes }, 0, Device::Cpu).unwrap_err();
        assert!(matches!(error, StudentError::Script { .. }), "{length}: {error}");
    }
}
