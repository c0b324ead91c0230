//! Nodes: they take pods, run them, and say how they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::Child;
use tokio::sync::watch;

use super::logs;
use super::network::Network;
use super::pod::{Sandbox, secrets};
use super::status::{self, Container};

/// How often a node shows that it lives, and names are looked up again.
const BEAT: Duration = Duration::from_secs(1);
/// A registry without images: there is none behind any other name either, but pods run all the same.
pub const ABSENT: &str = "absent.invalid/";
/// Pause before a container that stays is started again, or one that could not be started is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Nodes of a cluster. Dropping it kills their pods.
#[derive(Clone)]
pub struct Kubelet {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    home: PathBuf,
    server: SocketAddr,
    network: Network,
    /// Where logs are served.
    port: OnceLock<u16>,
    /// Nodes that live.
    nodes: Mutex<HashSet<String>>,
    pods: Mutex<HashMap<String, Running>>,
}

/// A pod that is taken care of.
struct Running {
    pod: Pod,
    sandbox: Arc<Sandbox>,
    fate: watch::Sender<Fate>,
    is_up: bool,
}

/// What is to become of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    /// Its container is told to end, and killed after so many seconds.
    Ends(i64),
    /// It is gone at once, and nobody says so.
    Lost,
}

impl Kubelet {
    /// Takes pods from now on, for nodes that are added with [`Self::add_node`].
    #[must_use]
    pub fn start(client: Client, home: PathBuf, server: SocketAddr, network: Network) -> Self {
        let shared = Arc::new(Shared {
            client,
            home,
            server,
            network,
            port: OnceLock::new(),
            nodes: Mutex::default(),
            pods: Mutex::default(),
        });
        tokio::spawn(watch_pods(shared.clone()));
        tokio::spawn(beat(shared.clone()));
        tokio::spawn(keep_secrets(shared.clone()));
        Self { shared }
    }

    /// Adds a node with so many cards.
    ///
    /// # Errors
    /// What the server says.
    pub async fn add_node(&self, name: &str, gpus: u32) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.shared.client.clone());
        if self.shared.port.get().is_none() {
            let shared = Arc::downgrade(&self.shared);
            let port = logs::serve(move |pod| shared.upgrade()?.log_of(pod)).await?;
            let _is_first = self.shared.port.set(port);
        }
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" } } });
        let params = PatchParams::apply("test-kubelet").force();
        nodes.patch(name, &params, &Patch::Apply(&node)).await?;
        let capacity = json!({ "cpu": "16", "memory": "64Gi", "pods": "100", "nvidia.com/gpu": gpus.to_string() });
        let status = json!({ "status": {
            "capacity": capacity, "allocatable": capacity,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": self.shared.port.get() } },
            "addresses": [{ "type": "InternalIP", "address": Network::host().to_string() }],
        } });
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
        self.shared.nodes().insert(name.to_owned());
        Ok(())
    }

    /// The node loses its power: its pods are gone, and nobody says so.
    pub fn lose_node(&self, name: &str) {
        self.shared.nodes().remove(name);
        for running in self.shared.pods().values() {
            if node_of(&running.pod) == Some(name) {
                running.fate.send_replace(Fate::Lost);
            }
        }
    }

    /// Logs of every pod that there was, by the folder of its node.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.shared.home.clone()
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.shared.nodes().clear();
        for running in self.shared.pods().values() {
            running.fate.send_replace(Fate::Lost);
        }
    }
}

impl Shared {
    fn nodes(&self) -> MutexGuard<'_, HashSet<String>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_secrets(&self) -> Vec<(Pod, Arc<Sandbox>)> {
        let pods = self.pods();
        let has_some = |running: &&Running| running.is_up && secrets(&running.pod).next().is_some();
        let found = pods.values().filter(has_some);
        found
            .map(|running| (running.pod.clone(), running.sandbox.clone()))
            .collect()
    }

    /// The log of a pod of this kubelet, and whether its container may still write.
    fn log_of(&self, pod: &str) -> Option<logs::Log> {
        let is_there = self.pods().values().any(|running| running.pod.name_any() == pod);
        let mut folders = std::fs::read_dir(&self.home).ok()?.flatten();
        // A folder goes by the pod's name and unique id.
        let folder = folders.find(|folder| {
            let name = folder.file_name().to_string_lossy().into_owned();
            name.strip_prefix(pod)
                .is_some_and(|rest| rest.len() == 37 && rest.starts_with('-'))
        })?;
        Some((folder.path().join("log"), is_there))
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

async fn watch_pods(shared: Arc<Shared>) {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let stream = watcher(pods, watcher::Config::default()).default_backoff();
    pin_mut!(stream);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                take(&shared, pod);
            }
            Ok(watcher::Event::InitDone) => end_unlisted(&shared, &listed),
            Ok(watcher::Event::Apply(pod) | watcher::Event::Delete(pod)) => take(&shared, pod),
            Err(_) => {}
        }
    }
}

