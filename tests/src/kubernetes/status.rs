//! What a node says of a pod.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// What a container does.
#[derive(Clone, Debug)]
pub enum Container {
    /// It cannot be started: reason and message.
    Waiting(String, String),
    /// It runs; whether it is ready.
    Running(bool),
    /// It ended: exit code and what it left behind.
    Ended(i32, String),
}

/// The status of a pod whose one container, called `name`, does that.
#[must_use]
pub fn of(name: &str, address: Ipv4Addr, restarts: u32, container: &Container, stays: bool) -> Value {
    let (phase, ready, state) = match container {
        Container::Waiting(reason, message) => (
            "Pending",
            false,
            json!({ "waiting": { "reason": reason, "message": message } }),
        ),
        Container::Running(ready) => ("Running", *ready, json!({ "running": { "startedAt": now() } })),
        Container::Ended(code, message) => {
            let phase = match (stays, code) {
                (true, _) => "Running",
                (false, 0) => "Succeeded",
                (false, _) => "Failed",
            };
            let reason = if *code == 0 { "Completed" } else { "Error" };
            let ended = json!({ "terminated": { "exitCode": code, "reason": reason, "message": message,
                                                "finishedAt": now() } });
            (phase, false, ended)
        }
    };
    let is = |holds: bool| if holds { "True" } else { "False" };
    let condition = |kind: &str, holds| json!({ "type": kind, "status": is(holds), "lastTransitionTime": now() });
    json!({ "status": {
        "phase": phase,
        "podIP": address.to_string(),
        "podIPs": [{ "ip": address.to_string() }],
        "hostIP": "10.213.78.1",
        "conditions": [
            condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready),
            condition("PodScheduled", true),
        ],
        "containerStatuses": [{
            "name": name, "image": "", "imageID": "", "restartCount": restarts, "ready": ready, "started": ready,
            "state": state,
        }],
    } })
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
