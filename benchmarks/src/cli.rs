//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures the figures of docs/benchmarks.md and writes them to benchmarks/results.
#[derive(Debug, Parser)]
#[command(name = "stillhouse-bench", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Active Mixup's MNIST setting, over seeds, beside a random control (about an hour).
    Mnist(MnistArgs),
    /// Candidates scored a second, beside two PyTorch loops (about 10 minutes).
    Scoring(DataArgs),
    /// Training steps a second, beside PyTorch eager (about 10 minutes).
    Training,
    /// Process start to first score, beside PyTorch (about a minute).
    Startup,
    /// Memory of a dry run and of one scoring shard over a billion pairs; fails above 1 GB.
    #[command(name = "pool-1e9")]
    Pool1e9(DataArgs),
    /// All of the above.
    All(DataArgs),
    /// Copy the results into docs/benchmarks.md.
    Page,
}

/// Where the data lies.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Folder with the four MNIST files, or with a folder `mnist` of them [default: shared/data
    /// beside the repository].
    #[arg(long, env = "STILLHOUSE_DATA")]
    pub(crate) data: Option<PathBuf>,
}

/// Arguments of `mnist`.
#[derive(Debug, Args)]
pub(crate) struct MnistArgs {
    /// Where the data lies.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Seeds: each draws other seed images and other initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    pub(crate) seeds: Vec<u64>,
    /// How much of it to run.
    #[arg(long, value_enum, default_value = "published")]
    pub(crate) scale: Scale,
    /// Where results go [default: benchmarks/results; for the small scale target/bench/results].
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl MnistArgs {
    /// The published setting with three seeds.
    pub(crate) fn published(data: DataArgs) -> Self {
        Self {
            data,
            seeds: vec![0, 1, 2],
            scale: Scale::Published,
            out: None,
        }
    }
}

/// How much of the MNIST setting to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// As the paper has it: 2,000 seed images, 4 rounds of 6,000.
    Published,
    /// 300 seed images, 2 rounds of 300: whether everything works, in about 3 minutes.
    Small,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["stillhouse-bench", "mnist", "--seeds", "0,5", "--scale", "small"]);
        assert!(matches!(cli.command, Command::Mnist(MnistArgs { seeds, scale: Scale::Small, .. }) if seeds == [0, 5]));
    }
}