/// Ends pods that are not in a new list: they were deleted while nobody watched.
fn end_unlisted(shared: &Shared, listed: &HashSet<String>) {
    for (uid, running) in shared.pods().iter() {
        if !listed.contains(uid) {
            running.fate.send_if_modified(|fate| {
                let is_new = *fate == Fate::Lives;
                if is_new {
                    *fate = Fate::Ends(0);
                }
                is_new
            });
        }
    }
}

/// Takes what the server says of a pod.
fn take(shared: &Arc<Shared>, pod: Pod) {
    let is_ours = node_of(&pod).is_some_and(|node| shared.nodes().contains(node));
    let uid = pod.uid().unwrap_or_default();
    let ends = pod.metadata.deletion_timestamp.as_ref().map(|_| {
        let grace = pod.metadata.deletion_grace_period_seconds;
        Fate::Ends(grace.unwrap_or(30))
    });
    if let Some(running) = shared.pods().get(&uid) {
        if let Some(fate) = ends {
            running.fate.send_if_modified(|old| {
                let is_new = *old == Fate::Lives;
                if is_new {
                    *old = fate;
                }
                is_new
            });
        }
        return;
    }
    if !is_ours {
        return;
    }
    if is_over(&pod) || ends.is_some() {
        if ends.is_some() {
            tokio::spawn(bury(shared.clone(), pod));
        }
        return;
    }
    let home = shared.home.join(format!("{}-{uid}", pod.name_any()));
    let Ok(sandbox) = Sandbox::new(home, shared.network.plug()) else {
        return;
    };
    let (fate, told) = watch::channel(Fate::Lives);
    let sandbox = Arc::new(sandbox);
    let running = Running {
        pod: pod.clone(),
        sandbox: sandbox.clone(),
        fate,
        is_up: false,
    };
    shared.pods().insert(uid.clone(), running);
    tokio::spawn(care(shared.clone(), pod, uid, sandbox, told));
}

/// Takes a pod that has ended off the server.
async fn bury(shared: Arc<Shared>, pod: Pod) {
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    // It may be gone already.
    let _gone = shared.api(&pod).delete(&pod.name_any(), &at_once).await;
}

/// Whether a pod's image is said to be absent.
fn is_absent(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut images = containers.filter_map(|container| container.image.as_deref());
    images.any(|image| image.starts_with(ABSENT))
}

/// Runs a pod to its end.
async fn care(shared: Arc<Shared>, pod: Pod, uid: String, sandbox: Arc<Sandbox>, mut fate: watch::Receiver<Fate>) {
    let stays = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Always");
    let mut restarts = 0;
    loop {
        let now = *fate.borrow();
        if now != Fate::Lives {
            break;
        }
        if is_absent(&pod) {
            let waiting = Container::Waiting("ErrImagePull".into(), format!("no such image below {ABSENT}"));
            say(&shared, &pod, &sandbox, restarts, &waiting, stays).await;
            wait(&mut fate).await;
            continue;
        }
        let child = match sandbox.start(&shared.client, &pod, shared.server).await {
            Ok(child) => child,
            Err(error) => {
                let waiting = Container::Waiting("CreateContainerConfigError".into(), format!("{error:#}"));
                say(&shared, &pod, &sandbox, restarts, &waiting, stays).await;
                wait(&mut fate).await;
                continue;
            }
        };
        up(&shared, &uid, true);
        say(&shared, &pod, &sandbox, restarts, &Container::Running(true), stays).await;
        let code = live(child, &mut fate).await;
        up(&shared, &uid, false);
        if *fate.borrow() == Fate::Lost {
            break;
        }
        let ended = Container::Ended(code, sandbox.ending(code));
        say(&shared, &pod, &sandbox, restarts, &ended, stays).await;
        if !stays {
            break;
        }
        restarts += 1;
        wait(&mut fate).await;
    }
    let is_lost = *fate.borrow() == Fate::Lost;
    let is_ended = matches!(*fate.borrow(), Fate::Ends(_));
    shared.pods().remove(&uid);
    if is_ended && !is_lost {
        bury(shared, pod).await;
    } else if !is_lost {
        // What is deleted later is buried when the server says so.
        drop(sandbox);
    }
}

