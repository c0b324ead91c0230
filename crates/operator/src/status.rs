//! What a job's status says, as a pure function of what is asked and what is seen.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use stillhouse_core::standing::{Standing, StandingState};

use crate::crd::Status;
use crate::desired::{Coordinator, wanted_workers};
use crate::request::{Refusal, Request};
use crate::sight::{PodSight, Sight};

/// How long a Job may take to make its first pod, in seconds.
const FIRST_POD_SECONDS: i64 = 20;
/// How long a worker's end is worth a word, in seconds.
const NEWS_SECONDS: i64 = 300;

/// Where a job stands, why, and in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    phase: &'static str,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(phase: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            phase,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Status of an object that asks for nothing that can be done. What runs already is left alone.
#[must_use]
pub fn refused(refusal: &Refusal, old: &Status, generation: Option<i64>, now: i64) -> Status {
    let verdict = Verdict::new("Invalid", "Invalid", refusal.to_string());
    let mut status = old.clone();
    status.observed_generation = generation;
    tell(&mut status, &verdict, false, now);
    status
}

/// Status of a job at `now`, in seconds since 1970.
#[must_use]
pub fn of(request: &Request, sight: &Sight, old: &Status, generation: Option<i64>, now: i64) -> Status {
    let mut status = old.clone();
    status.observed_generation = generation;
    status.budget = Some(request.job.spec.budget.queries);
    let left = last_ending(sight).and_then(|(_, text)| serde_json::from_str::<Standing>(text).ok());
    if let Some(standing) = sight.standing.as_ref().or(left.as_ref()) {
        figures(&mut status, standing);
    }
    status.queries = format!("{}/{}", status.queried.unwrap_or(0), status.budget.unwrap_or(0));
    let ready = sight.standing.as_ref().map_or(0, |standing| standing.workers);
    status.workers = format!("{ready}/{}", wanted_workers(request));
    status.finished_unix_seconds = sight.finished;
    let verdict = verdict(request, sight, left.as_ref(), now);
    tell(&mut status, &verdict, true, now);
    status
}

fn figures(status: &mut Status, standing: &Standing) {
    // A coordinator that just starts has read nothing yet.
    if standing.budget > 0 {
        status.queried = Some(standing.billed);
        status.budget = Some(standing.budget);
    }
    if standing.state != StandingState::Starting {
        status.round = Some(standing.rounds);
    }
    if let Some(agreement) = standing.agreement {
        status.agreement = format!("{:.2} %", agreement * 100.0);
    }
}

/// How the latest coordinator ended, if the newest one has.
fn last_ending(sight: &Sight) -> Option<(i32, &str)> {
    let ended = sight.of_role("coordinator").find_map(|pod| pod.ended.as_ref());
    ended.map(|(code, text)| (*code, text.as_str()))
}

fn verdict(request: &Request, sight: &Sight, left: Option<&Standing>, now: i64) -> Verdict {
    let is_suspended = request.cluster.suspend;
    match sight.observed.coordinator {
        Coordinator::Succeeded => Verdict::new("Succeeded", "Finished", "the student is in the job's volume"),
        Coordinator::Failed if !is_suspended => failed(sight, left),
        Coordinator::Active if is_suspended => {
            Verdict::new("Suspending", "Draining", "the coordinator settles what was sent")
        }
        _ if is_suspended => Verdict::new("Suspended", "Suspended", "spec.cluster.suspend is true; nothing runs"),
        Coordinator::Idle => Verdict::new("Pending", "Starting", "the coordinator is about to be started"),
        _ => under_way(request, sight, left, now),
    }
}

fn failed(sight: &Sight, left: Option<&Standing>) -> Verdict {
    let said = left.and_then(|left| left.reason.clone());
    if let Some((code, text)) = last_ending(sight) {
        return Verdict::new("Failed", cause(code), said.unwrap_or_else(|| last_lines(text)));
    }
    let (reason, message) = sight.failure.clone().unwrap_or_default();
    let reason = if reason.is_empty() { "Failed".to_owned() } else { reason };
    Verdict::new("Failed", &reason, message)
}

fn under_way(request: &Request, sight: &Sight, left: Option<&Standing>, now: i64) -> Verdict {
    let mut coordinators = sight.of_role("coordinator").filter(|pod| pod.ended.is_none());
    let Some(pod) = coordinators.next() else {
        return not_there(sight, left);
    };
    if let Some((reason, message)) = &pod.obstacle {
        return Verdict::new("Pending", reason, format!("the coordinator waits: {message}"));
    }
    if pod.is_terminating {
        let text = "the last coordinator has not ended; when its node is dead, taint that node out-of-service";
        return Verdict::new("Pending", "Terminating", text);
    }
    match &sight.standing {
        None => Verdict::new("Pending", "Starting", "the coordinator starts"),
        Some(standing) if standing.state == StandingState::Paused => {
            let reason = standing.reason.clone().unwrap_or_default();
            Verdict::new("Paused", "Teacher", format!("waiting for the teacher: {reason}"))
        }
        Some(standing) if standing.workers == 0 => without_workers(request, sight, now),
        Some(standing) => {
            let mut text = doing(standing);
            if standing.workers < wanted_workers(request)
                && let Some((_, words)) = worker_ending(sight, now)
            {
                text = format!("{text}; {words}");
            }
            Verdict::new("Running", "Running", text)
        }
    }
}

