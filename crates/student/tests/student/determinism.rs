//! Invariant I11: the student has the same bits for any number of ranks and threads.

use stillhouse_core::job::{Architecture, Mixing, Optimizer};
use stillhouse_student::train::{Augmentation, TrainConfig, Training, train};
use stillhouse_student::{Head, NetworkSpec};

use crate::world::{Noise, alone, config, generator, on, one, ring, small_script, training, zoo};

/// Enough for several steps an epoch, the last one smaller than the others and on fewer shards.
const SAMPLES: u64 = 118;

fn weights(training: &Training<'_>) -> Vec<u8> {
    alone(training).unwrap().network.weights().unwrap()
}

fn expect_equal_bits(spec: &NetworkSpec, config: &TrainConfig) {
    let noise = Noise::new(SAMPLES, spec.shape());
    let want = weights(&training(spec, noise.set(), config, 1));
    assert_eq!(weights(&training(spec, noise.set(), config, 2)), want, "two threads");
    for (ranks, threads) in [(2, 1), (2, 2), (3, 1), (5, 1)] {
        let training = training(spec, noise.set(), config, threads);
        let found = ring(ranks, |world| {
            train(&training, world, &mut on).unwrap().network.weights().unwrap()
        });
        assert!(
            found.iter().all(|weights| *weights == want),
            "{ranks} ranks of {threads} threads"
        );
    }
    let other = TrainConfig {
        seed: config.seed + 1,
        ..config.clone()
    };
    assert_ne!(
        weights(&training(spec, noise.set(), &other, 1)),
        want,
        "the seed matters"
    );
}

#[test]
fn a_plain_network_has_the_same_bits_in_every_world() {
    let augmentation = Augmentation::Jitter {
        degrees: 10.0,
        shift: 0.1,
    };
    expect_equal_bits(
        &zoo(Architecture::Lenet5Half, 1, 12),
        &TrainConfig {
            augmentation,
            ..config(3)
        },
    );
}

#[test]
fn batch_norm_and_dropout_have_the_same_bits_in_every_world() {
    let config = TrainConfig {
        augmentation: Augmentation::CropFlip,
        ..config(2)
    };
    expect_equal_bits(&zoo(Architecture::AlexnetHalf, 1, 16), &config);
}

#[test]
fn a_residual_network_under_adam_has_the_same_bits_in_every_world() {
    let config = TrainConfig {
        optimizer: Optimizer::Adam,
        learning_rate: 1e-3,
        ..config(1)
    };
    expect_equal_bits(&zoo(Architecture::Resnet20, 3, 8), &config);
}

#[test]
fn branches_and_mixed_batches_have_the_same_bits_in_every_world() {
    let config = TrainConfig {
        mixing: Mixing::Uniform,
        augmentation: Augmentation::Jitter {
            degrees: 10.0,
            shift: 0.1,
        },
        ..config(2)
    };
    expect_equal_bits(&one(Architecture::Resnet20, 1, 8, Head::Branch), &config);
}

#[test]
fn a_module_with_its_own_dropout_has_the_same_bits_in_every_world() {
    let _generator = generator();
    let noise_free = config(3);
    let spec = small_script();
    let noise = Noise::new(SAMPLES, spec.shape());
    let want = weights(&training(&spec, noise.set(), &noise_free, 1));
    for threads in [2, 4] {
        assert_eq!(
            weights(&training(&spec, noise.set(), &noise_free, threads)),
            want,
            "{threads} threads"
        );
    }
    let training = training(&spec, noise.set(), &noise_free, 1);
    let found = ring(3, |world| {
        train(&training, world, &mut on).unwrap().network.weights().unwrap()
    });
    assert!(found.iter().all(|weights| *weights == want), "three ranks");
}

#[test]
fn the_number_of_shards_is_part_of_the_recipe_and_changes_little() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let losses: Vec<f32> = [1, 2, 4]
        .into_iter()
        .map(|shards| TrainConfig { shards, ..config(2) })
        .map(|config| alone(&training(&spec, noise.set(), &config, 2)).unwrap().loss)
        .collect();
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-4), "{losses:?}");
}
