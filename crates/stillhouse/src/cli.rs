//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use chaos::ChaosArgs;
use cluster::{ClusterArgs, ExportStudentArgs, ListArgs, LogsArgs, NameArgs, ResizeArgs, ServeResultsArgs, SubmitArgs};
use past::{CurvesArgs, HistoryArgs};
use stillhouse_runtime::link::args::{ConnectArgs, ListenArgs};

pub mod chaos;
pub mod cluster;
pub mod past;

/// What a job of a cluster begins with, where a job directory may stand as well.
pub const CLUSTER_JOB: &str = "djob/";

/// Distils a student from a black-box teacher, and never spends one query more than the budget.
#[derive(Debug, Parser)]
#[command(name = "stillhouse", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 internal, 2 usage or job file, 3 images, 4 teacher, 5 budget, \
6 job directory, 7 storage, 8 workers, 130 interrupted (run again to go on)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented job file to start from.
    Init(InitArgs),
    /// Check a job file and its images; asks the teacher nothing.
    Validate(JobArgs),
    /// Run a job on this machine, or go on with an interrupted one.
    Run(RunArgs),
    /// Coordinate a job whose workers are started elsewhere, or go on with an interrupted one.
    Coordinator(CoordinatorArgs),
    /// Ask the teacher for a job that runs elsewhere, until it is over.
    Gateway(GatewayArgs),
    /// Show how far a job is.
    Status(LookArgs),
    /// Look on while a job runs; a line a second when standard output is no terminal.
    Watch(LookArgs),
    /// Kill, stop, cut and slow a job of this machine at random, and check that its budget, labels and student are as if
    /// nothing had happened.
    Chaos(ChaosArgs),
    /// Continue what `chaos` has stopped, once that is gone.
    #[command(hide = true)]
    ChaosUndo,
    /// Write report.html of the job in a directory again.
    Report(DirArgs),
    /// List past jobs, or compare two at equal queries.
    History(HistoryArgs),
    /// Write the learning curves of a job for TensorBoard, MLflow or a spreadsheet.
    Curves(CurvesArgs),
    /// Look into the ledger of a job that is not running: what was spent, and what it bought.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// What a job may spend.
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// Send a job to a cluster, or its changed file.
    Submit(SubmitArgs),
    /// List the jobs of a cluster.
    List(ListArgs),
    /// Say how a job of a cluster is, what it waits for and what can be done about it.
    Describe(NameArgs),
    /// Show what a job's programs wrote on a cluster.
    Logs(LogsArgs),
    /// Settle what a job of a cluster has sent, then let its pods go.
    Suspend(NameArgs),
    /// Go on with a job that was suspended, in the same round.
    Resume(NameArgs),
    /// Change how many workers a job of a cluster has.
    Resize(ResizeArgs),
    /// Delete a job from a cluster; its volume stays, with the labels that were paid for.
    Cancel(NameArgs),
    /// Fetch student, report and labels of a job of a cluster that is over.
    Export(ExportStudentArgs),
    /// Serve the results in a job directory for `export`.
    #[command(hide = true)]
    ServeResults(ServeResultsArgs),
    /// List every metric that the roles serve with --metrics-listen, as Markdown.
    Metrics,
}

/// What to do with a ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Show what was spent, on what, and what is in doubt and why.
    Show(ShowArgs),
    /// Check every record and label: exit code 7 when something is damaged.
    Verify(DirArgs),
    /// Compare with the provider's bill: exit code 5 when it has more than the ledger.
    Reconcile(ReconcileArgs),
    /// Write every query with its label into one file.
    Export(ExportArgs),
    /// Take labels of other jobs of the same teacher; they cost nothing.
    Import(ImportArgs),
}

/// What to do with a budget.
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// Allow a job to spend more: one in a directory that is not running, or one of a cluster.
    Add(BudgetAddArgs),
}

/// Arguments of `ledger show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// For programs.
    #[arg(long)]
    pub json: bool,
    /// List the queries that brought no label: in doubt, or billed for nothing.
    #[arg(long)]
    pub ambiguous: bool,
    /// Rows of that list, at most.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
}

