//! Scoring on real images with trained students.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use stillhouse_collective::Local;
use stillhouse_core::job::{Architecture, Mixing, Optimizer, Schedule};
use stillhouse_core::mix::mix_into;
use stillhouse_core::pool::Pairing;
use stillhouse_core::selection::{Band, Entry, GUARD_FACTOR, Guard, Histogram, check_guard, select};
use stillhouse_core::stochastic::Stochastic;
use stillhouse_core::{Acquisition, ImageSet, ImageShape, LambdaGrid, PairId, Pool};
use tch::{Device, Tensor};

use super::*;
use crate::network::{Head, Network, NetworkSpec};
use crate::train::{Augmentation, Init, OneLoss, TrainConfig, Training, TransferSet, train};

mod ranges;

/// The bytes behind the header of an IDX file of the example data, or of another data folder.
fn idx(path: &str) -> Option<Vec<u8>> {
    let examples = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data"));
    let folder = std::env::var_os("STILLHOUSE_DATA").map_or_else(examples, PathBuf::from);
    let file = std::fs::File::open(folder.join(path)).ok()?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut bytes)
        .expect("gzip");
    let header = 4 + 4 * usize::from(bytes[3]);
    Some(bytes.split_off(header))
}

/// Images of one data set and a student that was trained on them for a few epochs, so that its
/// scores spread.
struct Trained {
    spec: NetworkSpec,
    weights: Vec<u8>,
    images: ImageSet,
}

impl Trained {
    fn new(architecture: Architecture, data: &str, side: u32, epochs: u32) -> Option<Self> {
        let shape = ImageShape {
            channels: 1,
            height: side,
            width: side,
        };
        let spec = NetworkSpec::Zoo {
            architecture,
            shape,
            classes: 10,
        };
        Self::of(spec, data, epochs)
    }

    fn of(spec: NetworkSpec, data: &str, epochs: u32) -> Option<Self> {
        const IMAGES: usize = 1200;
        let shape = spec.shape();
        let mut images = idx(&format!("{data}/train-images-idx3-ubyte.gz"))?;
        images.truncate(IMAGES * shape.len());
        let classes = idx(&format!("{data}/train-labels-idx1-ubyte.gz"))?;
        let one_hot = |class: &u8| {
            (0..10)
                .map({
                    let class = *class;
                    move |at| f32::from(u8::from(at == class))
                })
                .collect::<Vec<_>>()
        };
        let labels: Vec<f32> = classes[..IMAGES].iter().flat_map(one_hot).collect();
        let training = Training {
            spec: &spec,
            init: Init::Fresh,
            device: Device::Cpu,
            transfer: TransferSet {
                images: &images,
                labels: &labels,
            },
            evaluation: None,
            config: &config(epochs),
            threads: 2,
        };
        let trained = train(&training, &mut Local, &mut |_, _| ControlFlow::Continue(())).expect("trains");
        let weights = trained.network.weights().expect("reads");
        Some(Self {
            spec,
            weights,
            images: ImageSet::new(shape, images).expect("whole images"),
        })
    }

    /// A LeNet for the UCI digits, trained once for all tests.
    fn digits() -> &'static Self {
        static DIGITS: OnceLock<Trained> = OnceLock::new();
        DIGITS.get_or_init(|| Self::new(Architecture::Lenet5, "digits", 8, 12).expect("the example data is there"))
    }

    fn scorer(&self, seeds: u32, scan: ScanMode, threads: usize, acquisition: Acquisition) -> Scorer {
        let images = self.images.subset(&(0..seeds).collect::<Vec<_>>());
        Scorer::new(
            &self.spec,
            &self.weights,
            &scorer_config(images, scan, threads, acquisition),
        )
        .expect("fits")
    }
}

fn config(epochs: u32) -> TrainConfig {
    TrainConfig {
        epochs,
        batch: 64,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::Cosine,
        warmup_steps: 20,
        optimizer: Optimizer::Sgd,
        augmentation: Augmentation::None,
        shards: 2,
        seed: 3,
        round: 0,
        evaluate_every: 0,
        one: OneLoss::default(),
        mixing: Mixing::None,
        determinism: stillhouse_core::job::Determinism::Strict,
    }
}

fn scorer_config(images: ImageSet, scan: ScanMode, threads: usize, acquisition: Acquisition) -> ScorerConfig {
    ScorerConfig {
        pool: Pool::new(images.len() as u32, Pairing::All),
        seeds: Arc::new(images),
        generated: None,
        lambdas: LambdaGrid::new(30, 70, 4).expect("valid"),
        acquisition,
        stochastic: None,
        threads,
        scan,
        device: Device::Cpu,
    }
}

