//! The real Kueue, which lets jobs in by quota: its manager in a pod, installed by its own chart.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::jobs::root;

/// The namespace that it is installed in.
pub const NAMESPACE: &str = "kueue-system";
/// How images of its manager are called.
const IMAGE: &str = "/kueue/kueue:";

/// The folder in which `scripts/kueue.sh` leaves it, if it is there.
fn folder() -> Option<PathBuf> {
    let folder = root().join(".tools/kueue");
    // The mark is written last.
    folder.join("mark").is_file().then_some(folder)
}

/// Its chart, if it is there.
#[must_use]
pub fn chart() -> Option<PathBuf> {
    Some(folder()?.join("chart"))
}

/// The program that `image` holds as `/manager`, if it is Kueue's.
#[must_use]
pub fn manager(image: &str) -> Option<PathBuf> {
    image.contains(IMAGE).then(folder)?.map(|folder| folder.join("manager"))
}

/// Values of its chart: it looks after Jobs alone.
#[must_use]
pub fn values() -> Value {
    let config = json!({
        "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration",
        "health": { "healthProbeBindAddress": ":8081" },
        "metrics": { "bindAddress": ":8443" },
        "webhook": { "port": 9443 },
        "leaderElection": { "leaderElect": true, "resourceName": "c1f6bfd2.kueue.x-k8s.io" },
        "integrations": { "frameworks": ["batch/job"] },
    });
    // Its image says who it runs as; here there is no image.
    let manager = json!({ "podSecurityContext": { "runAsUser": 65532 } });
    json!({
        // Its API of pending workloads wants certificates that this API server does not have.
        "controllerManager": { "manager": manager, "featureGates": [{ "name": "VisibilityOnDemand", "enabled": false }] },
        "managerConfig": { "controllerManagerConfigYaml": config.to_string() },
    })
}
