//! The tables of the queue's figures.

use crate::cli::Persistence;
use crate::queue::rates::{Measured, Rates};
use crate::queue::recovery::{Recoveries, Recovery};
use crate::statistics::Spread;
use crate::table::{Table, grouped, verdict};

/// Times BullMQ, on both figures.
const TIMES_BULLMQ: f64 = 10.0;
/// Seconds to the first dispatch, and to a queue that is rebuilt.
const FIRST_DISPATCH_SECONDS: f64 = 2.0;
const REBUILT_SECONDS: f64 = 10.0;

/// The table of rates: ours first, then its peers, under each persistence.
pub(crate) fn rates(all: &[Rates], redis: &str) -> Table {
    let header = [
        "queue",
        "Redis persistence",
        "enqueued/s",
        "done/s",
        "ours, enqueued",
        "ours, done",
    ];
    let mut table = Table::new(
        "Jobs a second: bulk enqueue, and first enqueued to last acknowledged",
        header,
    );
    for rates in all {
        table.row(row(rates, ours(all, rates.persistence)));
    }
    for persistence in persistences(all) {
        verdicts(all, persistence).into_iter().for_each(|line| table.note(line));
    }
    table.note(explanation(redis));
    for rates in all {
        notes(rates).into_iter().for_each(|line| table.note(line));
    }
    table
}

fn persistences(all: &[Rates]) -> Vec<Persistence> {
    let mut found: Vec<Persistence> = all.iter().map(|rates| rates.persistence).collect();
    found.dedup();
    found
}

/// Ours that the peers are compared with: the first.
fn ours(all: &[Rates], persistence: Persistence) -> Option<&Rates> {
    all.iter()
        .find(|rates| rates.is_ours && rates.persistence == persistence)
}

fn row(rates: &Rates, ours: Option<&Rates>) -> [String; 6] {
    let times = |figure: fn(&Rates) -> &Measured| {
        let ratio = ours.and_then(|ours| ratio(figure(ours), figure(rates)));
        ratio.map_or("-".to_owned(), |ratio| ratio.as_ratio())
    };
    [
        rates.name.to_owned(),
        rates.persistence.to_string(),
        median(&rates.enqueue).map_or("not run".to_owned(), grouped),
        median(&rates.done).map_or("not run".to_owned(), grouped),
        times(|rates| &rates.enqueue),
        times(|rates| &rates.done),
    ]
}

fn median(measured: &Measured) -> Option<f64> {
    Spread::of(measured.rates.iter().copied().flatten()).map(|spread| spread.median)
}

/// Of runs side by side that both succeeded.
fn ratio(ours: &Measured, theirs: &Measured) -> Option<Spread> {
    let both = ours.rates.iter().zip(&theirs.rates);
    Spread::of(both.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)))
}

/// Whether ours reached the goals under one persistence; a peer that did not run is no goal reached.
fn verdicts(all: &[Rates], persistence: Persistence) -> Vec<String> {
    let (ours, peers): (Vec<&Rates>, Vec<&Rates>) = all
        .iter()
        .filter(|rates| rates.persistence == persistence)
        .partition(|rates| rates.is_ours);
    let pairs = ours
        .iter()
        .flat_map(|ours| peers.iter().map(move |peer| (*ours, *peer)));
    pairs.flat_map(|(ours, peer)| verdicts_of(ours, peer)).collect()
}

fn verdicts_of(ours: &Rates, peer: &Rates) -> Vec<String> {
    let (times, goal) = match peer.name.split(' ').next() {
        Some("BullMQ") => (TIMES_BULLMQ, format!("{TIMES_BULLMQ} x {}", peer.name)),
        Some("apalis-redis") => (1.0, format!("ahead of {}", peer.name)),
        _ => return vec![],
    };
    let figures = [
        ("enqueued", ratio(&ours.enqueue, &peer.enqueue)),
        ("done", ratio(&ours.done, &peer.done)),
    ];
    let line = |(figure, ratio): (&str, Option<Spread>)| {
        let text = format!("{}, {figure}, {goal}, persistence {}", ours.name, ours.persistence);
        verdict(&text, ratio.is_some_and(|ratio| ratio.median > times))
    };
    figures.into_iter().map(line).collect()
}