/// Whole range, no observer.
fn scan_all(scorer: &mut Scorer, k: usize, width: f32) -> Scan {
    let range = 0..scorer.pool().candidates();
    scorer
        .scan(range, Keep::best(k, width), &mut |_| ControlFlow::Continue(()))
        .expect("scans")
}

/// The protocol around a guarded scan, on one machine: calibrate, scan, rescore, check.
fn select_guarded(scorer: &mut Scorer, k: usize) -> (Vec<Entry>, usize) {
    let sample: Vec<PairId> = (0..scorer.pool().candidates()).step_by(37).map(PairId).collect();
    let mut width = GUARD_FACTOR * scorer.calibrate(&sample).expect("scores");
    loop {
        let scan = scan_all(scorer, k, width);
        let pairs: Vec<PairId> = scan.entries.iter().map(|entry| entry.pair).collect();
        let exact = scorer.rescore(&pairs).expect("scores");
        let differences = scan
            .entries
            .iter()
            .zip(&exact)
            .map(|(a, e)| (a.score.score() - e.score.score()).abs());
        let deviation = differences.fold(0.0, f32::max);
        let cut = scan.entries[k - 1].score.score();
        let rescored = exact.len();
        let chosen = select(exact, k);
        match check_guard(cut + width, cut, chosen[k - 1].score.score(), deviation) {
            Guard::Wide => return (chosen, rescored),
            Guard::TooNarrow(needed) => width = needed,
        }
    }
}

fn assert_guarded_equals_exact(trained: &Trained, seeds: u32, k: usize, acquisition: Acquisition) {
    let mut exact = trained.scorer(seeds, ScanMode::Exact, 2, acquisition);
    let mut guarded = trained.scorer(seeds, ScanMode::Guarded, 2, acquisition);
    assert!(exact.scans_exactly() && !guarded.scans_exactly());
    let want = scan_all(&mut exact, k, 0.0);
    let (got, rescored) = select_guarded(&mut guarded, k);
    assert_eq!(got, select(want.entries, k), "{acquisition:?}");
    assert!(rescored < 2 * k, "the band holds {rescored} pairs for {k}");
    let lambdas: BTreeSet<Lambda> = got.iter().map(|entry| entry.lambda).collect();
    assert!(lambdas.len() > 3, "the scores do not spread: {lambdas:?}");
}

#[test]
fn a_guarded_scan_of_digits_selects_the_pairs_and_lambdas_of_the_exact_scan() {
    for acquisition in [Acquisition::LeastConfidence, Acquisition::Margin, Acquisition::Entropy] {
        assert_guarded_equals_exact(Trained::digits(), 150, 200, acquisition);
    }
}

/// Mixes of neighbours as an image set: what a generator might make.
fn generated(images: &ImageSet, count: u32) -> ImageSet {
    let half = Lambda::from_hundredths(50).expect("a weight");
    let mut pixels = vec![0; count as usize * images.shape().len()];
    for (at, out) in pixels.chunks_exact_mut(images.shape().len()).enumerate() {
        let image = |at: usize| images.get(at).expect("enough images");
        mix_into(image(at), image(at + 1), half, out);
    }
    ImageSet::new(images.shape(), pixels).expect("whole images")
}

#[test]
fn generated_images_compete_with_pairs_and_the_choice_is_exact() {
    let digits = Trained::digits();
    let images = digits.images.subset(&(0..60).collect::<Vec<_>>());
    let extra = Arc::new(generated(&digits.images, 300));
    let scorer = |scan| {
        let mut config = scorer_config(images.clone(), scan, 2, Acquisition::LeastConfidence);
        config.pool = config.pool.with_generated(300);
        config.generated = Some(extra.clone());
        Scorer::new(&digits.spec, &digits.weights, &config).expect("fits")
    };
    let (mut exact, mut guarded) = (scorer(ScanMode::Exact), scorer(ScanMode::Guarded));
    let pool = exact.pool();
    let scan = scan_all(&mut exact, 150, 0.0);
    assert_eq!(scan.histogram.total(), pool.candidates());
    let want = select(scan.entries, 150);
    let (got, _) = select_guarded(&mut guarded, 150);
    assert_eq!(got, want);
    let made = got
        .iter()
        .filter(|entry| pool.generated_at(entry.pair).is_some())
        .count();
    assert!((1..150).contains(&made), "{made} of 150 winners were generated");
    // The score of a generated image is that of its pixels: as a seed image mixed with itself.
    let id = PairId(pool.pairs() + 7);
    let entry = exact.rescore(&[id]).expect("scores")[0];
    let twin = digits.images.subset(&[7, 8]);
    let config = scorer_config(twin, ScanMode::Exact, 1, Acquisition::LeastConfidence);
    let config = ScorerConfig {
        lambdas: LambdaGrid::new(50, 50, 1).expect("one weight"),
        ..config
    };
    let mut twins = Scorer::new(&digits.spec, &digits.weights, &config).expect("fits");
    assert_eq!(twins.rescore(&[PairId(0)]).expect("scores")[0].score, entry.score);
}