/// Arguments of `ledger reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// The bill: CSV with `request_id` and `images`, or one BLAKE3 of pixels a line.
    #[arg(required_unless_present = "billed")]
    pub invoice: Option<PathBuf>,
    /// A total in place of a bill.
    #[arg(long, value_name = "N", conflicts_with_all = ["invoice", "apply", "shared"])]
    pub billed: Option<u64>,
    /// The bill is closed: give queries in doubt that it does not contain back to the budget.
    #[arg(long)]
    pub apply: bool,
    /// The bill has queries of other clients too.
    #[arg(long)]
    pub shared: bool,
}

/// Arguments of `ledger export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// The file to write: *.parquet or *.safetensors.
    pub file: PathBuf,
}

/// Arguments of `ledger import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// Job directories, folders of them, or exported files.
    #[arg(required = true)]
    pub sources: Vec<PathBuf>,
}

/// Arguments of `budget add`.
#[derive(Debug, Args)]
pub struct BudgetAddArgs {
    /// The job directory, or `djob/NAME` of a cluster.
    pub dir: PathBuf,
    /// Queries to add.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub queries: u64,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// File to write; refused when it exists.
    #[arg(default_value = "job.yaml")]
    pub path: PathBuf,
}

/// A job file.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job file.
    pub job: PathBuf,
}

/// A job to look at.
#[derive(Debug, Args)]
pub struct LookArgs {
    /// The job directory, or `djob/NAME` of a cluster.
    #[arg(required_unless_present = "coordinator")]
    pub dir: Option<PathBuf>,
    /// A coordinator, of whose job STILLHOUSE_TOKEN or STILLHOUSE_TOKEN_FILE has the token.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "dir")]
    pub coordinator: Option<String>,
    /// Its certificate.
    #[command(flatten)]
    pub tls: ConnectArgs,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// The job of a cluster that `djob/NAME` names in place of a directory.
#[must_use]
pub fn cluster_job(dir: &std::path::Path) -> Option<&str> {
    dir.to_str()?.strip_prefix(CLUSTER_JOB).filter(|name| !name.is_empty())
}

/// A job directory.
#[derive(Debug, Args)]
pub struct DirArgs {
    /// The job directory.
    pub dir: PathBuf,
}

/// A job, and how it is asked for.
#[derive(Debug, Args)]
pub struct JobRunArgs {
    /// The job file.
    pub job: PathBuf,
    /// Where ledger, students and results go [default: jobs/NAME].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Labels of these at no cost: job directories, folders of them, or exported files.
    #[arg(long, value_name = "SOURCE")]
    pub reuse: Vec<PathBuf>,
    /// No progress bars.
    #[arg(long)]
    pub quiet: bool,
    /// Serve metrics for Prometheus at http://HOST:PORT/metrics, to whoever can reach that.
    #[arg(long, env = "STILLHOUSE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Let `stillhouse chaos` cut and slow the links of this job, for whoever has its token.
    #[arg(long)]
    pub chaos: bool,
    /// Serve the live page at http://HOST:PORT/, to whoever can reach that; only the job's token changes anything there
    /// [without an address: 127.0.0.1:7780].
    #[arg(long, env = "STILLHOUSE_WEB", value_name = "HOST:PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "127.0.0.1:7780")]
    pub web: Option<SocketAddr>,
    /// The live page stops nothing, for whoever has the token either: where somebody else looks after the job.
    #[arg(long, requires = "web")]
    pub web_read_only: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job.
    #[command(flatten)]
    pub common: JobRunArgs,
    /// Worker processes of this machine [default: as many as cards, or else cores, within the job's
    /// workers.min and max].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Show what it would ask, compute and cost, then stop.
    #[arg(long)]
    pub dry_run: bool,
    /// The worker program [default: stillhouse-worker beside this program, or on the path].
    #[arg(long, env = "STILLHOUSE_WORKER")]
    pub worker_program: Option<PathBuf>,
    /// Let workers and gateways of other hosts join at this address. The token that they need is
    /// STILLHOUSE_TOKEN, or else drawn and written to the file `token` in the job directory.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The certificate where others join; this machine's own workers need none.
    #[command(flatten)]
    pub tls: ListenArgs,
    /// Ask the teacher through gateways of other processes alone; needs spec.queue.
    #[arg(long, requires = "listen")]
    pub no_gateway: bool,
}

/// Arguments of `coordinator`. The token that workers and gateways need is STILLHOUSE_TOKEN, or
/// else drawn and written to the file `token` in the job directory.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// The job.
    #[command(flatten)]
    pub common: JobRunArgs,
    /// Where workers and gateways join.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7700")]
    pub listen: String,
    /// The certificate that is shown there.
    #[command(flatten)]
    pub tls: ListenArgs,
    /// Ask the teacher through gateways of other processes alone; needs spec.queue.
    #[arg(long)]
    pub no_gateway: bool,
    /// Where it is written, when this process ends, how far the job is and why it ended: JSON of at most 4 KiB.
    #[arg(long, value_name = "FILE")]
    pub ending: Option<PathBuf>,
}

