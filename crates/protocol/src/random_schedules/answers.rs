//! The job of the schedules, and what its workers answer.

use super::*;

pub(super) const SEEDS: u32 = 90;
pub(super) const CLASSES: usize = 10;
pub(crate) const GENERATED: u32 = 30;

pub(crate) fn settings() -> Settings {
    let pool = Pool::new(SEEDS, Pairing::All);
    let grid = LambdaGrid::new(40, 60, 10).expect("valid");
    let plan = Plan {
        budget: u64::from(SEEDS) + 200,
        seeds: SEEDS,
        evaluation: 0,
        arms: 2,
        per_round: 40,
        pairs: pool.pairs(),
        generated: GENERATED,
        scored: pool.pairs(),
        lambdas: 3,
    };
    Settings {
        plan,
        arms: vec![Arm::Active, Arm::Control],
        pool,
        grid,
        one_shot: None,
        acquisition: Acquisition::LeastConfidence,
        stochastic: None,
        diversity: None,
        sample: None,
        exact_scan: false,
        // Small enough that a round takes many shards and capped reports.
        cutting: Cutting {
            first: 32,
            least: 200,
            exact: (8, 64),
            cap: 12,
        },
        warm: false,
        seed: 5,
        classes: CLASSES,
        min_workers: 2,
        max_workers: 3,
        shards: 2,
        guard: Some(Guard {
            share: 0.25,
            shifts: false,
        }),
        evaluation: Vec::new(),
        stopping: None,
    }
}

/// Exact score of a pair under a student, and its best lambda: coarse, so that ties occur. Low
/// pairs stay low under every student, so that a chosen pair would be chosen again if it could.
pub(super) fn exact(student: Student, pair: PairId) -> Entry {
    let stream = Stream::new(u64::from(student.round), Purpose::Shuffle, 0);
    let grid = settings().grid;
    let own = (pair.0 * 7 % 400) as f32 / 500.0;
    let score = 0.1 + own + (stream.at(pair.0) % 40) as f32 / 1_000.0;
    let lambda = grid.lambdas()[(stream.at(pair.0 + 1) % 3) as usize];
    let score = ScoreBits::new(score).expect("a number");
    Entry { score, pair, lambda }
}

pub(super) fn approximate(student: Student, pair: PairId) -> Entry {
    let entry = exact(student, pair);
    let noise = Stream::new(9, Purpose::Shuffle, 0).unit(pair.0) * 0.01 - 0.005;
    let score = ScoreBits::new(entry.score.score() + noise).expect("a number");
    Entry { score, ..entry }
}

/// How many of a batch the guard draws.
pub(super) fn wanted_of_chance(size: u64) -> u64 {
    (size as f64 * 0.25).round() as u64
}

/// What a worker answers to a scoring command.
pub(super) fn answer(command: &Command) -> Option<Report> {
    Some(match command {
        Command::Calibrate { student, pairs } => {
            let stray =
                |p: &PairId| (approximate(*student, *p).score.score() - exact(*student, *p).score.score()).abs();
            let deviation = pairs.iter().map(stray).fold(0.0, f32::max);
            Report::Calibrated { deviation }
        }
        Command::Scan {
            student,
            start,
            end,
            k,
            width,
            ceiling,
            cap,
        } => {
            let mut band = Band::new(*k as usize, *width, *ceiling);
            let mut histogram = Histogram::new(Acquisition::LeastConfidence.range(CLASSES));
            let mut reached = *start;
            while reached < *end && !band.exceeds(*cap as usize) {
                let entry = approximate(*student, PairId(reached));
                histogram.add(entry.score.score());
                band.insert(entry);
                reached += 1;
            }
            let entries = band.into_sorted();
            Report::Scanned {
                end: reached,
                entries,
                histogram,
            }
        }
        Command::Rescore { student, pairs } => {
            let entries = pairs.iter().map(|pair| exact(*student, *pair)).collect();
            Report::Rescored { entries }
        }
        Command::Export { .. } => Report::Exported { module: vec![1] },
        Command::Load { .. } | Command::Extend { .. } | Command::Generate(_) | Command::Train(_) => return None,
    })
}

pub(super) fn trained(rank: u32) -> Report {
    Report::Trained {
        digest: "same".into(),
        weights: (rank == 0).then(|| vec![7]),
        loss: 0.3,
        measurements: vec![Measurement::default()],
        steps: 3,
        parameters: 1,
    }
}

/// Images without a meaning.
pub(super) fn images(count: u32) -> ImageSet {
    let shape = ImageShape {
        channels: 1,
        height: 1,
        width: 1,
    };
    ImageSet::new(shape, vec![3; count as usize]).expect("whole images")
}
