//! What each blow cost, by the job's own event log. Pure.

use std::time::Duration;

use serde::Serialize;

use super::log::Event;
use super::schedule::{Blow, Kind, Target};

/// A blow that has fallen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallen {
    /// After the beginning.
    pub at: Duration,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What.
    pub blow: Blow,
    /// `worker N`, `coordinator`, or the name of a gateway.
    pub name: String,
    /// Process id of whoever was struck; none for a link.
    pub process: Option<u32>,
}

/// How soon the job noticed a blow, and went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// From the blow until the coordinator missed the worker or gateway, or until the next coordinator began. None when nobody
    /// noticed: a stop or slowness that was over before.
    pub noticed_after_ms: Option<u64>,
    /// From the blow until the next step that is committed: a batch selected or asked, a student trained.
    pub next_step_after_ms: Option<u64>,
}

/// What each of the `fallen` cost, by the job's `events`; both in order of time.
#[must_use]
pub fn costs(fallen: &[Fallen], events: &[Event]) -> Vec<Cost> {
    let cost_at = |(at, blow): (usize, &Fallen)| {
        // Of two blows on one worker, the later is to blame for its loss.
        let next = fallen[at + 1..].iter().find(|later| later.name == blow.name);
        let end = next.map_or(u64::MAX, |next| next.unix_ms);
        cost(blow, end, events)
    };
    fallen.iter().enumerate().map(cost_at).collect()
}

/// What `fallen` cost; what is noticed from `end` on is not its doing.
fn cost(fallen: &Fallen, end: u64, events: &[Event]) -> Cost {
    let later = || events.iter().filter(|event| event.unix_ms >= fallen.unix_ms);
    let noticed = match fallen.blow.target() {
        Target::Coordinator => later()
            .filter(|_| fallen.blow.kind() == Kind::Kill)
            .find(|event| event.event == "started"),
        // The next coordinator gives other numbers.
        Target::Worker | Target::Link => later()
            .take_while(|event| event.event != "started")
            .take_while(|event| event.unix_ms < end && may_come_of(fallen, event))
            .find(|event| misses(event, &fallen.name)),
    };
    let since = |event: &Event| event.unix_ms - fallen.unix_ms;
    Cost {
        noticed_after_ms: noticed.map(since),
        next_step_after_ms: later().find(|event| event.is_step()).map(since),
    }
}

/// Whether `event` may come of the blow: what lasts for a while is not to blame for what comes later.
fn may_come_of(fallen: &Fallen, event: &Event) -> bool {
    let lasts = fallen.blow.time().and_then(|time| u64::try_from(time.as_millis()).ok());
    lasts.is_none_or(|lasts| event.unix_ms - fallen.unix_ms <= lasts)
}

fn misses(event: &Event, name: &str) -> bool {
    match event.event.as_str() {
        "worker-lost" => event.worker.is_some_and(|worker| format!("worker {worker}") == name),
        "gateway-left" => event.gateway.as_deref() == Some(name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Victim;
    use super::*;

    fn event(unix_ms: u64, event: &str, worker: Option<u64>) -> Event {
        Event {
            unix_ms,
            event: event.into(),
            worker,
            ..Event::default()
        }
    }

    fn fallen(unix_ms: u64, blow: Blow, name: &str) -> Fallen {
        Fallen {
            at: Duration::ZERO,
            unix_ms,
            blow,
            name: name.into(),
            process: None,
        }
    }

    fn found(fallen: &Fallen) -> (Option<u64>, Option<u64>) {
        let events = [
            event(100, "started", None),
            event(150, "worker-lost", Some(1)),
            event(200, "worker-lost", Some(0)),
            event(300, "asked", None),
            event(900, "started", None),
            event(950, "worker-lost", Some(3)),
            event(1_000, "trained", None),
        ];
        let cost = costs(std::slice::from_ref(fallen), &events)[0];
        (cost.noticed_after_ms, cost.next_step_after_ms)
    }

    #[test]
    fn a_blow_is_noticed_by_the_loss_of_whom_it_hit_and_costs_until_the_next_step() {
        let kill = Blow::Kill(Victim::Worker);
        assert_eq!(found(&fallen(120, kill, "worker 0")), (Some(80), Some(180)));
        assert_eq!(found(&fallen(120, Blow::Cut, "worker 1")), (Some(30), Some(180)));
        assert_eq!(
            found(&fallen(120, kill, "worker 3")),
            (None, Some(180)),
            "another coordinator's worker 3"
        );
        assert_eq!(found(&fallen(1_001, kill, "worker 3")), (None, None));
    }

    #[test]
    fn a_killed_coordinator_is_back_with_the_next_start_and_a_stopped_one_is_not_missed() {
        assert_eq!(
            found(&fallen(310, Blow::Kill(Victim::Coordinator), "coordinator")),
            (Some(590), Some(690))
        );
        let stop = Blow::Stop(Victim::Coordinator, Duration::from_secs(1));
        assert_eq!(found(&fallen(310, stop, "coordinator")), (None, Some(690)));
    }

    #[test]
    fn of_two_blows_on_one_worker_the_later_is_to_blame() {
        let kill = Blow::Kill(Victim::Worker);
        let stop = Blow::Stop(Victim::Worker, Duration::from_secs(5));
        let blows = [fallen(100, stop, "worker 0"), fallen(150, kill, "worker 0")];
        let events = [event(150, "worker-lost", Some(0))];
        let noticed = costs(&blows, &events);
        assert_eq!(noticed[0].noticed_after_ms, None);
        assert_eq!(noticed[1].noticed_after_ms, Some(0));
    }

    #[test]
    fn a_stop_is_to_blame_for_a_loss_while_it_lasts_alone() {
        let stop = |ms| Blow::Stop(Victim::Worker, Duration::from_millis(ms));
        assert_eq!(found(&fallen(120, stop(100), "worker 0")).0, Some(80));
        assert_eq!(found(&fallen(120, stop(50), "worker 0")).0, None);
    }
}
