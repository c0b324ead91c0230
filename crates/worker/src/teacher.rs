//! A teacher of one's own: trained on labelled images, served as a black box.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use stillhouse_collective::Local;
use stillhouse_core::image::ImageShape;
use stillhouse_core::job::{Determinism, Mixing, Optimizer, Response, Schedule, Size};
use stillhouse_runtime::{atomic_file, signals};
use stillhouse_student::train::{
    Augmentation, EvaluationSet, Init, OneLoss, TrainConfig, Training, TransferSet, train as train_network,
};
use stillhouse_student::{InferenceMode, Mode, Network, NetworkSpec, compute_alone, device};
use stillhouse_teacher::server::{Books, Host, ModelServer, Pixels, Predict, serve_router};
use stillhouse_teacher::tensor::Datatype;
use tch::{Device, Kind, Tensor};

use crate::cli::{AugmentationArg, TeacherServeArgs, TeacherTrainArgs};

/// Most images a request; more are refused with a clear answer.
const MAX_BATCH: u32 = 1_024;

/// Trains a network on labelled images and writes it as safetensors.
///
/// # Errors
/// When images cannot be read, or training fails.
pub(crate) fn train(args: &TeacherTrainArgs) -> anyhow::Result<()> {
    let device = device::open(args.device, 0)?;
    let size = args.size.map(|(height, width)| Size { height, width });
    let load = |images: &Path, labels: Option<&Path>| stillhouse_data::load(args.format, images, size, labels);
    let set = load(&args.images, args.labels.as_deref())?;
    let labels = set
        .labels
        .context("the training images have no labels: give --labels")?;
    let classes = usize::from(labels.iter().copied().max().context("no image")?) + 1;
    let shape = set.images.shape();
    let spec = NetworkSpec::Zoo {
        architecture: args.architecture,
        shape,
        classes,
    };
    let test = args
        .test_images
        .as_deref()
        .map(|images| load(images, args.test_labels.as_deref()))
        .transpose()?;
    let evaluation = test.as_ref().map(|test| EvaluationSet {
        images: test.images.bytes(),
        classes: test.labels.as_deref(),
        teacher: &[],
    });
    let config = config(args);
    let training = Training {
        spec: &spec,
        init: Init::Fresh,
        device,
        transfer: TransferSet {
            images: set.images.bytes(),
            labels: &one_hot(&labels, classes),
        },
        evaluation,
        config: &config,
        threads: args.threads.map_or_else(
            || std::thread::available_parallelism().map_or(1, |n| n.get()),
            |t| t as usize,
        ),
    };
    let trained = train_network(&training, &mut Local, &mut |progress, _| {
        if let Some(found) = progress.evaluation {
            let accuracy = 100.0 * found.correct as f64 / found.labelled.max(1) as f64;
            println!(
                "epoch {:>3}  loss {:.4}  test accuracy {accuracy:.2} %",
                progress.epoch + 1,
                progress.loss
            );
        }
        std::ops::ControlFlow::Continue(())
    })?;
    atomic_file::write(&args.out, &trained.network.weights()?)?;
    println!(
        "wrote {} ({}, {shape} images, {classes} classes)",
        args.out.display(),
        args.architecture.name()
    );
    Ok(())
}

fn config(args: &TeacherTrainArgs) -> TrainConfig {
    TrainConfig {
        epochs: args.epochs,
        batch: args.batch as usize,
        learning_rate: args.learning_rate,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::Cosine,
        warmup_steps: 100,
        optimizer: Optimizer::Sgd,
        augmentation: match args.augmentation {
            AugmentationArg::None => Augmentation::None,
            AugmentationArg::Jitter => Augmentation::Jitter {
                degrees: 10.0,
                shift: 0.1,
            },
            AugmentationArg::CropFlip => Augmentation::CropFlip,
        },
        shards: 2,
        seed: args.seed,
        round: 0,
        evaluate_every: args.epochs.div_ceil(10),
        one: OneLoss::default(),
        mixing: Mixing::None,
        determinism: if args.fast {
            Determinism::Fast
        } else {
            Determinism::Strict
        },
    }
}

