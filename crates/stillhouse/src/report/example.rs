//! A realistic summary for tests: LeNet-5 on MNIST with a random control, four rounds.

use stillhouse_core::selection::Histogram;
use stillhouse_core::{
    Acquisition, Candidate, Fingerprint, ImageSet, ImageShape, Lambda, PairId, Pairing, Pool, SoftLabel,
};

use super::summary::*;

/// Accuracy of the active student after each round, last and best, in hundredths of a percent.
const ACTIVE: [(u32, u32); 5] = [(9602, 9611), (9853, 9866), (9892, 9897), (9906, 9914), (9915, 9921)];
/// The same of the control.
const CONTROL: [(u32, u32); 5] = [(9602, 9611), (9811, 9829), (9856, 9861), (9875, 9883), (9884, 9890)];

/// Seed images: the digits of the examples.
pub(crate) fn seeds() -> ImageSet {
    use std::io::Read;
    let file = include_bytes!("../../../../examples/data/digits/train-images-idx3-ubyte.gz");
    let mut idx = Vec::new();
    flate2::read::GzDecoder::new(&file[..])
        .read_to_end(&mut idx)
        .expect("a gzip file");
    let shape = ImageShape {
        channels: 1,
        height: 8,
        width: 8,
    };
    ImageSet::new(shape, idx.split_off(16)).expect("whole images after the IDX header")
}

/// A finished job with its control.
pub(crate) fn summary() -> Summary {
    let start = 1_772_366_400_000;
    let end = Timestamp::from_unix_ms(start + 2_472_000);
    Summary {
        version: VERSION,
        job: JobSummary {
            name: "mnist-lenet".to_owned(),
            digest: "5d41402abc4b2a76b9719d911017c592ae2f3b1c8d7e6f5a4b3c2d1e0f9a8b7c".to_owned(),
        },
        state: State::Finished,
        started: Timestamp::from_unix_ms(start),
        updated: end.clone(),
        finished: Some(end),
        teacher: TeacherSummary::new(
            "http://user:secret@127.0.0.1:8080/?key=secret",
            "lenet5-teacher",
            Fingerprint::of(&["open-inference", "lenet5-teacher"]),
        ),
        student: StudentSummary {
            architecture: "lenet5".to_owned(),
            parameters: 61_706,
            classes: 10,
            class_names: Vec::new(),
        },
        pool: PoolSummary {
            seeds: 2_000,
            pairs: 1_999_000,
            generated: 0,
            lambdas: 11,
            acquisition: Acquisition::LeastConfidence,
        },
        evaluation: Some(EvaluationSummary {
            images: 10_000,
            agreement_images: 500,
        }),
        budget: budget(),
        active: arm(&ACTIVE, true),
        control: Some(arm(&CONTROL, false)),
        comparison: None,
    }
}

fn budget() -> BudgetSummary {
    let billed = Billed {
        real: 2_000,
        synthetic: 47_920,
        evaluation: 500,
        total: 50_420,
    };
    BudgetSummary {
        queries: 50_500,
        billed,
        ambiguous: 3,
        held: 3,
        left: 77,
        reused: 0,
        history: spending(),
        price_per_query: Some(0.001),
        cost: Some(50.42),
    }
}

/// Asking in four bursts of a few minutes, with trainings between them.
fn spending() -> Vec<Spending> {
    let start = 1_772_366_400_000;
    let burst = |round: u64| {
        let (begun, billed) = (start + round * 480_000, 2_500 + round * 11_980);
        let before = billed.saturating_sub(11_980);
        [(begun, before), (begun + 90_000, billed)]
    };
    let points = (0..5)
        .flat_map(burst)
        .map(|(unix_ms, billed)| Spending { unix_ms, billed });
    points.collect()
}

fn arm(accuracies: &[(u32, u32)], scored: bool) -> ArmSummary {
    let rounds: Vec<RoundSummary> = (0..)
        .zip(accuracies)
        .map(|(round, accuracy)| make_round(round, *accuracy, scored))
        .collect();
    let last = rounds.last().expect("five rounds");
    ArmSummary {
        billed_synthetic: if scored { 23_997 } else { 23_923 },
        queries: last.queries_total,
        accuracy: last.accuracy,
        agreement: last.agreement,
        rounds: rounds.clone(),
    }
}

