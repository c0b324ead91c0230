//! What training says when it cannot go on.

use std::ops::ControlFlow;

use stillhouse_collective::Local;
use stillhouse_core::ImageShape;
use stillhouse_core::job::Architecture;
use stillhouse_student::train::{TrainConfig, TransferSet, train};
use stillhouse_student::{Network, NetworkSpec, StudentError};
use tch::Device;

use crate::world::{Noise, alone, config, ring, training, zoo};

fn lenet() -> NetworkSpec {
    zoo(Architecture::Lenet5Half, 1, 12)
}

#[test]
fn a_loss_that_is_no_number_names_its_step() {
    let (spec, config) = (
        lenet(),
        TrainConfig {
            learning_rate: 1e12,
            warmup_steps: 0,
            ..config(5)
        },
    );
    let noise = Noise::new(64, spec.shape());
    let error = alone(&training(&spec, noise.set(), &config, 1)).unwrap_err();
    assert!(matches!(error, StudentError::Diverged { step: 1.., .. }), "{error}");
    assert!(error.to_string().starts_with("training diverged at step "), "{error}");
}

#[test]
fn the_observer_stops_training() {
    let (spec, config) = (lenet(), config(5));
    let noise = Noise::new(64, spec.shape());
    let mut seen = 0;
    let mut observer = |progress: &stillhouse_student::train::Progress, _: &stillhouse_student::train::Session| {
        seen = progress.step;
        if progress.step == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let error = train(&training(&spec, noise.set(), &config, 2), &mut Local, &mut observer).unwrap_err();
    assert!(matches!(error, StudentError::Stopped { step: 3 }), "{error}");
    assert_eq!(seen, 3);
}

#[test]
fn the_others_learn_that_a_rank_is_gone() {
    let (spec, config) = (lenet(), config(50));
    let noise = Noise::new(64, spec.shape());
    let training = training(&spec, noise.set(), &config, 1);
    let errors = ring(3, |world| {
        let leaves = world.rank() == 1;
        let mut observer = |progress: &stillhouse_student::train::Progress, _: &stillhouse_student::train::Session| {
            if leaves && progress.step == 4 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        train(&training, world, &mut observer).map(|trained| trained.steps)
    });
    for (rank, result) in errors.into_iter().enumerate() {
        match (rank, result) {
            (1, Err(StudentError::Stopped { step: 4 })) => {}
            (0 | 2, Err(StudentError::Collective { step: 4, .. })) => {}
            (rank, other) => panic!("rank {rank}: {other:?}"),
        }
    }
}

#[test]
fn data_that_does_not_fit_is_named() {
    let (spec, config) = (lenet(), config(1));
    let noise = Noise::new(4, spec.shape());
    let cases = [
        (
            TransferSet {
                images: &noise.images[1..],
                ..noise.set()
            },
            "575 bytes are not a whole number of 1x12x12 images",
        ),
        (
            TransferSet {
                labels: &noise.labels[10..],
                ..noise.set()
            },
            "expected 4 labels of 10 probabilities, found 30 numbers",
        ),
        (
            TransferSet {
                images: &noise.images[..144],
                labels: &noise.labels[..10],
            },
            "expected at least 2 samples, found 1",
        ),
    ];
    for (set, want) in cases {
        let error = alone(&training(&spec, set, &config, 1)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot train: {want}"));
    }
    let labels = vec![f32::NAN; 40];
    let error = alone(&training(
        &spec,
        TransferSet {
            labels: &labels,
            ..noise.set()
        },
        &config,
        1,
    ))
    .unwrap_err();
    assert_eq!(error.to_string(), "cannot train: label 0 holds NaN");
}

#[test]
fn networks_that_do_not_fit_the_images_say_why() {
    let error = Network::build(&zoo(Architecture::Vgg16Bn, 1, 28), 0, Device::Cpu).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vgg16-bn does not fit 1x28x28 images: pool5 needs at least 2x2 pixels and finds 1x1"
    );
    let shape = ImageShape {
        channels: u32::MAX,
        height: u32::MAX,
        width: u32::MAX,
    };
    for (shape, classes) in [
        (shape, 10),
        (
            ImageShape {
                channels: 1,
                height: 28,
                width: 28,
            },
            1,
        ),
    ] {
        let spec = NetworkSpec::Zoo {
            architecture: Architecture::Lenet5,
            shape,
            classes,
        };
        assert!(matches!(
            Network::build(&spec, 0, Device::Cpu),
            Err(StudentError::Misfit { .. })
        ));
    }
}