fn one_hot(labels: &[u16], classes: usize) -> Vec<f32> {
    let mut hot = vec![0.0; labels.len() * classes];
    for (row, label) in hot.chunks_exact_mut(classes).zip(labels) {
        row[usize::from(*label)] = 1.0;
    }
    hot
}

/// Serves a network until a signal.
///
/// # Errors
/// When the model cannot be read, or the address is taken.
pub(crate) fn serve(args: &TeacherServeArgs) -> anyhow::Result<()> {
    let _traces = stillhouse_trace::begin("teacher")?;
    let network = load_model(args, device::open(args.device, 0)?)?;
    let (shape, classes) = (network.spec().shape(), network.spec().classes());
    let books = Books::open(args.bill.as_deref(), args.invoice.as_deref()).context("cannot open bill or invoice")?;
    let server = ModelServer {
        name: args.name.clone(),
        version: "1".into(),
        shape,
        classes,
        datatype: Datatype::Uint8,
        max_batch: MAX_BATCH,
        response: Response::Probabilities,
        threads: args.threads as usize,
    };
    let host = Host::start(server, predictor(network), books).context("cannot start the model")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let shutdown = signals::install().context("cannot listen for signals")?;
        if let Some(address) = args.metrics_listen {
            let served = stillhouse_metrics::serve::serve(address, "teacher", || async {}, shutdown.drain.clone());
            println!("metrics at http://{}/metrics", served.await?);
        }
        let grpc = match args.grpc_listen {
            Some(address) => Some(
                tokio::net::TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address}"))?,
            ),
            None => None,
        };
        if let Some(grpc) = &grpc {
            println!("gRPC at http://{}", grpc.local_addr()?);
        }
        println!(
            "serving {} ({shape} images, {classes} classes) at http://{}",
            args.name,
            listener.local_addr()?
        );
        let http = serve_router(listener, host.router(), shutdown.drain.clone());
        let served = match grpc {
            Some(grpc) => tokio::try_join!(http, serve_router(grpc, host.grpc_router(), shutdown.drain)).map(|_| ()),
            None => http.await,
        };
        served.context("the server failed")
    })
}

fn load_model(args: &TeacherServeArgs, device: Device) -> anyhow::Result<Network> {
    let bytes = std::fs::read(&args.model).with_context(|| format!("cannot read {}", args.model.display()))?;
    let is_safetensors = args
        .model
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    if is_safetensors {
        let mut network = Network::build(&NetworkSpec::of_weights(&bytes)?, 0, device)?;
        network.load_weights(&bytes)?;
        return Ok(network);
    }
    let (Some((channels, height, width)), Some(classes)) = (args.shape, args.classes) else {
        bail!("a TorchScript model needs --shape and --classes (a *.safetensors file of `teacher train` does not)");
    };
    let shape = ImageShape {
        channels,
        height,
        width,
    };
    let spec = NetworkSpec::TorchScript {
        module: Arc::from(bytes),
        shape,
        classes: classes as usize,
    };
    Ok(Network::build(&spec, 0, device)?)
}

/// Probabilities of a network, one request at a time.
fn predictor(network: Network) -> Predict {
    let network = Mutex::new(network);
    Arc::new(move |pixels: Pixels, n: usize| {
        let network = network.lock().unwrap_or_else(PoisonError::into_inner);
        probabilities(&network, pixels, n).map_err(|error| format!("{error:#}"))
    })
}

fn probabilities(network: &Network, pixels: Pixels, n: usize) -> anyhow::Result<Vec<f32>> {
    compute_alone();
    let _inference = InferenceMode::enter();
    let ImageShape {
        channels,
        height,
        width,
    } = network.spec().shape();
    let values = pixels.into_unit();
    ensure!(
        values.len() == n * network.spec().shape().len(),
        "expected {n} images, found {} values",
        values.len()
    );
    let shape = [n as i64, i64::from(channels), i64::from(height), i64::from(width)];
    let images = Tensor::f_from_slice(&values)?
        .f_view(shape)?
        .f_to_device(network.device())?;
    let probabilities = network.forward(&images, Mode::Eval)?.f_softmax(-1, Kind::Float)?;
    Ok(Vec::try_from(&probabilities.f_view([-1])?.f_to_device(Device::Cpu)?)?)
}
