//! Arguments of the commands that look back at jobs.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Two jobs to compare: job directories, or names below the folder. Without them every job is listed.
    #[arg(action = ArgAction::Set, num_args = 2, value_names = ["JOB", "JOB"])]
    pub jobs: Vec<PathBuf>,
    /// The folder of job directories.
    #[arg(long, value_name = "DIR", default_value = "jobs")]
    pub folder: PathBuf,
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// What reads the curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CurvesFormat {
    /// An event file of each student, for `tensorboard --logdir FOLDER`.
    Tensorboard,
    /// A run of each student in an MLflow file store.
    Mlflow,
    /// One table, curves.csv.
    Csv,
}

/// Arguments of `curves`.
#[derive(Debug, Args)]
pub struct CurvesArgs {
    /// The job directory.
    pub dir: PathBuf,
    /// The folder to write to; it is made when needed.
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// What reads them.
    #[arg(long)]
    pub format: CurvesFormat,
}