/// Arguments of `gateway`. The job's token is in STILLHOUSE_TOKEN, or in a file that
/// STILLHOUSE_TOKEN_FILE names.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Where the coordinator listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: String,
    /// Its certificate.
    #[command(flatten)]
    pub tls: ConnectArgs,
    /// The queue as this host reaches it [default: the job's spec.queue].
    #[arg(long, value_name = "redis://HOST:PORT/DB")]
    pub queue: Option<String>,
    /// Serve metrics for Prometheus at http://HOST:PORT/metrics, to whoever can reach that.
    #[arg(long, env = "STILLHOUSE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_line_of_a_pod_is_one_that_this_program_reads() {
        use stillhouse_operator::pods::{Role, command};
        let text = include_str!("../../../deploy/kind/job.yaml");
        let mut object: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        object["metadata"]["namespace"] = "lab".into();
        let request = stillhouse_operator::request::parse(&serde_json::from_value(object).unwrap()).unwrap();
        for role in [Role::Coordinator, Role::Gateway] {
            Cli::try_parse_from(command(&request, role)).unwrap();
        }
    }

    #[test]
    fn a_job_of_a_cluster_stands_where_a_directory_may() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command;
        let Command::Status(args) = parse("stillhouse status djob/mnist -n lab") else {
            panic!()
        };
        assert_eq!(args.dir.as_deref().and_then(cluster_job), Some("mnist"));
        let Command::Suspend(args) = parse("stillhouse suspend djob/mnist") else {
            panic!()
        };
        assert_eq!(args.name, "mnist");
        let Command::Watch(args) = parse("stillhouse watch jobs/mnist") else {
            panic!()
        };
        assert_eq!(args.dir.as_deref().and_then(cluster_job), None);
    }

    #[test]
    fn history_takes_two_jobs_or_none() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("stillhouse history"));
        assert!(parse("stillhouse history one two --folder elsewhere"));
        for jobs in ["one", "one two three", "one two three four"] {
            assert!(!parse(&format!("stillhouse history {jobs}")), "{jobs}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key_and_a_name_needs_an_authority() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("stillhouse coordinator job.yaml --tls-cert c --tls-key k"));
        assert!(parse(
            "stillhouse run job.yaml --listen 0.0.0.0:7700 --tls-cert c --tls-key k"
        ));
        for alone in ["--tls-cert c", "--tls-key k"] {
            assert!(!parse(&format!("stillhouse coordinator job.yaml {alone}")), "{alone}");
        }
        let gateway = "stillhouse gateway --coordinator host:7700";
        assert!(parse(&format!("{gateway} --tls-ca ca --tls-server-name name")));
        assert!(!parse(&format!("{gateway} --tls-server-name name")));
        assert!(parse("stillhouse status --coordinator host:7700 --tls-ca ca"));
    }

    #[test]
    fn only_who_listens_can_do_without_a_gateway_and_a_coordinator_always_does() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("stillhouse coordinator job.yaml --no-gateway"));
        assert!(parse("stillhouse run job.yaml --no-gateway --listen 127.0.0.1:7700"));
        assert!(!parse("stillhouse run job.yaml --no-gateway"));
    }
}
