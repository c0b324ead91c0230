//! The way of a query beside other queues on the same Redis; what a crash of it costs.
//!
//! | module | what it is |
//! |---|---|
//! | [`contestants`] | who is compared, and in which settings |
//! | [`installed`] | puts the peers where they can be run |
//! | [`server`] | a Redis server of our own |
//! | [`rates`] | tries the settings, runs the best in turns |
//! | [`ours`] | our own path in one process, run like a peer |
//! | [`gateways`] | our own path with gateway processes, run like a peer |
//! | [`recovery`] | a coordinator killed, Redis wiped |
//! | [`report`] | the tables |

mod contestants;
mod gateways;
mod installed;
mod ours;
mod rates;
mod recovery;
mod report;
mod server;

use serde_json::json;

use crate::cli::{OwnQueueArgs, OwnRole, QueueArgs, QueuePart};
use crate::machine::Machine;
use crate::places::{Places, publish_in};
use crate::queue::rates::{Amount, Bench};
use crate::queue::server::Server;

const PUBLISHED: Amount = Amount {
    repetitions: 5,
    part: 1,
};
/// Whether everything works.
const QUICK: Amount = Amount {
    repetitions: 1,
    part: 20,
};

/// Measures what `args` ask for and publishes a table each.
pub(crate) fn run(places: &Places, args: &QueueArgs) -> anyhow::Result<()> {
    let first = args.persistence.first().copied().unwrap_or_default();
    let redis = Server::start(first, &places.work()?)?.version()?;
    for part in &args.parts {
        match part {
            QueuePart::Rates => rates(places, args, &redis)?,
            QueuePart::Recovery => recoveries(places, args, &redis)?,
        }
    }
    Ok(())
}

/// One process of our own path.
pub(crate) fn run_own(args: &OwnQueueArgs) -> anyhow::Result<()> {
    match args.role {
        OwnRole::Rates => ours::run(&args.setting),
        OwnRole::Gateways => gateways::coordinate(&args.setting),
        OwnRole::Gateway => gateways::attend(&args.setting),
        OwnRole::Fill => recovery::fill(&args.setting),
        OwnRole::Recover => recovery::recover(&args.setting),
    }
}

fn amount(args: &QueueArgs) -> Amount {
    if args.quick { QUICK } else { PUBLISHED }
}

fn rates(places: &Places, args: &QueueArgs, redis: &str) -> anyhow::Result<()> {
    let ready: Vec<_> = contestants::chosen(&args.queues)?
        .into_iter()
        .map(|contestant| {
            let ready = contestant.ready(places).map_err(|error| format!("{error:#}"));
            (contestant, ready)
        })
        .collect();
    let mut all = vec![];
    for persistence in args.persistence.iter().copied() {
        let bench = Bench {
            places,
            persistence,
            amount: amount(args),
        };
        all.extend(bench.rates(&ready)?);
    }
    let mut table = report::rates(&all, redis);
    table.note(Machine::this().line());
    let data = json!({ "machine": Machine::this(), "redis": redis, "rates": all });
    publish_in(&args.folder(places)?, "queue", &table.to_string(), &data)
}

fn recoveries(places: &Places, args: &QueueArgs, redis: &str) -> anyhow::Result<()> {
    let mut all = vec![];
    for persistence in args.persistence.iter().copied() {
        all.push(recovery::measure(places, persistence, amount(args))?);
    }
    let mut table = report::recoveries(&all, redis);
    table.note(Machine::this().line());
    let data = json!({ "machine": Machine::this(), "redis": redis, "recoveries": all });
    publish_in(&args.folder(places)?, "queue-recovery", &table.to_string(), &data)
}
