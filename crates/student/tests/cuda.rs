//! What holds on a card: the same bits for any number of ranks and threads, and the processor's
//! numbers up to rounding. Skipped without a card, unless `STILLHOUSE_EXPECT_CUDA` is set.
//!
//! A program of its own, because a card must be opened before anything else is done with libtorch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use stillhouse_collective::Local;
use stillhouse_core::job::{Architecture, Determinism, Mixing, Optimizer};
use stillhouse_core::pool::Pairing;
use stillhouse_core::selection::{GUARD_FACTOR, select};
use stillhouse_core::{Acquisition, ImageSet, LambdaGrid, PairId, Pool};
use stillhouse_student::device::{self, Wanted};
use stillhouse_student::scoring::{Keep, ScanMode, Scorer, ScorerConfig};
use stillhouse_student::train::{Augmentation, EvaluationSet, Session, TrainConfig, Training, train};
use stillhouse_student::{Head, Network, NetworkSpec, StudentError, export};
use tch::Device;
use world::{Noise, alone, config, inputs, on, one, ring, training, zoo};

#[allow(dead_code, reason = "shared with the tests on the processor, which use all of it")]
#[path = "student/world.rs"]
mod world;

const SAMPLES: u64 = 118;

/// The card, opened once, for one test at a time: how precisely it computes is a mode of the process.
fn card() -> Option<(Device, MutexGuard<'static, ()>)> {
    static CARD: OnceLock<Result<Device, String>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let found = CARD.get_or_init(|| device::open(Wanted::Cuda(None), 0).map_err(|error| error.to_string()));
    match found {
        Ok(card) => Some((*card, TURN.lock().unwrap_or_else(PoisonError::into_inner))),
        Err(reason) => {
            println!("skipped: {reason}");
            assert!(
                std::env::var_os("STILLHOUSE_EXPECT_CUDA").is_none(),
                "skipped: {reason}"
            );
            None
        }
    }
}

/// Networks with every kind of layer, at sizes that train in seconds.
fn networks() -> Vec<NetworkSpec> {
    vec![
        zoo(Architecture::Lenet5, 1, 28),
        zoo(Architecture::Alexnet, 3, 32),
        zoo(Architecture::Resnet20, 3, 32),
        zoo(Architecture::Vgg16Bn, 3, 32),
        one(Architecture::Resnet20, 3, 32, Head::Branch),
    ]
}

#[test]
fn the_student_has_the_same_bits_in_every_world() {
    let Some((card, _turn)) = card() else { return };
    let augmentation = Augmentation::Jitter {
        degrees: 10.0,
        shift: 0.1,
    };
    for spec in networks() {
        for config in [
            TrainConfig {
                augmentation,
                mixing: Mixing::Uniform,
                ..config(1)
            },
            TrainConfig {
                augmentation: Augmentation::CropFlip,
                optimizer: Optimizer::Adam,
                learning_rate: 1e-3,
                ..config(1)
            },
        ] {
            let noise = Noise::new(SAMPLES, spec.shape());
            let on_card = |threads| Training {
                device: card,
                ..training(&spec, noise.set(), &config, threads)
            };
            let weights = |training: &Training<'_>| alone(training).unwrap().network.weights().unwrap();
            let want = weights(&on_card(1));
            assert!(weights(&on_card(1)) == want, "{spec:?}: a second time");
            assert!(weights(&on_card(4)) == want, "{spec:?}: four threads");
            for ranks in [2, 3] {
                let training = on_card(2);
                let found = ring(ranks, |world| {
                    train(&training, world, &mut on).unwrap().network.weights().unwrap()
                });
                assert!(found.iter().all(|weights| *weights == want), "{spec:?}: {ranks} ranks");
            }
        }
    }
}

fn largest_difference(a: &Network, b: &Network) -> f64 {
    let pairs = a.parameters().zip(b.parameters());
    let differences = pairs.map(|((_, a), (_, b))| {
        (a.to_device(Device::Cpu) - b.to_device(Device::Cpu))
            .abs()
            .max()
            .double_value(&[])
    });
    differences.fold(0.0, f64::max)
}

