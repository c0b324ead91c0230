//! Arguments of `chaos`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::chaos::schedule::{Kind, Target};

/// Arguments of `chaos`.
#[derive(Debug, Args)]
pub struct ChaosArgs {
    /// A job file to run, and to start again when its coordinator is killed; or the directory of a job that runs on this
    /// machine.
    pub job: PathBuf,
    /// Mean time between two blows, such as 500ms, 30s, 10m or 1h.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub mtbf: Duration,
    /// For how long blows fall; the job then goes on in peace [default: until it ends].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// What is done.
    #[arg(long, value_delimiter = ',', default_values = ["kill", "stop", "cut", "slow"])]
    pub kinds: Vec<Kind>,
    /// To what [default: all; to a job that runs already, not to its coordinator, which nobody might start again].
    #[arg(long, value_delimiter = ',')]
    pub targets: Vec<Target>,
    /// Fixes which blows fall in which order, and how long after each other.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// List the blows, then stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before the first blow.
    #[arg(long)]
    pub yes: bool,
    /// For programs.
    #[arg(long)]
    pub json: bool,
    /// The teacher's own bill of this job, as `stillhouse-worker teacher serve --bill` writes it: it is held against the
    /// ledger.
    #[arg(long, value_name = "FILE")]
    pub bill: Option<PathBuf>,
    /// Of a job file: the job directory [default: jobs/NAME].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Of a job file: afterwards run the same job unharmed in this new directory, with every label at no cost, and compare.
    #[arg(long, value_name = "DIR")]
    pub twin: Option<PathBuf>,
    /// Of a job file: options of `stillhouse run`.
    #[arg(last = true, value_name = "OPTIONS")]
    pub run: Vec<OsString>,
}

/// A time of at least a millisecond: a number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a number and its unit, as in 500ms, 30s, 10m or 1h, found {text}");
    let unit = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .ok_or_else(expected)?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(expected()),
    };
    let number: f64 = number.parse().map_err(|_| expected())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())?;
    let longest = Duration::from_secs(366 * 24 * 3_600);
    match (Duration::from_millis(1)..=longest).contains(&time) {
        true => Ok(time),
        false => Err(format!("expected 1ms to a year, found {text}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_time_is_a_number_and_its_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "", "30", "s", "-1s", "0s", "1 s", "1d", "1e9s", "999999h", "..s", "1..2s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_and_targets_are_lists_and_options_of_run_come_last() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Chaos(args)) => Ok(args),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error),
        };
        let args = parse("stillhouse chaos job.yaml --kinds kill,slow --targets link -- --workers 3").expect("sound");
        assert_eq!(
            (args.kinds, args.targets),
            (vec![Kind::Kill, Kind::Slow], vec![Target::Link])
        );
        assert_eq!(args.run, ["--workers", "3"]);
        let args = parse("stillhouse chaos my-job").expect("sound");
        assert_eq!(
            (args.kinds.len(), args.targets.len(), args.mtbf),
            (4, 0, Duration::from_secs(30))
        );
        assert!(parse("stillhouse chaos job.yaml --workers 3").is_err(), "not behind --");
        assert!(parse("stillhouse chaos job.yaml --kinds burn").is_err());
    }
}
