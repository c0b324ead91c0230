//! Worlds of ranks in one process, over real rings; and small data sets.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillhouse_collective::{Collective, GroupId, Local, Ring, RingListener};
use stillhouse_core::ImageShape;
use stillhouse_core::job::{Architecture, Determinism, Mixing, Optimizer, Schedule};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_student::train::{
    Augmentation, Init, OneLoss, Progress, Session, TrainConfig, Trained, Training, TransferSet, train,
};
use stillhouse_student::{Head, NetworkSpec, StudentError, unit_pixels};
use tch::{Device, Kind, Tensor};

/// Long enough that reaching it means a hang, and fails the test.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn zoo(architecture: Architecture, channels: u32, side: u32) -> NetworkSpec {
    NetworkSpec::Zoo {
        architecture,
        shape: ImageShape {
            channels,
            height: side,
            width: side,
        },
        classes: 10,
    }
}

/// The TorchScript student of `tests/data/make_small.py`: 1x8x8 images.
pub(crate) fn small_script() -> NetworkSpec {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/small.pt");
    let module: Arc<[u8]> = std::fs::read(path).unwrap().into();
    NetworkSpec::TorchScript {
        module,
        shape: ImageShape {
            channels: 1,
            height: 8,
            width: 8,
        },
        classes: 10,
    }
}

/// A student of three branches.
pub(crate) fn one(architecture: Architecture, channels: u32, side: u32, head: Head) -> NetworkSpec {
    let NetworkSpec::Zoo { shape, classes, .. } = zoo(architecture, channels, side) else {
        unreachable!("of the zoo")
    };
    NetworkSpec::One {
        architecture,
        shape,
        classes,
        branches: 3,
        head,
    }
}

pub(crate) fn config(epochs: u32) -> TrainConfig {
    TrainConfig {
        epochs,
        batch: 32,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::Cosine,
        warmup_steps: 3,
        optimizer: Optimizer::Sgd,
        augmentation: Augmentation::None,
        shards: 4,
        seed: 7,
        round: 1,
        evaluate_every: 0,
        one: OneLoss::default(),
        mixing: Mixing::None,
        determinism: Determinism::Strict,
    }
}

/// Random images and soft labels.
pub(crate) struct Noise {
    pub(crate) images: Vec<u8>,
    pub(crate) labels: Vec<f32>,
}

impl Noise {
    pub(crate) fn new(samples: u64, shape: ImageShape) -> Self {
        let stream = Stream::new(3, Purpose::Calibration, 0);
        let images = (0..samples * shape.len() as u64)
            .map(|at| stream.at(at) as u8)
            .collect();
        let labels = (0..samples).flat_map(|at| soft_label(stream.fork(at))).collect();
        Self { images, labels }
    }

    pub(crate) fn set(&self) -> TransferSet<'_> {
        TransferSet {
            images: &self.images,
            labels: &self.labels,
        }
    }
}

/// Libtorch's generator, for whoever seeds it and for whoever expects the same bits of a module that
/// draws from it.
pub(crate) fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random images `[count, c, h, w]` in 0..=1. Not by libtorch's generator, which is one for the whole
/// process: a module with dropout that another test trains draws from it too.
pub(crate) fn inputs(spec: &NetworkSpec, count: i64) -> Tensor {
    let shape = spec.shape();
    let [channels, height, width] = [shape.channels, shape.height, shape.width].map(i64::from);
    let noise = Noise::new(count as u64, shape);
    let bytes = Tensor::from_data_size(&noise.images, &[count, channels, height, width], Kind::Uint8);
    unit_pixels(&bytes).unwrap()
}

fn soft_label(stream: Stream) -> Vec<f32> {
    // Cubed, so that some classes stand out.
    let raw: Vec<f32> = (0..10).map(|at| stream.unit(at).powi(3) + 0.001).collect();
    let sum: f32 = raw.iter().sum();
    raw.into_iter().map(|value| value / sum).collect()
}

pub(crate) fn training<'a>(
    spec: &'a NetworkSpec,
    transfer: TransferSet<'a>,
    config: &'a TrainConfig,
    threads: usize,
) -> Training<'a> {
    Training {
        spec,
        init: Init::Fresh,
        device: Device::Cpu,
        transfer,
        evaluation: None,
        config,
        threads,
    }
}

pub(crate) fn on(_: &Progress, _: &Session) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Trains alone.
pub(crate) fn alone(training: &Training<'_>) -> Result<Trained, StudentError> {
    train(training, &mut Local, &mut on)
}

/// Runs `rank` on every member of a ring of `size`, each on its own thread; results by rank.
pub(crate) fn ring<T: Send>(size: usize, rank: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    let listeners: Vec<RingListener> = (0..size).map(|_| RingListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: Vec<SocketAddr> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    std::thread::scope(|scope| {
        let member = |at: usize| {
            let (listener, peers, rank) = (&listeners[at], &peers, &rank);
            scope.spawn(move || {
                let mut ring = Ring::connect(listener, at, peers, GroupId(1), &[7; 32], DEADLINE).unwrap();
                rank(&mut ring)
            })
        };
        let members: Vec<_> = (0..size).map(member).collect();
        members.into_iter().map(|member| member.join().unwrap()).collect()
    })
}