#[test]
fn a_few_steps_lead_where_they_lead_on_the_processor() {
    let Some((card, _turn)) = card() else { return };
    for spec in networks() {
        // One step: batch normalisation makes much of little after it, where a feature hardly varies.
        let noise = Noise::new(64, spec.shape());
        let config = TrainConfig {
            augmentation: Augmentation::CropFlip,
            learning_rate: 0.01,
            batch: 64,
            shards: 1,
            warmup_steps: 0,
            ..config(1)
        };
        let here = training(&spec, noise.set(), &config, 2);
        let there = Training {
            device: card,
            ..here.clone()
        };
        let (here, there) = (alone(&here).unwrap(), alone(&there).unwrap());
        let difference = largest_difference(&here.network, &there.network);
        let loss = (here.loss - there.loss).abs();
        println!("{spec:?}: weights differ by {difference}, losses by {loss}");
        assert!(difference < 2e-3, "{spec:?}: weights differ by {difference}");
        assert!(loss < 1e-4, "{spec:?}: losses {} and {}", here.loss, there.loss);
    }
}

#[test]
fn fast_training_sums_up_on_the_card_too() {
    let Some((card, _turn)) = card() else { return };
    let spec = zoo(Architecture::Lenet5, 1, 28);
    let noise = Noise::new(SAMPLES, spec.shape());
    let config = TrainConfig {
        determinism: Determinism::Fast,
        ..config(1)
    };
    let training = Training {
        device: card,
        ..training(&spec, noise.set(), &config, 2)
    };
    let single = alone(&training).unwrap();
    let double = ring(2, |world| train(&training, world, &mut on).unwrap());
    let difference = largest_difference(&single.network, &double[0].network);
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn a_training_goes_on_from_its_state_with_the_same_bits() {
    let Some((card, _turn)) = card() else { return };
    let spec = zoo(Architecture::AlexnetHalf, 3, 32);
    let noise = Noise::new(SAMPLES, spec.shape());
    let config = config(2);
    let training = Training {
        device: card,
        ..training(&spec, noise.set(), &config, 2)
    };
    let want = alone(&training).unwrap().network.weights().unwrap();
    let mut begun = Session::begin(&training).unwrap();
    let stopped = begun.train(&training, &mut Local, &mut |progress, _| {
        if progress.step == 5 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(StudentError::Stopped { step: 5 })), "{stopped:?}");
    let mut resumed = Session::resume(&training, &begun.state().unwrap()).unwrap();
    resumed.train(&training, &mut Local, &mut on).unwrap();
    assert!(resumed.network().weights().unwrap() == want);
}

#[test]
fn what_is_measured_and_exported_is_what_the_processor_finds() {
    let Some((card, _turn)) = card() else { return };
    let spec = zoo(Architecture::Resnet20, 3, 32);
    let noise = Noise::new(256, spec.shape());
    let there = Network::build(&spec, 5, card).unwrap();
    let mut here = Network::build(&spec, 0, Device::Cpu).unwrap();
    here.load_weights(&there.weights().unwrap()).unwrap();
    let classes: Vec<u16> = (0..256).map(|at| at % 10).collect();
    let set = EvaluationSet {
        images: &noise.images,
        classes: Some(&classes),
        teacher: &[(3, 1), (9, 2)],
    };
    let measure = |network| stillhouse_student::train::evaluate(network, &set, 0..256, 3).unwrap();
    let (on_card, on_processor) = (measure(&there), measure(&here));
    assert_eq!((on_card.labelled, on_card.answered), (256, 2));
    // Noise has near ties.
    assert!(
        on_card.correct.abs_diff(on_processor.correct) <= 2,
        "{on_card:?} {on_processor:?}"
    );
    let x = inputs(&spec, 8);
    let module = export::torchscript(&here).unwrap();
    let exported = NetworkSpec::TorchScript {
        module: Arc::from(module),
        shape: spec.shape(),
        classes: 10,
    };
    let exported = Network::build(&exported, 0, card).unwrap();
    let mode = stillhouse_student::Mode::Eval;
    let from_card = there.forward(&x.to_device(card), mode).unwrap().to_device(Device::Cpu);
    for other in [
        here.forward(&x, mode).unwrap(),
        exported
            .forward(&x.to_device(card), mode)
            .unwrap()
            .to_device(Device::Cpu),
    ] {
        let difference = (&from_card - other).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "{difference}");
    }
}

