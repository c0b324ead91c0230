//! `stillhouse ledger`: the books of a job that is not running.

mod export;
mod import;
mod reconcile;
mod show;
mod verify;

use crate::cli::LedgerCommand;
use crate::failure::Failure;

/// Performs one of the commands.
///
/// # Errors
/// Whatever stops it, or what it found.
pub fn perform(command: &LedgerCommand) -> Result<String, Failure> {
    match command {
        LedgerCommand::Show(args) => show::show(args),
        LedgerCommand::Verify(args) => verify::verify(&args.dir),
        LedgerCommand::Reconcile(args) => reconcile::reconcile(args),
        LedgerCommand::Export(args) => export::export(&args.dir, &args.file),
        LedgerCommand::Import(args) => import::import(&args.dir, &args.sources),
    }
}