fn explanation(redis: &str) -> String {
    format!(
        "Redis {redis}, one server a run on the same machine, empty at first. Every queue runs the best of several settings, \
         chosen anew by a trial; medians of interleaved runs. The clock starts with the first enqueue, after a tenth as many \
         jobs went the same way, and ends when the last job is acknowledged; *enqueued* is measured with nobody consuming. \
         Each job carries about 64 bytes and does nothing; every job was delivered, and once, or the run does not count. \
         Ours does more: before a reference reaches Redis the query is de-duplicated and its permit is on disk; before the \
         teacher is asked the announcement is on disk; before the acknowledgement a label of ten classes is. *With \
         gateways*: as jobs run it, with gateway processes that render and check every image of 28x28 and ask the desk of \
         the coordinator's process over their authenticated link; only the teacher is left out. *In one process*: \
         dispatcher and consumers beside each other, the ledger and the queue alone. The peers keep nothing outside Redis, so with persistence none they \
         lose everything when it ends, and with everysec the last second. Celery acknowledges before it runs a job."
    )
}

fn notes(rates: &Rates) -> Vec<String> {
    let (name, persistence) = (rates.name, rates.persistence);
    let mut lines: Vec<String> = vec![];
    if rates.done.rates.is_empty() {
        lines.push(format!("{name}, {persistence}: **not run**."));
    } else {
        let setting = |measured: &Measured| format!("`{}`", measured.setting);
        let (enqueue, done) = (setting(&rates.enqueue), setting(&rates.done));
        let jobs = grouped(rates.done.jobs.into());
        lines.push(match enqueue == done {
            true => format!("{name}, {persistence}: {jobs} jobs, {done}; {}.", rates.promise),
            false => format!(
                "{name}, {persistence}: {jobs} jobs, {enqueue} to enqueue, {done} to done; {}.",
                rates.promise
            ),
        });
    }
    lines.extend(
        rates
            .failures
            .iter()
            .map(|failure| format!("{name}, {persistence}: {}", shortened(failure))),
    );
    lines
}

/// First and last line of an error; the whole of it is in the JSON.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines[..] {
        [] => String::new(),
        [only] => only.to_owned(),
        [first, .., last] => format!("{first} … {last}"),
    }
}

/// The table of recoveries.
pub(crate) fn recoveries(all: &[Recoveries], redis: &str) -> Table {
    let header = [
        "Redis persistence",
        "outstanding",
        "first dispatch s",
        "ledger s",
        "all dispatched s",
        "Redis rebuilt s",
    ];
    let mut table = Table::new("A coordinator killed, and Redis wiped", header);
    for recoveries in all {
        let cell = |figure: fn(&Recovery) -> f64| {
            let spread = Spread::of(recoveries.runs.iter().map(figure));
            spread.map_or("-".to_owned(), |spread| spread.as_ratio())
        };
        table.row([
            recoveries.persistence.to_string(),
            grouped(recoveries.outstanding.into()),
            cell(|run| run.first_dispatch),
            cell(|run| run.ledger),
            cell(|run| run.all_dispatched),
            cell(|run| run.rebuilt),
        ]);
    }
    for recoveries in all {
        recovery_verdicts(recoveries)
            .into_iter()
            .for_each(|line| table.note(line));
    }
    table.note(format!(
        "Redis {redis}; medians, with the smallest and the largest. A process admits all queries and is killed. *First \
         dispatch*: from the start of its successor until the ledger (*ledger*: that alone) and a new life of the queue are \
         open, the first queries admitted and pushed, and leased by a consumer; *all dispatched*: until every query is \
         outstanding again. The journal of a real job is not in it. *Redis rebuilt*: from FLUSHALL until the dispatcher \
         has noticed and every outstanding reference, read from the ledger, is in Redis again."
    ));
    table
}

