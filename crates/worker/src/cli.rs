//! The command line of the worker.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stillhouse_core::job::{Architecture, ImageFormat};
use stillhouse_runtime::link::args::ConnectArgs;
use stillhouse_student::device::Wanted;

/// The roles that link libtorch: scoring and training for a job, and a teacher of one's own.
#[derive(Debug, Parser)]
#[command(name = "stillhouse-worker", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Score and train for a coordinator.
    Worker(WorkerArgs),
    /// Train a teacher on labelled images, or serve one over HTTP.
    Teacher {
        /// What to do.
        #[command(subcommand)]
        command: TeacherCommand,
    },
    /// Measure one thing and print it as JSON; `stillhouse-bench` compares it with its peer.
    #[command(hide = true)]
    Bench {
        /// What to measure.
        #[command(subcommand)]
        command: BenchCommand,
    },
}

/// Arguments of `worker`. The job's secret comes from STILLHOUSE_TOKEN or STILLHOUSE_TOKEN_FILE.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Where the coordinator listens. One that is not there yet, or goes away, is waited for.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) coordinator: String,
    /// Its certificate.
    #[command(flatten)]
    pub(crate) tls: ConnectArgs,
    /// The address of this host at which other workers reach it [default: the one that the
    /// coordinator is reached from].
    #[arg(long, value_name = "IP")]
    pub(crate) ring_address: Option<IpAddr>,
    /// The port at which other workers reach it, for hosts behind a firewall [default: any that is free].
    #[arg(
        long,
        env = "STILLHOUSE_RING_PORT",
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) ring_port: u16,
    /// End when the coordinator is not there or goes away.
    #[arg(long)]
    pub(crate) once: bool,
    /// Threads to compute with [default: all cores].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER. With auto the job file's workers.device counts.
    #[arg(long, env = "STILLHOUSE_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Wanted,
    /// Serve metrics for Prometheus at http://HOST:PORT/metrics, to whoever can reach that.
    #[arg(long, env = "STILLHOUSE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Which of this host's workers this is, from 0: those that name no card take turns.
    #[arg(long, env = "STILLHOUSE_LOCAL_RANK", default_value_t = 0, value_name = "NUMBER")]
    pub(crate) local_rank: u16,
}

/// A teacher of one's own.
#[derive(Debug, Subcommand)]
pub(crate) enum TeacherCommand {
    /// Train a network of the zoo on labelled images.
    Train(TeacherTrainArgs),
    /// Serve a trained network under the Open Inference Protocol v2.
    Serve(TeacherServeArgs),
}

/// Arguments of `teacher train`.
#[derive(Debug, Args)]
pub(crate) struct TeacherTrainArgs {
    /// Labelled training images.
    #[arg(long)]
    pub(crate) images: PathBuf,
    /// Their labels as IDX, unless the images' format has them.
    #[arg(long)]
    pub(crate) labels: Option<PathBuf>,
    /// Format of the images: idx, cifar-binary, folder or tar.
    #[arg(long, default_value = "idx", value_parser = parse_format)]
    pub(crate) format: ImageFormat,
    /// Resize every image to HEIGHTxWIDTH.
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<(u32, u32)>,
    /// Images to measure accuracy on.
    #[arg(long)]
    pub(crate) test_images: Option<PathBuf>,
    /// Their labels as IDX.
    #[arg(long)]
    pub(crate) test_labels: Option<PathBuf>,
    /// Network: lenet5, lenet5-half, alexnet, alexnet-half, resnet20, resnet32 or vgg16-bn.
    #[arg(long, default_value = "lenet5", value_parser = parse_architecture)]
    pub(crate) architecture: Architecture,
    /// Passes over the images.
    #[arg(long, default_value_t = 20)]
    pub(crate) epochs: u32,
    /// Images a step.
    #[arg(long, default_value_t = 128)]
    pub(crate) batch: u32,
    /// Peak learning rate of SGD (cosine schedule, 100 warm-up steps, momentum 0.9).
    #[arg(long, default_value_t = 0.05)]
    pub(crate) learning_rate: f64,
    /// Random changes of the images: none, jitter or crop-flip.
    #[arg(long, default_value = "jitter", value_enum)]
    pub(crate) augmentation: AugmentationArg,
    /// Seed.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<u32>,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Wanted,
    /// Compute as fast as the device can: other bits every time.
    #[arg(long)]
    pub(crate) fast: bool,
    /// Safetensors file to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

/// Random changes of training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AugmentationArg {
    /// None.
    None,
    /// Small rotations and shifts.
    Jitter,
    /// Crops and horizontal flips.
    CropFlip,
}

