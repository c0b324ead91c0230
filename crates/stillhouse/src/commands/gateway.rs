//! `stillhouse gateway`: asks the teacher for a job that runs elsewhere.

use stillhouse_runtime::signals;

use crate::cli::GatewayArgs;
use crate::commands::runtime;
use crate::failure::{Failure, Kind};
use crate::gateway::role;

/// Asks until the job is over; returns a closing line.
///
/// # Errors
/// When coordinator, queue or teacher refuse.
pub fn gateway(args: &GatewayArgs) -> Result<String, Failure> {
    runtime()?.block_on(async {
        let shutdown = signals::install()
            .map_err(|error| Failure::new(Kind::Internal, error).context("cannot listen for signals"))?;
        tokio::select! {
            outcome = role::run(args, shutdown.drain) => outcome,
            () = shutdown.abort.cancelled() => Err(Failure::message(
                Kind::Interrupted,
                "aborted; queries under way are in doubt and stay held",
            )),
        }
    })
}
