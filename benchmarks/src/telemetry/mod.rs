//! What metrics, traces and pages cost those who compute, and how quickly they are there.
//!
//! | module | what is measured |
//! |---|---|
//! | [`account`] | what metrics and traces take of a training step and of a second of scoring |
//! | [`whole`] | processor time of a whole job with everything on, beside one with nothing on |
//! | [`scrape`] | the metrics of a thousand workers, asked for at once |
//! | [`live`] | the live page of a job of many rounds |

mod account;
mod live;
mod scrape;
mod whole;

use serde_json::json;

use crate::cli::DataArgs;
use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::mnist::teacher::{Recipe, Teacher};
use crate::places::Places;
use crate::table::{Table, verdict};

/// Most that may be taken of a second of training or scoring, in percent.
const GOAL_PERCENT: f64 = 1.0;
/// Seconds in which a thousand workers must have told.
const GOAL_SCRAPE: f64 = 1.0;
/// Milliseconds in which the page must be there.
const GOAL_PAGE: f64 = 200.0;

/// Measures all and publishes the table.
pub(crate) fn run(places: &Places, args: &DataArgs) -> anyhow::Result<()> {
    let data = DataSet::mnist(places, args)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    let account = account::measure(places)?;
    let scrape = scrape::measure()?;
    let whole = whole::measure(places, &data, &teacher)?;
    let live = live::measure(places, &data, &teacher)?;

    let mut table = Table::new(
        "What being seen costs, and how quickly it is there",
        ["what", "median", "smallest", "largest"],
    );
    account.rows(&mut table);
    table.row(whole.row());
    table.row(scrape.row());
    table.row(live.row());
    let most = account.training.max.max(account.scoring.max);
    table.note(verdict(
        &format!("at most {GOAL_PERCENT} % of a second of training or scoring"),
        most <= GOAL_PERCENT,
    ));
    table.note(verdict(
        &format!("{} workers in {GOAL_SCRAPE} s", scrape::WORKERS),
        scrape.seconds.median <= GOAL_SCRAPE,
    ));
    table.note(verdict(
        &format!("the page within {GOAL_PAGE} ms"),
        live.milliseconds.median <= GOAL_PAGE,
    ));
    table.note(account.note());
    table.note(whole.note());
    table.note(scrape.note());
    table.note(live.note());
    table.note(Machine::this().line());
    let figures = json!({
        "machine": Machine::this(), "account": account, "whole": whole, "scrape": scrape, "live": live,
    });
    places.publish("telemetry", &table, &figures)
}