fn make_round(round: u32, (last, best): (u32, u32), scored: bool) -> RoundSummary {
    let asked = round > 0;
    let scan = asked && scored;
    let held = if scan && round == 4 { 3 } else { 0 };
    let size = if asked { 6_000 } else { 0 };
    let histogram = scores(round);
    let cut = cut(&histogram, size);
    RoundSummary {
        round,
        queries_total: 2_000 + 6_000 * u64::from(round),
        size,
        drawn: 0,
        digest: if asked {
            Fingerprint::of(&[if scored { "a" } else { "b" }, &round.to_string()]).to_string()
        } else {
            String::new()
        },
        cut: scan.then_some(cut),
        approximate_cut: scan.then_some(cut - 0.0003),
        guard: scan.then_some(GuardSummary {
            width: 0.0041,
            deviation: 0.0009,
            rescored: 7_214 + u64::from(round),
        }),
        labelled: size - held,
        held,
        accuracy: Some(Accuracy {
            last: f64::from(last) / 1e4,
            best: f64::from(best) / 1e4,
            best_epoch: 31 + round,
        }),
        agreement: Some((f64::from(last) / 1e4 * 500.0).round() / 500.0),
        loss: Some(0.21 / f64::from(1 + round)),
        histogram: scan.then_some(histogram),
        timings: timings(round, scan),
        hardest: if asked {
            (0..HARDEST as u32).map(|at| hard(round, at, scored)).collect()
        } else {
            Vec::new()
        },
    }
}

/// Mostly sure, with a thin tail of doubt that shrinks from round to round.
fn scores(round: u32) -> Histogram {
    let mut histogram = Histogram::new((0.1, 1.0));
    for (bin, pairs) in histogram.counts.iter_mut().enumerate() {
        let from_top = 99 - bin as i32;
        let tail = 3_000.0 * (-0.03 * (1.0 + 0.35 * f64::from(round)) * f64::from(from_top)).exp();
        let low = f64::from(1.0 - 1.0 / (1.0 + (-(bin as f32 - 22.0 - 2.0 * round as f32) / 3.0).exp()));
        *pairs = (tail * (1.0 - low) + 1_300_000.0 * (-0.45 * f64::from(from_top)).exp()) as u64;
    }
    histogram
}

/// Upper edge of the bin that holds the last of the `size` lowest scores.
fn cut(histogram: &Histogram, size: u64) -> f32 {
    let mut below = 0;
    let inside = histogram.counts.iter().take_while(|pairs| {
        below += **pairs;
        below < size
    });
    0.1 + 0.9 * (inside.count() + 1) as f32 / histogram.counts.len() as f32
}

fn timings(round: u32, scan: bool) -> Timings {
    let time = f64::from(round);
    Timings {
        scan_seconds: if scan { 84.0 + 2.0 * time } else { 0.0 },
        rescore_seconds: if scan { 4.0 } else { 0.0 },
        query_seconds: if round > 0 { 12.2 } else { 4.1 },
        train_seconds: 12.0 + 31.0 * time,
        candidates_per_second: scan.then_some(248_000.0),
        queries_per_second: Some(491.0),
    }
}

fn hard(round: u32, at: u32, scored: bool) -> Hardest {
    let pool = Pool::new(1_297, Pairing::All);
    let pair = PairId(u64::from(round * 7_919 + at * 15_485 + u32::from(scored) * 31) % pool.pairs());
    let lambda = Lambda::from_hundredths(30 + 4 * ((at * 5 + round) % 11) as u8).expect("at most 70");
    let first = 0.34 + 0.013 * at as f32;
    let mut probabilities = vec![(1.0 - first - 0.28) / 8.0; 10];
    probabilities[(at * 3 % 10) as usize] = first;
    probabilities[((at * 3 + 4) % 10) as usize] = 0.28;
    let label = SoftLabel::from_probabilities(probabilities, 10).expect("sums to one");
    let held = scored && round == 4 && at == 5;
    let score = scored.then_some(0.21 + 0.006 * at as f32 + 0.03 * round as f32);
    Hardest::new(pool, Candidate { pair, lambda }, score, (!held).then_some(&label)).expect("within the pool")
}