#[test]
fn scores_have_the_same_bits_for_any_threads_and_are_those_of_the_processor_but_for_rounding() {
    let Some((card, _turn)) = card() else { return };
    let one = one(Architecture::Lenet5, 1, 28, Head::Branch);
    let cases = [
        (zoo(Architecture::Lenet5, 1, 28), Acquisition::LeastConfidence),
        (zoo(Architecture::Alexnet, 3, 32), Acquisition::Entropy),
        (zoo(Architecture::Resnet20, 3, 32), Acquisition::Margin),
        (one, Acquisition::Bald),
    ];
    for (spec, acquisition) in cases {
        let noise = Noise::new(60, spec.shape());
        let images = ImageSet::new(spec.shape(), noise.images.clone()).unwrap();
        let weights = Network::build(&spec, 9, Device::Cpu).unwrap().weights().unwrap();
        let config = |device, threads| ScorerConfig {
            generated: None,
            pool: Pool::new(60, Pairing::All),
            seeds: Arc::new(images.clone()),
            lambdas: LambdaGrid::new(30, 70, 4).unwrap(),
            acquisition,
            stochastic: None,
            threads,
            scan: ScanMode::Exact,
            device,
        };
        let mut go_on = |_| ControlFlow::Continue(());
        let scorer = |device, threads| Scorer::new(&spec, &weights, &config(device, threads)).unwrap();
        let mut here = scorer(Device::Cpu, 2);
        let mut there = scorer(card, 1);
        assert!(there.scans_exactly());
        let mut guarded = Scorer::new(
            &spec,
            &weights,
            &ScorerConfig {
                scan: ScanMode::Guarded,
                ..config(card, 2)
            },
        )
        .unwrap();
        let sample: Vec<PairId> = (0..1770).step_by(3).map(PairId).collect();
        let deviation = guarded.calibrate(&sample).unwrap();
        println!("{spec:?} {acquisition:?}: a scan strays by {deviation}");
        assert!(deviation > 0.0 && deviation < 0.05, "{spec:?}: {deviation}");
        let scan = there.scan(0..1770, Keep::best(1770, 0.0), &mut go_on).unwrap();
        let again = scorer(card, 3)
            .scan(0..1770, Keep::best(1770, 0.0), &mut go_on)
            .unwrap();
        assert_eq!(scan, again, "{spec:?}");
        let width = GUARD_FACTOR * deviation;
        let band = guarded.scan(0..1770, Keep::best(50, width), &mut go_on).unwrap();
        let band: Vec<PairId> = band.entries.iter().map(|entry| entry.pair).collect();
        let chosen = select(guarded.rescore(&band).unwrap(), 50);
        assert_eq!(chosen, scan.entries[..50], "{spec:?}: guarded");
        let pairs: Vec<PairId> = scan.entries.iter().map(|entry| entry.pair).rev().collect();
        let mut rescored = there.rescore(&pairs).unwrap();
        rescored.reverse();
        assert_eq!(rescored, scan.entries, "{spec:?}: in other batches");
        let pairs: Vec<PairId> = scan.entries.iter().map(|entry| entry.pair).collect();
        let exact = here.rescore(&pairs).unwrap();
        for (a, b) in scan.entries.iter().zip(&exact) {
            let difference = (a.score.score() - b.score.score()).abs();
            assert!(difference < 1e-4, "{spec:?} {a:?} {b:?}");
        }
    }
}
