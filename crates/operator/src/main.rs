//! `stillhouse-operator`: looks after distillation jobs on a cluster, or prints what a cluster needs.

mod lead;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use stillhouse_operator::crd::{DistillJob, definition};
use stillhouse_operator::desired::{Images, Observed, plan};
use stillhouse_operator::request::parse;
use stillhouse_runtime::logging::{self, Format};

/// Distillation jobs on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "stillhouse-operator", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look after the jobs of a cluster, or of a namespace.
    Run(RunArgs),
    /// Print the definition of the custom resource.
    Crd,
    /// Check a job file as the operator would, and print the objects that it becomes; sends nothing.
    Render {
        /// The job file; standard input when `-`.
        job: PathBuf,
        /// Namespace of the objects.
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Unique id of the DistillJob that owns them.
        #[arg(long, default_value = "00000000-0000-0000-0000-000000000000")]
        uid: String,
        /// Images.
        #[command(flatten)]
        images: ImageArgs,
    },
}

#[derive(Debug, Args)]
struct ImageArgs {
    /// Image of coordinators and gateways.
    #[arg(long, env = "STILLHOUSE_IMAGE", default_value = concat!("stillhouse/stillhouse:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Image of workers.
    #[arg(
        long,
        env = "STILLHOUSE_WORKER_IMAGE",
        default_value = concat!("stillhouse/stillhouse-worker:", env!("CARGO_PKG_VERSION"))
    )]
    worker_image: String,
}

impl From<ImageArgs> for Images {
    fn from(args: ImageArgs) -> Self {
        Self {
            control: args.image,
            worker: args.worker_image,
        }
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The namespace whose jobs are looked after [default: all].
    #[arg(long, env = "STILLHOUSE_NAMESPACE")]
    namespace: Option<String>,
    /// Images.
    #[command(flatten)]
    images: ImageArgs,
    /// Namespace of the Lease by which one of several replicas is chosen [default: that of the account].
    #[arg(long, env = "STILLHOUSE_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this replica [default: the host's].
    #[arg(long, env = "STILLHOUSE_IDENTITY")]
    identity: Option<String>,
    /// Serve metrics at http://HOST:PORT/metrics, to whoever can reach that.
    #[arg(long, env = "STILLHOUSE_METRICS_LISTEN", value_name = "HOST:PORT")]
    metrics_listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let outcome = logging::wanted(Format::Human)
        .and_then(|format| logging::init(format, std::io::stderr))
        .map_err(anyhow::Error::from)
        .and_then(|()| perform(Cli::parse().command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(lead::run(args)),
        Command::Crd => print(&definition()),
        Command::Render {
            job,
            namespace,
            uid,
            images,
        } => {
            let mut object: Value = serde_saphyr::from_str(&read(&job)?).context("the job file is no YAML")?;
            anyhow::ensure!(
                object["metadata"].is_object(),
                "expected metadata with a name, found none"
            );
            object["metadata"]["namespace"] = json!(namespace);
            object["metadata"]["uid"] = json!(uid);
            let object: DistillJob = serde_json::from_value(object)?;
            let items = plan(&parse(&object)?, &Observed::default(), &images.into()).apply;
            print(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn print(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