/// Arguments of `teacher serve`.
#[derive(Debug, Args)]
pub(crate) struct TeacherServeArgs {
    /// Safetensors file of `teacher train`, or a TorchScript file (then --shape and --classes too).
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Name to serve it under.
    #[arg(long, default_value = "teacher")]
    pub(crate) name: String,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Where to listen for gRPC too.
    #[arg(long)]
    pub(crate) grpc_listen: Option<SocketAddr>,
    /// CHANNELSxHEIGHTxWIDTH of a TorchScript model.
    #[arg(long, value_parser = parse_shape)]
    pub(crate) shape: Option<(u32, u32, u32)>,
    /// Classes of a TorchScript model.
    #[arg(long)]
    pub(crate) classes: Option<u32>,
    /// Append one line for every image answered, on disk before the answer leaves.
    #[arg(long)]
    pub(crate) bill: Option<PathBuf>,
    /// Append one CSV line for every request answered (time_unix_ms,request_id,images), likewise.
    #[arg(long)]
    pub(crate) invoice: Option<PathBuf>,
    /// Threads [default: 1].
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: u32,
    /// Serve metrics for Prometheus at http://HOST:PORT/metrics, to whoever can reach that.
    #[arg(long, env = "STILLHOUSE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Wanted,
}

/// One measurement.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Candidates scored a second.
    Score(BenchScoreArgs),
    /// Training steps a second.
    Train(BenchTrainArgs),
    /// Sums over a ring of processes; this is one of them.
    AllReduce(BenchAllReduceArgs),
    /// Start to first score, as a process: build a network, score one batch, stop.
    FirstScore,
    /// Nanoseconds that metrics and traces take of a training step and of a command.
    Account,
}

/// Arguments of `bench score`.
#[derive(Debug, Args)]
pub(crate) struct BenchScoreArgs {
    /// Network.
    #[arg(long, default_value = "lenet5", value_parser = parse_architecture)]
    pub(crate) architecture: Architecture,
    /// Seed images as IDX; random ones when absent.
    #[arg(long)]
    pub(crate) images: Option<PathBuf>,
    /// Weights; initial ones when absent.
    #[arg(long)]
    pub(crate) weights: Option<PathBuf>,
    /// How many seed images.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) seeds: u32,
    /// How many pairs to scan.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) pairs: u64,
    /// First pair.
    #[arg(long, default_value_t = 0)]
    pub(crate) start: u64,
    /// Candidates wanted of the whole pool.
    #[arg(long, default_value_t = 500)]
    pub(crate) k: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: u32,
    /// Score every candidate on its exact bytes instead of scanning fast and rescoring a band.
    #[arg(long)]
    pub(crate) exact: bool,
    /// Also scan exactly and compare the chosen candidates.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: Wanted,
}

/// Arguments of `bench train`.
#[derive(Debug, Args)]
pub(crate) struct BenchTrainArgs {
    /// Network.
    #[arg(long, default_value = "lenet5", value_parser = parse_architecture)]
    pub(crate) architecture: Architecture,
    /// Images a step.
    #[arg(long, default_value_t = 128)]
    pub(crate) batch: u32,
    /// Virtual shards a step.
    #[arg(long, default_value_t = 2)]
    pub(crate) shards: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: u32,
    /// Steps to measure.
    #[arg(long, default_value_t = 200)]
    pub(crate) steps: u32,
    /// Ranks on a ring over loopback, each with these threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) ranks: u32,
    /// Add gradients in the quickest order, not in one that is the same for any number of ranks.
    #[arg(long)]
    pub(crate) fast: bool,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: Wanted,
}

/// Arguments of `bench all-reduce`.
#[derive(Debug, Args)]
pub(crate) struct BenchAllReduceArgs {
    /// Where every rank listens, in order.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) peers: Vec<SocketAddr>,
    /// This rank.
    #[arg(long)]
    pub(crate) rank: u32,
    /// Floats to add.
    #[arg(long)]
    pub(crate) floats: u32,
    /// How often.
    #[arg(long)]
    pub(crate) repetitions: u32,
}

fn parse_architecture(text: &str) -> Result<Architecture, String> {
    let names = Architecture::ALL.map(Architecture::name).join(", ");
    let known = Architecture::ALL.into_iter().find(|a| a.name() == text);
    known.ok_or_else(|| format!("expected one of {names}"))
}

fn parse_format(text: &str) -> Result<ImageFormat, String> {
    match text {
        "idx" => Ok(ImageFormat::Idx),
        "cifar-binary" => Ok(ImageFormat::CifarBinary),
        "folder" => Ok(ImageFormat::Folder),
        "tar" => Ok(ImageFormat::Tar),
        _ => Err("expected idx, cifar-binary, folder or tar".into()),
    }
}

fn sides<const N: usize>(text: &str) -> Option<[u32; N]> {
    let sides: Option<Vec<u32>> = text
        .split('x')
        .map(|side| side.parse().ok().filter(|s| *s > 0))
        .collect();
    sides?.try_into().ok()
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let [height, width] = sides(text).ok_or("expected HEIGHTxWIDTH, such as 28x28")?;
    Ok((height, width))
}

fn parse_shape(text: &str) -> Result<(u32, u32, u32), String> {
    let [channels, height, width] = sides(text).ok_or("expected CHANNELSxHEIGHTxWIDTH, such as 3x32x32")?;
    Ok((channels, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert_eq!(parse_shape("3x32x32"), Ok((3, 32, 32)));
        assert!(parse_size("28").is_err());
        assert!(parse_size("0x28").is_err());
    }
}
