//! `stillhouse-worker`: the roles that link libtorch.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`role`] | the worker's role: a link to the coordinator and a thread that computes |
//! | [`control`] | how a newer command makes an older one stop |
//! | [`computer`] | obeys commands: scores, exports |
//! | [`training`] | one rank's part in a training |
//! | [`account`] | what metrics and traces say of a worker's work |
//! | [`card`] | what the driver says of the worker's card |
//! | [`teacher`] | a teacher of one's own |
//! | [`bench`] | measurements that `stillhouse-bench` compares with their peers |

mod account;
mod bench;
mod card;
mod cli;
mod computer;
mod control;
mod generating;
mod role;
mod teacher;
mod training;

use std::process::ExitCode;

use clap::Parser;
use cli::{BenchCommand, Cli, Command, TeacherCommand};
use stillhouse_runtime::secret::SecretError;
use stillhouse_runtime::{exit_code, logging};
use stillhouse_student::StudentError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = logging::init_stderr() {
        eprintln!("error: {error}");
        return code(exit_code::USAGE);
    }
    stillhouse_student::tune_allocator();
    let result = match cli.command {
        Command::Worker(args) => role::run(&args),
        Command::Teacher {
            command: TeacherCommand::Train(args),
        } => teacher::train(&args),
        Command::Teacher {
            command: TeacherCommand::Serve(args),
        } => teacher::serve(&args),
        Command::Bench {
            command: BenchCommand::Score(args),
        } => bench::score(&args),
        Command::Bench {
            command: BenchCommand::Train(args),
        } => bench::train(&args),
        Command::Bench {
            command: BenchCommand::AllReduce(args),
        } => bench::all_reduce(&args),
        Command::Bench {
            command: BenchCommand::FirstScore,
        } => bench::first_score(),
        Command::Bench {
            command: BenchCommand::Account,
        } => bench::account(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            code(ending(&error))
        }
    }
}

/// What an error says of trying again: another card may do better, another command line would.
fn ending(error: &anyhow::Error) -> i32 {
    for cause in error.chain() {
        match cause.downcast_ref() {
            Some(StudentError::Device { .. }) => return exit_code::DEVICE,
            Some(StudentError::Torch(text)) if text.contains("CUDA error") => return exit_code::DEVICE,
            _ => {}
        }
        if cause.is::<SecretError>() {
            return exit_code::USAGE;
        }
    }
    exit_code::WORKER
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_exit_code_tells_a_bad_card_from_a_bad_setting_and_from_anything_else() {
        let torch = |text: &str| anyhow::Error::new(StudentError::Torch(text.to_owned())).context("training");
        assert_eq!(
            ending(&torch("CUDA error: uncorrectable ECC error encountered")),
            exit_code::DEVICE
        );
        assert_eq!(ending(&torch("CUDA out of memory")), exit_code::WORKER);
        let missing = Err::<(), _>(SecretError::Missing)
            .context("the job's secret")
            .expect_err("an error");
        assert_eq!(ending(&missing), exit_code::USAGE);
        assert_eq!(ending(&anyhow::anyhow!("refused")), exit_code::WORKER);
    }
}
