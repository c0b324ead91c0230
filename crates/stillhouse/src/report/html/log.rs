//! The event log, and the workers as they came and went in it.

use maud::{Markup, html};
use serde_json::Value;

use super::cut;
use crate::report::number::{counted, seconds};
use crate::report::summary::Timestamp;

/// Lines of the event log that are shown, and characters of each.
const LINES: usize = 200;
const CHARS: usize = 400;
/// Workers that are drawn at most: the latest.
const LANES: usize = 32;

/// A line of the event log.
struct Entry {
    unix_ms: u64,
    event: String,
    fields: Value,
}

fn entry(line: &str) -> Option<Entry> {
    let fields: Value = serde_json::from_str(line).ok()?;
    Some(Entry {
        unix_ms: fields["unixMs"].as_u64()?,
        event: fields["event"].as_str()?.to_owned(),
        fields,
    })
}

/// The latest events, for people.
pub(super) fn events(lines: &[String]) -> Markup {
    let shown = &lines[lines.len().saturating_sub(LINES)..];
    html! {
        @if !shown.is_empty() {
            section aria-labelledby="events" {
                h2 #events { "What happened" }
                p.sub { "The last " (counted(shown.len() as u64, "line", "lines")) " of the event log, the latest first." }
                ol.log tabindex="0" role="region" aria-labelledby="events" {
                    @for line in shown.iter().rev() { li { (event(line)) } }
                }
            }
        }
    }
}

fn event(line: &str) -> Markup {
    let Some(Entry { unix_ms, event, fields }) = entry(line) else {
        return html! { span.said { (cut(line, CHARS)) } };
    };
    let moment = Timestamp::from_unix_ms(unix_ms);
    let time = moment.rfc3339.get(11..19).unwrap_or_default().to_owned();
    let fields = fields.as_object().into_iter().flatten();
    let said = fields.filter(|(name, value)| !matches!(name.as_str(), "unixMs" | "event") && !value.is_null());
    let said: Vec<String> = said.map(|(name, value)| format!("{name} {}", plain(value))).collect();
    html! {
        time datetime=(moment.rfc3339) { (time) } " "
        strong { (event.replace('-', " ")) } " "
        span.said { (cut(&said.join(", "), CHARS)) }
    }
}

/// A value without the marks of JSON; a digest at a length that people compare.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            crate::report::number::short(text)
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One worker's time with the job.
#[derive(Debug, PartialEq, Eq)]
struct Lane {
    worker: u64,
    device: String,
    from: u64,
    /// When and why it left; none while it is there.
    left: Option<(u64, String)>,
}

/// The workers of an event log, in order of arrival. A coordinator that was started again has none of those before.
fn lanes(lines: &[String]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut before = 0;
    for Entry { unix_ms, event, fields } in lines.iter().filter_map(|line| entry(line)) {
        let worker = fields["worker"].as_u64();
        let there = lanes.iter_mut().filter(|lane| lane.left.is_none());
        match (event.as_str(), worker) {
            ("worker-joined", Some(worker)) => lanes.push(Lane {
                worker,
                device: fields["device"].as_str().unwrap_or_default().to_owned(),
                from: unix_ms,
                left: None,
            }),
            ("worker-lost", Some(worker)) => {
                let cause = fields["cause"].as_str().unwrap_or_default();
                there
                    .filter(|lane| lane.worker == worker)
                    .for_each(|lane| lane.left = Some((unix_ms, cause.to_owned())));
            }
            ("started", _) => there.for_each(|lane| lane.left = Some((before, "the coordinator ended".to_owned()))),
            ("finished" | "stopped", _) => {
                there.for_each(|lane| lane.left = Some((unix_ms, "the job ended".to_owned())))
            }
            _ => {}
        }
        before = unix_ms;
    }
    lanes
}

/// The workers as bars over time; `does` says what one that is there does.
pub(super) fn workers(lines: &[String], now_ms: u64, does: impl Fn(u64) -> Option<String>) -> Markup {
    let lanes = lanes(lines);
    let shown = &lanes[lanes.len().saturating_sub(LANES)..];
    let from = shown.iter().map(|lane| lane.from).min().unwrap_or(0);
    let end = |lane: &Lane| lane.left.as_ref().map_or(now_ms, |(at, _)| *at).max(lane.from);
    let until = shown.iter().map(end).max().unwrap_or(0).max(from + 1);
    let part = |ms: u64| format!("{:.3}", ms as f64 / (until - from) as f64 * 100.0);
    let there = lanes.iter().filter(|lane| lane.left.is_none()).count();
    html! {
        @if !shown.is_empty() {
            section aria-labelledby="workers" {
                h2 #workers { "Workers" }
                p.sub { (counted(there as u64, "is there", "are there")) ", " (counted(lanes.len() as u64, "came", "came")) " so far." }
                ol.timeline.crew {
                    @for lane in shown {
                        @let is_there = lane.left.is_none();
                        li {
                            span.what title=(lane.device) { "Worker " (lane.worker) span.note { " " (cut(&lane.device, 24)) } }
                            div.track {
                                i.part.there[is_there].gone[!is_there] title=(told(lane, end(lane)))
                                    style={ "margin-left:" (part(lane.from - from)) "%;width:" (part(end(lane) - lane.from)) "%" } {}
                            }
                            span.took { @if is_there { (does(lane.worker).unwrap_or_else(|| "there".to_owned())) } @else { "gone" } }
                        }
                    }
                }
            }
        }
    }
}

fn told(lane: &Lane, end: u64) -> String {
    let lasted = seconds((end - lane.from) as f64 / 1e3);
    match &lane.left {
        Some((_, cause)) => format!("{lasted}, then: {cause}"),
        None => lasted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(events: &[Value]) -> Vec<String> {
        events.iter().map(Value::to_string).collect()
    }

    fn worker(unix_ms: u64, event: &str, worker: u64) -> Value {
        json!({ "unixMs": unix_ms, "event": event, "worker": worker, "device": "cpu", "cause": "reset" })
    }

    #[test]
    fn workers_come_and_go_and_none_outlives_its_coordinator() {
        let log = lines(&[
            json!({ "unixMs": 1, "event": "started" }),
            worker(2, "worker-joined", 1),
            worker(3, "worker-joined", 2),
            worker(9, "worker-lost", 1),
            json!({ "unixMs": 50, "event": "started" }),
            worker(51, "worker-joined", 1),
            json!("no event"),
        ]);
        let found = lanes(&log);
        let ends: Vec<Option<u64>> = found.iter().map(|lane| lane.left.as_ref().map(|(at, _)| *at)).collect();
        assert_eq!(ends, [Some(9), Some(9), None]);
        let page = workers(&log, 100, |worker| (worker == 1).then(|| "scoring".to_owned())).into_string();
        assert!(page.contains("1 is there, 3 came so far."), "{page}");
        assert!(page.contains("scoring") && page.contains("then: reset"), "{page}");
        assert!(page.contains("margin-left:50.000%;width:50.000%"), "{page}");
    }

    #[test]
    fn events_are_written_for_people_and_what_is_no_event_as_it_is() {
        let digest = "ab".repeat(32);
        let mut log = lines(&[
            json!({ "unixMs": 3_723_000, "event": "worker-joined", "worker": 7, "digest": digest, "cut": null }),
        ]);
        log.push("<script>".to_owned());
        let page = events(&log).into_string();
        assert!(page.contains("01:02:03") && page.contains("worker joined"), "{page}");
        assert!(
            page.contains("worker 7") && !page.contains(&digest) && !page.contains("cut"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert_eq!(events(&[]).into_string(), "");
    }
}