fn recovery_verdicts(recoveries: &Recoveries) -> [String; 2] {
    let within = |figure: fn(&Recovery) -> f64, seconds: f64| {
        Spread::of(recoveries.runs.iter().map(figure)).is_some_and(|spread| spread.median < seconds)
    };
    let (persistence, outstanding) = (recoveries.persistence, grouped(recoveries.outstanding.into()));
    [
        verdict(
            &format!(
                "first dispatch within {FIRST_DISPATCH_SECONDS} s with {outstanding} outstanding, persistence {persistence}"
            ),
            within(|run| run.first_dispatch, FIRST_DISPATCH_SECONDS),
        ),
        verdict(
            &format!(
                "Redis rebuilt within {REBUILT_SECONDS} s with {outstanding} outstanding, persistence {persistence}"
            ),
            within(|run| run.rebuilt, REBUILT_SECONDS),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn measured(rates: &[Option<f64>]) -> Measured {
        Measured {
            setting: json!({ "chunk": 1 }),
            jobs: 1_000,
            rates: rates.to_vec(),
        }
    }

    fn contestant(name: &'static str, enqueued: &[Option<f64>], done: &[Option<f64>]) -> Rates {
        Rates {
            name,
            is_ours: name.starts_with("Stillhouse"),
            promise: "as durable as Redis",
            persistence: Persistence::Everysec,
            enqueue: measured(enqueued),
            done: measured(done),
            failures: vec![],
        }
    }

    #[test]
    fn ratios_are_of_runs_side_by_side_and_goals_are_judged_by_them() {
        let mut bullmq = contestant(
            "BullMQ 1",
            &[Some(20.0), None, Some(20.0)],
            &[Some(10.0), Some(5.0), Some(10.0)],
        );
        bullmq.failures = vec!["{} failed: it broke\n at length\n for a reason\n".to_owned()];
        let all = [
            contestant(
                "Stillhouse",
                &[Some(300.0), Some(150.0), Some(340.0)],
                &[Some(90.0), Some(40.0), Some(80.0)],
            ),
            bullmq,
            contestant(
                "apalis-redis 1",
                &[Some(100.0); 3],
                &[Some(80.0), Some(40.0), Some(80.0)],
            ),
        ];
        let text = rates(&all, "7.0.15").to_string();
        assert!(
            text.contains("| BullMQ 1       |          everysec |         20 |     10 | 16.00 (15.00 to 17.00) |"),
            "{text}"
        );
        assert!(
            text.contains("Goal: Stillhouse, enqueued, 10 x BullMQ 1, persistence everysec: reached."),
            "{text}"
        );
        assert!(
            text.contains("Goal: Stillhouse, done, 10 x BullMQ 1, persistence everysec: **missed**."),
            "{text}"
        );
        assert!(
            text.contains("Goal: Stillhouse, done, ahead of apalis-redis 1, persistence everysec: **missed**."),
            "{text}"
        );
        assert!(
            text.contains("BullMQ 1, everysec: {} failed: it broke … for a reason\n") && !text.contains("at length"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_that_could_not_be_installed_is_there_with_the_reason() {
        let mut bullmq = contestant("BullMQ 1", &[], &[]);
        bullmq.failures = vec!["npm is not installed".to_owned()];
        let all = [contestant("Stillhouse", &[Some(1.0)], &[Some(1.0)]), bullmq];
        let text = rates(&all, "7").to_string();
        assert!(text.contains("not run |"), "{text}");
        assert!(
            text.contains("BullMQ 1, everysec: **not run**.") && text.contains("npm is not installed"),
            "{text}"
        );
        assert!(
            text.contains("Goal: Stillhouse, done, 10 x BullMQ 1, persistence everysec: **missed**."),
            "{text}"
        );
    }

    #[test]
    fn a_recovery_that_takes_too_long_is_a_miss() {
        let run = Recovery {
            first_dispatch: 1.5,
            ledger: 1.0,
            all_dispatched: 5.0,
            rebuilt: 11.0,
        };
        let all = [Recoveries {
            persistence: Persistence::None,
            outstanding: 1_000_000,
            runs: vec![run; 3],
        }];
        let text = recoveries(&all, "7").to_string();
        assert!(
            text.contains("first dispatch within 2 s with 1,000,000 outstanding, persistence none: reached."),
            "{text}"
        );
        assert!(
            text.contains("rebuilt within 10 s with 1,000,000 outstanding, persistence none: **missed**."),
            "{text}"
        );
    }
}
