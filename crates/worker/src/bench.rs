//! Measurements, printed as one JSON object; `stillhouse-bench` runs them beside their peers.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use stillhouse_collective::{Collective, GroupId, Local, Ring, RingListener};
use stillhouse_core::image::{ImageSet, ImageShape};
use stillhouse_core::job::{Architecture, Determinism, ImageFormat, Mixing, Optimizer, Schedule};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{LambdaGrid, PairId, Pairing, Pool};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::score::Acquisition;
use stillhouse_core::selection::{GUARD_FACTOR, select};
use stillhouse_core::trace::{JobTrace, Stage};
use stillhouse_student::scoring::{Keep, ScanMode, Scorer, ScorerConfig};
use stillhouse_student::train::{
    Augmentation, Init, OneLoss, Progress, Session, StepTimes, TrainConfig, Training, TransferSet,
};
use stillhouse_student::{Network, NetworkSpec, device};
use stillhouse_trace::{Kind, Place};
use tch::Device;

use crate::account;
use crate::cli::{BenchAllReduceArgs, BenchScoreArgs, BenchTrainArgs};

const CLASSES: usize = 10;
/// Longest wait of a rank for another.
const RING_DEADLINE: Duration = Duration::from_secs(60);
/// Pairs compared before a guarded scan, as the coordinator does.
const CALIBRATION_PAIRS: u64 = 2_048;

fn image_shape(architecture: Architecture) -> ImageShape {
    match architecture {
        Architecture::Lenet5 | Architecture::Lenet5Half => ImageShape {
            channels: 1,
            height: 28,
            width: 28,
        },
        Architecture::Alexnet
        | Architecture::AlexnetHalf
        | Architecture::Resnet20
        | Architecture::Resnet32
        | Architecture::Vgg16Bn => ImageShape {
            channels: 3,
            height: 32,
            width: 32,
        },
    }
}

fn noise(shape: ImageShape, n: usize) -> anyhow::Result<ImageSet> {
    let stream = Stream::new(1, Purpose::SeedImages, 0);
    let bytes = (0..(n * shape.len()) as u64).map(|at| stream.at(at) as u8).collect();
    Ok(ImageSet::new(shape, bytes)?)
}

/// Candidates a second of one scan, with the choice it leads to.
pub(crate) fn score(args: &BenchScoreArgs) -> anyhow::Result<()> {
    let device = device::open(args.device, 0)?;
    let shape = image_shape(args.architecture);
    let seeds = match &args.images {
        Some(path) => {
            let all = stillhouse_data::load(ImageFormat::Idx, path, None, None)?.images;
            let chosen = Stream::new(0, Purpose::SeedImages, 0).choose(all.len() as u32, args.seeds);
            all.subset(&chosen)
        }
        None => noise(shape, args.seeds as usize)?,
    };
    let spec = NetworkSpec::Zoo {
        architecture: args.architecture,
        shape: seeds.shape(),
        classes: CLASSES,
    };
    let weights = match &args.weights {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => Network::build(&spec, 0, Device::Cpu)?.weights()?,
    };
    let pool = Pool::new(seeds.len() as u32, Pairing::All);
    let range = args.start..(args.start + args.pairs).min(pool.pairs());
    let grid = LambdaGrid::new(30, 70, 4).expect("the published grid");
    let candidates = (range.end - range.start) as f64 * grid.lambdas().len() as f64;
    let seeds = Arc::new(seeds);
    let config = |scan| ScorerConfig {
        seeds: seeds.clone(),
        generated: None,
        pool,
        lambdas: grid.clone(),
        acquisition: Acquisition::LeastConfidence,
        stochastic: None,
        threads: args.threads as usize,
        scan,
        device,
    };
    let scorer = |mode| Scorer::new(&spec, &weights, &config(mode));
    let mut go_on = |_| ControlFlow::Continue(());
    let begun = Instant::now();
    let mode = if args.exact { ScanMode::Exact } else { ScanMode::Guarded };
    let mut fast = scorer(mode)?;
    let stream = Stream::new(0, Purpose::Calibration, 1);
    let sample: Vec<PairId> = (0..CALIBRATION_PAIRS)
        .map(|at| PairId(stream.below(at, pool.pairs())))
        .collect();
    let deviation = if args.exact { 0.0 } else { fast.calibrate(&sample)? };
    let calibrated = begun.elapsed().as_secs_f64();
    let keep = Keep::best(args.k, GUARD_FACTOR * deviation);
    let scan = fast.scan(range.clone(), keep, &mut go_on)?;
    let scanned = begun.elapsed().as_secs_f64();
    let band: Vec<PairId> = scan.entries.iter().map(|entry| entry.pair).collect();
    let chosen = if args.exact {
        select(scan.entries, args.k)
    } else {
        select(fast.rescore(&band)?, args.k)
    };
    let seconds = begun.elapsed().as_secs_f64();
    // The guard is calibrated once a round, for the whole pool.
    let share = (range.end - range.start) as f64 / pool.pairs() as f64;
    let charged = share * calibrated + (seconds - calibrated);
    let same = if args.verify {
        let full = scorer(ScanMode::Exact)?.scan(range, Keep::best(args.k, 0.0), &mut go_on)?;
        Some(select(full.entries, args.k) == chosen)
    } else {
        None
    };
    let result = json!({
        "architecture": args.architecture.name(), "threads": args.threads, "exact": args.exact,
        "candidates": candidates, "candidates_per_second": candidates / charged,
        "scan_candidates_per_second": candidates / (scanned - calibrated),
        "seconds": { "calibration": calibrated, "scan": scanned - calibrated, "rescore": seconds - scanned },
        "device": device::kind(device), "deviation": deviation, "rescored": band.len(), "same_as_exact": same,
        "peak_memory_mib": peak_memory_mib(),
    });
    println!("{result}");
    Ok(())
}

