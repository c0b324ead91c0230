//! `stillhouse`: see the library of the same name.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use stillhouse::cli::{BudgetCommand, Cli, Command};
use stillhouse::commands::{budget, gateway, init, ledger, look, run, show, validate};
use stillhouse::failure::{Failure, Kind};
use stillhouse::report::ProgressBars;
use stillhouse_runtime::logging::{self, Format};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = match &cli.command {
        Command::Run(args) => args.common.quiet,
        Command::Coordinator(args) => args.common.quiet,
        _ => false,
    };
    let bars = if quiet {
        ProgressBars::hidden()
    } else {
        ProgressBars::new()
    };
    let logged = logging::init(Format::Human, bars.clone());
    let outcome = logged
        .map_err(|error| Failure::new(Kind::Usage, error))
        .and_then(|()| perform(&cli.command, &bars));
    match outcome {
        Ok(text) => {
            say(io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            bars.clear();
            if let Some(findings) = failure.findings() {
                say(io::stdout(), &findings);
            }
            say(io::stderr(), &failure);
            ExitCode::from(u8::try_from(failure.kind().exit_code()).unwrap_or(1))
        }
    }
}

/// Writes a line. Whoever should read it may be gone, or the disk that keeps it full: the exit code
/// says how it ended all the same.
fn say(mut to: impl Write, line: &impl Display) {
    let _ = writeln!(to, "{line}");
}

fn perform(command: &Command, bars: &ProgressBars) -> Result<String, Failure> {
    match command {
        Command::Init(args) => init::init(&args.path),
        Command::Validate(args) => validate::validate(&args.job),
        Command::Run(args) if args.dry_run => validate::dry_run(&args.common.job),
        Command::Run(args) => run::run(args, bars),
        Command::Coordinator(args) => run::coordinator(args, bars),
        Command::Gateway(args) => gateway::gateway(args),
        Command::Status(args) => look::status(args),
        Command::Watch(args) => look::watch(args),
        Command::Report(args) => show::report(&args.dir),
        Command::Ledger(command) => ledger::perform(command),
        Command::Budget(BudgetCommand::Add(args)) => budget::add(&args.dir, args.queries),
        Command::Metrics => Ok(stillhouse_metrics::page::markdown().trim_end().to_owned()),
    }
}