#[test]
fn with_noise_a_guarded_scan_selects_what_the_exact_one_does_and_another_batch_than_without() {
    let digits = Trained::digits();
    let images = digits.images.subset(&(0..120).collect::<Vec<_>>());
    let chosen = |stochastic, scan| {
        let mut config = scorer_config(images.clone(), scan, 2, Acquisition::LeastConfidence);
        config.stochastic = stochastic;
        let mut scorer = Scorer::new(&digits.spec, &digits.weights, &config).expect("fits");
        match scan {
            ScanMode::Exact => select(scan_all(&mut scorer, 150, 0.0).entries, 150),
            ScanMode::Guarded => select_guarded(&mut scorer, 150).0,
        }
    };
    let plain = chosen(None, ScanMode::Exact);
    // The small student is sure of nothing: its scores differ little, and odds must be steep to tell.
    for stochastic in [Stochastic::Power(60.0), Stochastic::Softmax(60.0)] {
        let in_round = |round| Some((stochastic, 3, round));
        let want = chosen(in_round(1), ScanMode::Exact);
        assert_eq!(chosen(in_round(1), ScanMode::Guarded), want, "{stochastic:?}");
        let pairs = |entries: &[Entry]| entries.iter().map(|entry| entry.pair).collect::<BTreeSet<_>>();
        assert_ne!(pairs(&want), pairs(&plain));
        assert_ne!(pairs(&want), pairs(&chosen(in_round(2), ScanMode::Exact)));
        // Without their noise the chosen are still less sure than others.
        let mut scorer = digits.scorer(120, ScanMode::Exact, 2, Acquisition::LeastConfidence);
        let mut mean = |pairs: &[PairId]| -> f32 {
            let entries = scorer.rescore(pairs).expect("scores");
            entries.iter().map(|entry| entry.score.score()).sum::<f32>() / entries.len() as f32
        };
        let chosen: Vec<PairId> = want.iter().map(|entry| entry.pair).collect();
        let others: Vec<PairId> = (0..7_140).step_by(17).map(PairId).collect();
        let (chosen, others) = (mean(&chosen), mean(&others));
        assert!(chosen < others - 0.01, "{stochastic:?}: {chosen} {others}");
    }
}

#[test]
fn a_pool_without_its_generated_images_is_refused() {
    let digits = Trained::digits();
    let mut config = scorer_config(digits.images.clone(), ScanMode::Exact, 1, Acquisition::Margin);
    config.pool = config.pool.with_generated(3);
    let error = Scorer::new(&digits.spec, &digits.weights, &config).expect_err("no images");
    assert_eq!(error.to_string(), "the pool is over 3 images, found 0");
}

#[test]
fn branches_choose_exactly_whether_by_one_of_them_all_or_their_disagreement() {
    for (head, acquisition) in [
        (Head::Branch, Acquisition::LeastConfidence),
        (Head::Ensemble, Acquisition::Margin),
        (Head::Branch, Acquisition::Bald),
    ] {
        let spec = NetworkSpec::One {
            architecture: Architecture::Lenet5,
            shape: ImageShape {
                channels: 1,
                height: 8,
                width: 8,
            },
            classes: 10,
            branches: 3,
            head,
        };
        let trained = Trained::of(spec, "digits", 8).expect("the example data is there");
        assert_guarded_equals_exact(&trained, 60, 100, acquisition);
    }
}

#[test]
fn a_student_without_branches_cannot_disagree() {
    let digits = Trained::digits();
    let config = scorer_config(digits.images.clone(), ScanMode::Guarded, 1, Acquisition::Bald);
    let error = Scorer::new(&digits.spec, &digits.weights, &config).expect_err("no branches");
    let cause = std::error::Error::source(&error).expect("says why").to_string();
    assert!(cause.contains("has no branches"), "{cause}");
}

#[test]
fn a_guarded_scan_of_mnist_selects_the_pairs_and_lambdas_of_the_exact_scan() {
    for architecture in [Architecture::Lenet5, Architecture::Lenet5Half] {
        match Trained::new(architecture, "mnist", 28, 4) {
            Some(trained) => assert_guarded_equals_exact(&trained, 120, 150, Acquisition::LeastConfidence),
            None => println!("skipped: STILLHOUSE_DATA names no folder with mnist"),
        }
    }
}