/// How the newest worker that ended lately did, where that was not in good order: a reason in one word, and a sentence.
fn worker_ending(sight: &Sight, now: i64) -> Option<(&'static str, String)> {
    let mut recent = sight.of_role("worker").filter(|pod| pod.ended_at + NEWS_SECONDS > now);
    let (code, text) = recent.find_map(|pod| pod.ended.as_ref())?;
    let reason = match *code {
        // Done, drained, and stopped by the cluster.
        0 | 130 | 143 => return None,
        2 => "Settings",
        8 => "Workers",
        code => cause(code),
    };
    let said = last_lines(text).replace('\n', " ");
    Some((
        reason,
        format!("a worker ended with exit code {code} and is made again: {said}"),
    ))
}

fn not_there(sight: &Sight, left: Option<&Standing>) -> Verdict {
    match last_ending(sight) {
        Some((code, text)) => {
            let said = left.and_then(|left| left.reason.clone());
            let said = said.unwrap_or_else(|| last_lines(text));
            Verdict::new("Pending", cause(code), format!("it is tried again: {said}"))
        }
        None => Verdict::new("Pending", "Starting", "the coordinator's pod is about to be made"),
    }
}

fn without_workers(request: &Request, sight: &Sight, now: i64) -> Verdict {
    let obstacle = sight.of_role("worker").find_map(|pod| pod.obstacle.clone());
    if let Some((reason, message)) = obstacle {
        return Verdict::new("Pending", &reason, format!("the workers wait: {message}"));
    }
    if sight.workers_held {
        let queue = request.cluster.queue_name.as_deref().unwrap_or_default();
        let text = format!("the workers wait to be admitted by the queue {queue}");
        return Verdict::new("Pending", "Queue", text);
    }
    let since = sight
        .of_role("coordinator")
        .next()
        .map_or(now, |pod: &PodSight| pod.created);
    let has_pods = sight.of_role("worker").next().is_some();
    if !has_pods && since + FIRST_POD_SECONDS < now {
        let text = format!(
            "no worker's pod was made: see the events of the Job {}-worker (a quota, an admission webhook)",
            request.name
        );
        return Verdict::new("Pending", "Quota", text);
    }
    match worker_ending(sight, now) {
        Some((reason, words)) => Verdict::new("Pending", reason, words),
        None => Verdict::new("Pending", "Workers", "the first worker has not joined yet"),
    }
}

fn doing(standing: &Standing) -> String {
    let stage = standing.stage.as_deref().unwrap_or("running");
    format!(
        "{stage}, {} of {} rounds trained",
        standing.rounds,
        standing.rounds_planned.max(standing.rounds)
    )
}

/// Exit codes of the coordinator, as the README lists them, and reasons.
const CAUSES: [(i32, &str); 11] = [
    (2, "JobFile"),
    (3, "Images"),
    (4, "Teacher"),
    (5, "Budget"),
    (6, "JobDirectory"),
    (7, "Storage"),
    (8, "Workers"),
    (9, "Device"),
    (130, "Interrupted"),
    (143, "Interrupted"),
    (137, "Killed"),
];

fn cause(code: i32) -> &'static str {
    let known = CAUSES.into_iter().find(|(known, _)| *known == code);
    known.map_or("Internal", |(_, reason)| reason)
}

/// The exit code that the reason of a failure stands for; a job that is refused counts as its file's.
#[must_use]
pub fn exit_code(reason: &str) -> i32 {
    match CAUSES.into_iter().find(|(_, known)| *known == reason) {
        Some((code, _)) => code,
        None if reason == "Invalid" => 2,
        None => 1,
    }
}

/// The end of a log.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Writes the verdict into phase, message and conditions.
fn tell(status: &mut Status, verdict: &Verdict, is_accepted: bool, now: i64) {
    verdict.phase.clone_into(&mut status.phase);
    verdict.message.clone_into(&mut status.message);
    let (reason, message) = (verdict.reason.as_str(), verdict.message.as_str());
    let accepted = if is_accepted {
        ("Accepted", "")
    } else {
        (reason, message)
    };
    set(status, "Accepted", is_accepted, accepted, now);
    set(status, "Running", verdict.phase == "Running", (reason, message), now);
    for (kind, phase) in [
        ("Suspended", "Suspended"),
        ("Complete", "Succeeded"),
        ("Failed", "Failed"),
    ] {
        let holds = verdict.phase == phase;
        let why = if holds { (reason, message) } else { (verdict.phase, "") };
        set(status, kind, holds, why, now);
    }
}

/// Sets a condition; the time of its last change moves only when its status does.
fn set(status: &mut Status, kind: &str, holds: bool, (reason, message): (&str, &str), now: i64) {
    let value = if holds { "True" } else { "False" };
    let old = status.conditions.iter().position(|condition| condition.type_ == kind);
    let since = old
        .map(|at| &status.conditions[at])
        .filter(|old| old.status == value)
        .map(|old| old.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::from_second(now).unwrap_or_default())),
        observed_generation: status.observed_generation,
    };
    match old {
        Some(at) => status.conditions[at] = condition,
        None => status.conditions.push(condition),
    }
}