/// Highest resident memory of this process, from the kernel's own account.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib >> 10)
}

/// Training steps a second.
pub(crate) fn train(args: &BenchTrainArgs) -> anyhow::Result<()> {
    let device = device::open(args.device, 0)?;
    let shape = image_shape(args.architecture);
    let batch = args.batch as usize;
    let steps_an_epoch = 10;
    let images = noise(shape, batch * steps_an_epoch)?;
    let labels = vec![1.0 / CLASSES as f32; images.len() * CLASSES];
    let config = TrainConfig {
        epochs: args.steps.div_ceil(steps_an_epoch as u32) + 1,
        batch,
        learning_rate: 0.01,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::Cosine,
        warmup_steps: 0,
        optimizer: Optimizer::Sgd,
        augmentation: Augmentation::None,
        shards: args.shards as usize,
        seed: 0,
        round: 0,
        evaluate_every: 0,
        one: OneLoss::default(),
        mixing: Mixing::None,
        determinism: if args.fast {
            Determinism::Fast
        } else {
            Determinism::Strict
        },
    };
    let training = Training {
        spec: &NetworkSpec::Zoo {
            architecture: args.architecture,
            shape,
            classes: CLASSES,
        },
        init: Init::Fresh,
        device,
        transfer: TransferSet {
            images: images.bytes(),
            labels: &labels,
        },
        evaluation: None,
        config: &config,
        threads: args.threads as usize,
    };
    let Timed { marks, state_ms } = timed(&training, args.ranks as usize)?;
    // The first epoch warms caches and threads up.
    let mut times: Vec<f64> = marks
        .windows(2)
        .skip(steps_an_epoch)
        .map(|w| (w[1] - w[0]).as_secs_f64())
        .collect();
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().context("too few steps")?;
    let result = json!({
        "architecture": args.architecture.name(), "threads": args.threads, "batch": batch, "shards": args.shards,
        "step_ms": 1e3 * median, "images_per_second": batch as f64 / median, "ranks": args.ranks, "fast": args.fast,
        "device": device::kind(device), "state_ms": state_ms,
    });
    println!("{result}");
    Ok(())
}

/// What rank 0 measured.
struct Timed {
    /// The end of each step.
    marks: Vec<Instant>,
    /// To write the training's state down, as a checkpoint does.
    state_ms: f64,
}

