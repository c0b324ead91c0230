//! Nodes that run nothing: a pod runs for a second, and has succeeded.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// How long a pod runs.
const LIFE: Duration = Duration::from_secs(1);
/// Requests at once.
const HANDS: usize = 32;

/// Makes nodes with eight cards each.
pub(super) async fn make(client: &Client, count: u32) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let makes = stream::iter(0..count).map(|number| {
        let nodes = nodes.clone();
        async move {
            let capacity = json!({ "cpu": "64", "memory": "512Gi", "pods": "250", "nvidia.com/gpu": "8" });
            let node = json!({ "metadata": { "name": format!("node-{number}") }, "status": {
                "capacity": capacity, "allocatable": capacity, "conditions": [{ "type": "Ready", "status": "True" }] } });
            let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            nodes.create(&PostParams::default(), &node).await.map(drop)
        }
    });
    Ok(makes.buffer_unordered(HANDS).try_collect::<()>().await?)
}

/// Lets pods that have a node run and succeed.
pub(super) async fn run(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let waiting = watcher::Config::default().fields("spec.nodeName!=,status.phase=Pending");
    let events = watcher(pods, waiting).default_backoff().applied_objects();
    let lives = events
        .filter_map(async |pod| pod.ok())
        .map(|pod| live(client.clone(), pod));
    // Each lives for a second and more: many at once.
    lives.buffer_unordered(2_000).for_each(async |()| {}).await;
}

async fn live(client: Client, pod: Pod) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    let container = pod.spec.iter().flat_map(|spec| &spec.containers).next();
    let name = container.map_or("", |container| container.name.as_str());
    say(&pods, &pod, name, "Running", &json!({ "running": {} })).await;
    tokio::time::sleep(LIFE).await;
    say(
        &pods,
        &pod,
        name,
        "Succeeded",
        &json!({ "terminated": { "exitCode": 0 } }),
    )
    .await;
}

async fn say(pods: &Api<Pod>, pod: &Pod, container: &str, phase: &str, state: &Value) {
    let status = json!({ "status": { "phase": phase, "podIP": "127.0.0.1", "containerStatuses": [{
        "name": container, "image": "", "imageID": "", "restartCount": 0, "ready": phase == "Running", "state": state }] } });
    // A pod that went meanwhile needs no status.
    let _sent = pods
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await;
}
