//! `stillhouse`: see the library of the same name.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use stillhouse::cli::{BudgetCommand, Cli, Command, cluster_job};
use stillhouse::commands::{budget, chaos, cluster, gateway, history, init, ledger, look, run, show, validate};
use stillhouse::failure::{Failure, Kind};
use stillhouse::report::ProgressBars;
use stillhouse_runtime::logging::{self, Format};
use stillhouse_trace::Export;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = match &cli.command {
        Command::Run(args) => args.common.quiet,
        Command::Coordinator(args) => args.common.quiet,
        _ => false,
    };
    let format = logging::wanted(Format::Human);
    let bars = if quiet || matches!(format, Ok(Format::Json)) {
        ProgressBars::hidden()
    } else {
        ProgressBars::new()
    };
    let logged = format.and_then(|format| logging::init(format, bars.clone()));
    let outcome = logged
        .map_err(|error| Failure::new(Kind::Usage, error))
        .and_then(|()| traced(&cli.command))
        .and_then(|_traces| perform(&cli.command, &bars));
    match outcome {
        Ok(text) => {
            if !text.is_empty() {
                say(io::stdout(), &text);
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            bars.clear();
            if let Some(findings) = failure.findings() {
                say(io::stdout(), &findings);
            }
            if logging::is_json() {
                tracing::error!(%failure, "the program failed");
            } else {
                say(io::stderr(), &failure);
            }
            ExitCode::from(u8::try_from(failure.kind().exit_code()).unwrap_or(1))
        }
    }
}

/// Sends the traces of roles that have some.
fn traced(command: &Command) -> Result<Option<Export>, Failure> {
    let role = match command {
        Command::Run(args) if args.dry_run => return Ok(None),
        Command::Run(_) | Command::Coordinator(_) => "coordinator",
        Command::Gateway(_) => "gateway",
        _ => return Ok(None),
    };
    let begun = stillhouse_trace::begin(role);
    begun.map(Some).map_err(|error| Failure::new(Kind::Usage, error))
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
        Command::Status(args) => match args.dir.as_deref().and_then(cluster_job) {
            Some(name) => cluster::look::status(&args.cluster, name),
            None => look::status(args),
        },
        Command::Watch(args) => match args.dir.as_deref().and_then(cluster_job) {
            Some(name) => cluster::look::watch(&args.cluster, name),
            None => look::watch(args),
        },
        Command::Chaos(args) => chaos::chaos(args),
        Command::ChaosUndo => chaos::undo(),
        Command::Report(args) => show::report(&args.dir),
        Command::History(args) => history::history(args),
        Command::Curves(args) => history::curves(args),
        Command::Ledger(command) => ledger::perform(command),
        Command::Budget(BudgetCommand::Add(args)) => match cluster_job(&args.dir) {
            Some(name) => cluster::change::add_budget(&args.cluster, name, args.queries),
            None => budget::add(&args.dir, args.queries),
        },
        Command::Submit(args) => cluster::submit::submit(args),
        Command::List(args) => cluster::look::list(args),
        Command::Describe(args) => cluster::describe::describe(args),
        Command::Logs(args) => cluster::logs::logs(args),
        Command::Suspend(args) => cluster::change::suspend(args, true),
        Command::Resume(args) => cluster::change::suspend(args, false),
        Command::Resize(args) => cluster::change::resize(args),
        Command::Cancel(args) => cluster::change::cancel(args),
        Command::Export(args) => cluster::export::export(args),
        Command::ServeResults(args) => cluster::export::serve_results(args),
        Command::Metrics => Ok(stillhouse_metrics::page::markdown().trim_end().to_owned()),
    }
}