/// Trains on so many ranks of one process, over real connections.
fn timed(training: &Training<'_>, ranks: usize) -> anyhow::Result<Timed> {
    let rank = |collective: &mut dyn Collective| -> anyhow::Result<Timed> {
        let (mut marks, mut session) = (Vec::new(), Session::begin(training)?);
        session.train(training, collective, &mut |_, _| {
            marks.push(Instant::now());
            ControlFlow::Continue(())
        })?;
        let begun = Instant::now();
        session.state()?;
        let state_ms = 1e3 * begun.elapsed().as_secs_f64();
        Ok(Timed { marks, state_ms })
    };
    if ranks == 1 {
        return rank(&mut Local);
    }
    let listeners: Vec<RingListener> = (0..ranks)
        .map(|_| RingListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let peers: Vec<SocketAddr> = listeners
        .iter()
        .map(RingListener::local_addr)
        .collect::<Result<_, _>>()?;
    std::thread::scope(|scope| {
        let joined: Vec<_> = (listeners.iter().enumerate())
            .map(|(at, listener)| {
                let (peers, rank) = (&peers, &rank);
                scope.spawn(move || {
                    let mut ring = Ring::connect(listener, at, peers, GroupId(1), &[1; 32], RING_DEADLINE)?;
                    rank(&mut ring)
                })
            })
            .collect();
        let mut results = joined
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a rank panicked")));
        let first = results.next().context("no rank")?;
        results.try_for_each(|other| other.map(drop))?;
        first
    })
}

/// Sums floats with the other ranks, each a process; rank 0 prints the median.
pub(crate) fn all_reduce(args: &BenchAllReduceArgs) -> anyhow::Result<()> {
    let rank = args.rank as usize;
    let address = args.peers.get(rank).context("the rank has no address")?;
    let listener = RingListener::bind(address)?;
    let mut ring = Ring::connect(&listener, rank, &args.peers, GroupId(1), &[1; 32], RING_DEADLINE)?;
    let mut data = vec![0.0; args.floats as usize];
    let mut times = Vec::new();
    // The first two open the connections' windows.
    for _ in 0..args.repetitions + 2 {
        data.fill(args.rank as f32 + 1.0);
        ring.barrier()?;
        let begun = Instant::now();
        ring.all_reduce(&mut data)?;
        times.push(1e3 * begun.elapsed().as_secs_f64());
    }
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    if rank == 0 {
        let (ms, sum) = (times[times.len() / 2], data[data.len() / 2]);
        println!("{}", json!({ "ms": ms, "sum": sum }));
    }
    Ok(())
}

/// What metrics and traces take of a training step, and of a command such as a shard of a scan.
pub(crate) fn account() -> anyhow::Result<()> {
    let _traces = stillhouse_trace::begin("worker")?;
    let part = Duration::from_millis(1);
    let progress = Progress {
        epoch: 0,
        step: 1,
        steps: 2,
        loss: 0.5,
        evaluation: None,
        times: StepTimes {
            forward: part,
            backward: part,
            wait: part,
            all_reduce: part,
            update: part,
        },
    };
    let step_ns = nanoseconds(|| account::step(&progress));
    let place = Place::of(JobTrace::new(&[0; 32], 0).batch(Arm::Active, 1), Stage::Scoring);
    let command_ns = nanoseconds(|| {
        let mut span = place.span("scan", Kind::Internal);
        span.set("stillhouse.pairs", 1_024);
        // Nothing can fail here.
        let _nothing = account::counted("scan", span, || Ok(()));
    });
    println!("{}", json!({ "step_ns": step_ns, "command_ns": command_ns }));
    Ok(())
}

/// Of one call, in the mean over many.
fn nanoseconds(mut work: impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    work();
    let begun = Instant::now();
    (0..CALLS).for_each(|_| work());
    begun.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

/// One batch of first scores, for the time from process start.
pub(crate) fn first_score() -> anyhow::Result<()> {
    let shape = image_shape(Architecture::Lenet5);
    let spec = NetworkSpec::Zoo {
        architecture: Architecture::Lenet5,
        shape,
        classes: CLASSES,
    };
    let weights = Network::build(&spec, 0, Device::Cpu)?.weights()?;
    let grid = LambdaGrid::new(30, 70, 4).expect("the published grid");
    let config = ScorerConfig {
        seeds: Arc::new(noise(shape, 16)?),
        generated: None,
        pool: Pool::new(16, Pairing::All),
        lambdas: grid,
        acquisition: Acquisition::LeastConfidence,
        stochastic: None,
        threads: 1,
        scan: ScanMode::Exact,
        device: Device::Cpu,
    };
    let mut scorer = Scorer::new(&spec, &weights, &config)?;
    let entries = scorer.rescore(&[PairId(0)])?;
    println!("{}", json!({ "score": entries[0].score.score() }));
    Ok(())
}