#[test]
fn of_equal_lambdas_the_lowest_is_taken() {
    let digits = Trained::digits();
    let images = digits.images.subset(&[4, 4, 4]);
    for mode in [ScanMode::Exact, ScanMode::Guarded] {
        let config = scorer_config(images.clone(), mode, 1, Acquisition::LeastConfidence);
        let mut scorer = Scorer::new(&digits.spec, &digits.weights, &config).expect("fits");
        let scan = scan_all(&mut scorer, 3, 0.0);
        assert_eq!(scan.entries.len(), 3);
        for (at, entry) in (0..).zip(&scan.entries) {
            assert_eq!((entry.lambda.hundredths(), entry.pair), (30, PairId(at)), "{mode:?}");
            assert_eq!(entry.score, scan.entries[0].score);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let digits = Trained::digits();
    let config = scorer_config(digits.images.clone(), ScanMode::Guarded, 1, Acquisition::Margin);
    let error = |config: &ScorerConfig, weights: &[u8]| {
        Scorer::new(&digits.spec, weights, config)
            .expect_err("must be refused")
            .to_string()
    };
    let few = ScorerConfig {
        pool: Pool::new(7, Pairing::All),
        ..config.clone()
    };
    assert_eq!(error(&few, &digits.weights), "the pool is over 7 images, found 1200");
    let shape = ImageShape {
        channels: 1,
        height: 4,
        width: 16,
    };
    let images = ImageSet::new(shape, digits.images.bytes().to_vec()).expect("whole images");
    let flat = ScorerConfig {
        seeds: Arc::new(images),
        ..config.clone()
    };
    assert_eq!(
        error(&flat, &digits.weights),
        "the student takes 1x8x8 images, the seed images are 1x4x16"
    );
    assert!(error(&config, b"no weights").contains("the student cannot score"));
    let mut scorer = digits.scorer(10, ScanMode::Exact, 1, Acquisition::Margin);
    let scan = scorer.scan(40..46, Keep::best(1, 0.0), &mut |_| ControlFlow::Continue(()));
    assert_eq!(
        scan.expect_err("45 pairs").to_string(),
        "pair 45 is not one of the pool's 45"
    );
    let entry = scorer.rescore(&[PairId(3), PairId(99)]);
    assert_eq!(
        entry.expect_err("45 pairs").to_string(),
        "pair 99 is not one of the pool's 45"
    );
}

#[test]
fn a_diverged_student_is_found_out() {
    let digits = Trained::digits();
    let mut network = Network::build(&digits.spec, 0, Device::Cpu).expect("fits");
    let mut with_weight = |value: f64| {
        network.load_weights(&digits.weights).expect("fits");
        let (_, weight) = network.parameters().nth(1).expect("conv1.bias");
        let mut weight: Tensor = weight.shallow_clone();
        tch::no_grad(|| weight.f_fill_(value)).map(drop).expect("fills");
        network.weights().expect("reads")
    };
    for mode in [ScanMode::Exact, ScanMode::Guarded] {
        let images = digits.images.subset(&[0, 1, 2]);
        let config = scorer_config(images, mode, 1, Acquisition::LeastConfidence);
        assert!(Scorer::new(&digits.spec, &with_weight(f64::NAN), &config).is_err());
        let mut scorer = Scorer::new(&digits.spec, &with_weight(3e38), &config).expect("finite");
        let scan = scorer.scan(0..3, Keep::best(1, 0.0), &mut |_| ControlFlow::Continue(()));
        let error = scan.expect_err("infinite activations");
        assert!(matches!(error, ScoringError::Diverged { .. }), "{mode:?} {error}");
    }
}

#[test]
fn the_observer_hears_of_every_pair_and_may_break_off() {
    let mut scorer = Trained::digits().scorer(60, ScanMode::Guarded, 2, Acquisition::LeastConfidence);
    let mut heard = Vec::new();
    let pairs = scorer.pool().pairs();
    let scan = scorer.scan(0..pairs, Keep::best(5, 0.0), &mut |done| {
        heard.push(done);
        ControlFlow::Continue(())
    });
    assert_eq!(scan.expect("scans").scanned, pairs);
    assert!(heard.is_sorted() && heard.last() == Some(&pairs), "{heard:?}");
    let stopped = scorer.scan(0..pairs, Keep::best(5, 0.0), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ScoringError::Stopped)));
    assert!(
        scorer
            .scan(3..3, Keep::best(5, 0.0), &mut |_| ControlFlow::Break(()))
            .expect("nothing")
            .entries
            .is_empty()
    );
}