/// Waits a moment, or until something is to become of the pod.
async fn wait(fate: &mut watch::Receiver<Fate>) {
    let _changed = tokio::time::timeout(AGAIN, fate.wait_for(|fate| *fate != Fate::Lives)).await;
}

fn up(shared: &Shared, uid: &str, is_up: bool) {
    if let Some(running) = shared.pods().get_mut(uid) {
        running.is_up = is_up;
    }
}

/// Waits for a container's end, or brings it about; answers with its exit code.
async fn live(mut child: Child, fate: &mut watch::Receiver<Fate>) -> i32 {
    let told = tokio::select! {
        ended = child.wait() => return code(ended.ok()),
        told = fate.wait_for(|fate| *fate != Fate::Lives) => told.map_or(Fate::Lost, |fate| *fate),
    };
    if let Fate::Ends(grace) = told {
        signal(&child, Signal::TERM);
        let grace = Duration::from_secs(grace.unsigned_abs().max(1));
        tokio::select! {
            ended = child.wait() => return code(ended.ok()),
            _ = fate.wait_for(|fate| *fate == Fate::Lost) => {}
            () = tokio::time::sleep(grace) => {}
        }
    }
    signal(&child, Signal::KILL);
    code(child.wait().await.ok())
}

fn signal(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(id) = id {
        let _gone = kill_process(id, signal);
    }
}

fn code(status: Option<ExitStatus>) -> i32 {
    status.map_or(1, |status| {
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    })
}

async fn say(shared: &Shared, pod: &Pod, sandbox: &Sandbox, restarts: u32, container: &Container, stays: bool) {
    let name = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers[0].name.clone())
        .unwrap_or_default();
    let status = status::of(&name, sandbox.plug.address(), restarts, container, stays);
    for _ in 0..100 {
        let is_ours = node_of(pod).is_some_and(|node| shared.nodes().contains(node));
        let sent = shared
            .api(pod)
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
            .await;
        match sent {
            Err(kube::Error::Api(error)) if error.is_not_found() => return,
            Err(_) if is_ours => tokio::time::sleep(AGAIN).await,
            _ => return,
        }
    }
}

/// Keeps what pods have of Secrets up to date. A task of its own, for nodes must not look dead meanwhile.
async fn keep_secrets(shared: Arc<Shared>) {
    loop {
        for (pod, sandbox) in shared.with_secrets() {
            // A Secret that is gone stays with those who have it.
            let _kept = sandbox.refresh(&shared.client, &pod).await;
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Shows that nodes live, and keeps names of Services up to date.
async fn beat(shared: Arc<Shared>) {
    loop {
        let nodes: Vec<_> = shared.nodes().iter().cloned().collect();
        let leases: Api<Lease> = Api::namespaced(shared.client.clone(), "kube-node-lease");
        for node in nodes {
            let now = k8s_openapi::jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
                .to_string();
            let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": node },
                "spec": { "holderIdentity": node, "leaseDurationSeconds": 8, "renewTime": now } });
            let params = PatchParams::apply("test-kubelet").force();
            // A server that is away is asked again.
            let _sent = leases.patch(&node, &params, &Patch::Apply(&lease)).await;
        }
        let services: Api<Service> = Api::all(shared.client.clone());
        if let Ok(services) = services.list(&ListParams::default()).await {
            write_names(&shared, &services.items);
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Names of Services and the pods behind them, for every pod.
fn write_names(shared: &Shared, services: &[Service]) {
    let pods = shared.pods();
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for service in services {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            continue;
        };
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let behind = pods.values().find(|running| {
            let labels = running.pod.labels();
            running.is_up
                && running.pod.namespace().as_deref() == Some(&namespace)
                && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        if let Some(running) = behind {
            let line = format!(
                "{} {name} {name}.{namespace} {name}.{namespace}.svc\n",
                running.sandbox.plug.address()
            );
            lines.entry(namespace).or_default().push_str(&line);
        }
    }
    for running in pods.values() {
        let own = lines
            .get(&running.pod.namespace().unwrap_or_default())
            .map_or("", String::as_str);
        running.sandbox.write_hosts(&format!("127.0.0.1 localhost\n{own}"));
    }
}
