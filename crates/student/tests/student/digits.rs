//! A student learns the real UCI digits (8x8).

use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;

use stillhouse_collective::Local;
use stillhouse_core::job::Architecture;
use stillhouse_student::train::{Evaluation, EvaluationSet, TrainConfig, Training, TransferSet, evaluate, train};
use tch::Device;

use crate::world::{config, training, zoo};

/// The images or labels of one IDX file.
fn idx(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("STILLHOUSE_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data")),
        PathBuf::from,
    );
    let file = std::fs::File::open(folder.join("digits").join(name)).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    let header = 4 + 4 * usize::from(bytes[3]);
    bytes.split_off(header)
}

fn one_hot(classes: &[u8]) -> Vec<f32> {
    classes
        .iter()
        .flat_map(|class| (0..10).map(move |at| f32::from(u8::from(at == *class))))
        .collect()
}

#[test]
fn a_lenet_learns_digits_and_reports_it_epoch_by_epoch() {
    let images = idx("train-images-idx3-ubyte.gz");
    let labels = one_hot(&idx("train-labels-idx1-ubyte.gz"));
    let test_images = idx("test-images-idx3-ubyte.gz");
    let test_classes: Vec<u16> = idx("test-labels-idx1-ubyte.gz").into_iter().map(u16::from).collect();
    // The teacher is right about every even image and says 0 about every odd one.
    let teacher: Vec<(u32, u16)> = (0..)
        .zip(&test_classes)
        .map(|(at, class)| (at, if at % 2 == 0 { *class } else { 0 }))
        .collect();
    let set = EvaluationSet {
        images: &test_images,
        classes: Some(&test_classes),
        teacher: &teacher,
    };
    let spec = zoo(Architecture::Lenet5, 1, 8);
    let config = TrainConfig {
        batch: 64,
        evaluate_every: 8,
        ..config(30)
    };
    let transfer = TransferSet {
        images: &images,
        labels: &labels,
    };
    let training = Training {
        evaluation: Some(set),
        ..training(&spec, transfer, &config, 2)
    };
    let mut evaluated = Vec::new();
    let mut observer = |progress: &stillhouse_student::train::Progress, _: &stillhouse_student::train::Session| {
        evaluated.extend(progress.evaluation.map(|evaluation| (progress.epoch, evaluation)));
        ControlFlow::Continue(())
    };
    let trained = train(&training, &mut Local, &mut observer).unwrap();
    assert_eq!(
        evaluated.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(),
        [7, 15, 23, 29]
    );
    let last = trained.evaluation.unwrap();
    assert_eq!(Some(&(29, last)), evaluated.last());
    assert_eq!((last.labelled, last.answered), (500, 500));
    // 474 to 478 over three seeds; an untrained student has about 50.
    assert!(last.correct >= 460, "{last:?}");
    assert!((250..400).contains(&last.agreed), "{last:?}");

    let mut sum = Evaluation::default();
    for slice in [0..1, 1..130, 130..130, 130..500] {
        sum += evaluate(&trained.network, &set, slice, 3).unwrap();
    }
    assert_eq!(sum, last, "slices add up");
    let unlabelled = EvaluationSet {
        classes: None,
        teacher: &teacher[100..103],
        ..set
    };
    let few = evaluate(&trained.network, &unlabelled, 0..102, 2).unwrap();
    assert_eq!((few.labelled, few.correct, few.answered), (0, 0, 2));
    assert_eq!(trained.network.device(), Device::Cpu);
}

#[test]
fn an_evaluation_that_contradicts_itself_is_refused() {
    let spec = zoo(Architecture::Lenet5Half, 1, 8);
    let network = stillhouse_student::Network::build(&spec, 0, Device::Cpu).unwrap();
    let good = EvaluationSet {
        images: &[0; 128],
        classes: Some(&[1, 2]),
        teacher: &[(1, 3)],
    };
    assert!(evaluate(&network, &good, 0..2, 1).is_ok());
    let bad = [
        (
            EvaluationSet {
                images: &[0; 127],
                ..good
            },
            0..2,
        ),
        (
            EvaluationSet {
                classes: Some(&[1]),
                ..good
            },
            0..2,
        ),
        (
            EvaluationSet {
                teacher: &[(2, 3)],
                ..good
            },
            0..2,
        ),
        (good, 1..3),
    ];
    for (set, slice) in bad {
        assert!(evaluate(&network, &set, slice, 1).is_err());
    }
}
