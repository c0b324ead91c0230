//! Arguments of the commands that speak to a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which cluster, and which namespace of it.
#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArgs {
    /// Namespace of the job [default: that of the context].
    #[arg(long, short = 'n')]
    pub namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one].
    #[arg(long)]
    pub context: Option<String>,
    /// The kubeconfig [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// What `submit` does without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Checks on this machine alone, and says which objects the job becomes and what it may cost.
    Client,
    /// Lets the API server check, and keeps nothing.
    Server,
}

/// Arguments of `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The job file, which is the manifest; standard input when `-`.
    pub job: PathBuf,
    /// Check and say, without doing.
    #[arg(long, value_name = "WHERE")]
    pub dry_run: Option<DryRun>,
    /// Look on until the job is over, as `watch` does.
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Of every namespace.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// A job of a cluster.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of the job.
    #[arg(value_parser = name)]
    pub name: String,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `resize`.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// The job.
    #[command(flatten)]
    pub job: NameArgs,
    /// Workers from now on, at most the job's workers.max.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
}

/// Whose log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogRole {
    /// The coordinator's.
    Coordinator,
    /// Every worker's.
    Worker,
    /// Every gateway's.
    Gateway,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The job.
    #[command(flatten)]
    pub job: NameArgs,
    /// Whose.
    #[arg(long, value_enum, default_value_t = LogRole::Coordinator)]
    pub role: LogRole,
    /// The last lines alone.
    #[arg(long, value_name = "N")]
    pub tail: Option<i64>,
    /// Go on with what is written from now on, until the newest pod ends.
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportStudentArgs {
    /// The job, which is over.
    #[command(flatten)]
    pub job: NameArgs,
    /// The folder that gets the files; made when it is not there.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Arguments of `serve-results`.
#[derive(Debug, Args)]
pub struct ServeResultsArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// Where the files are served, to whoever can reach that.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: SocketAddr,
}

/// A name, also as `djob/NAME`.
fn name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix(super::CLUSTER_JOB).unwrap_or(text);
    if name.is_empty() || name.contains('/') {
        return Err(format!("expected the name of a job, found {text:?}"));
    }
    Ok(name.to_owned())
}
