//! A cluster with an operator, a teacher, and volumes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stillhouse_core::job::JobSpec;
use stillhouse_operator::crd::{DistillJob, Status};
use stillhouse_tests::jobs::{CLASSES, SHAPE, root};
use stillhouse_tests::kubernetes::kubelet::Kubelet;
use stillhouse_tests::kubernetes::network::Network;
use stillhouse_tests::kubernetes::plane::{ControlPlane, Programs};
use stillhouse_tests::ports::free_address;
use stillhouse_tests::proxy::Proxy;
use stillhouse_tests::teacher::TestTeacher;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The namespace of the jobs.
pub(crate) const LAB: &str = "default";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// One cluster at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster; all of it ends when this is dropped.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    // It goes before the bridge on which it listens.
    _proxy: Proxy,
    pub(crate) kubelet: Kubelet,
    pub(crate) plane: ControlPlane,
    pub(crate) teacher: TestTeacher,
    /// The teacher, as pods reach it.
    pub(crate) url: String,
    folder: TempDir,
}

impl World {
    /// With three nodes of one card each; `None`, with the reason said, where there can be none.
    pub(crate) fn new() -> Option<Self> {
        let Some(programs) = Programs::find() else {
            return skipped("there is no control plane: scripts/control-plane.sh builds one, and etcd is needed");
        };
        let Some(network) = Network::new() else {
            return skipped("no bridge can be made (it needs root and iproute2)");
        };
        // One of two providers in this process has to be named.
        let _is_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let plane = ControlPlane::start(&programs, &folder.path().join("plane")).unwrap();
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(plane.client()).unwrap();
        let kubelet = {
            let _in = runtime.enter();
            Kubelet::start(client.clone(), folder.path().join("pods"), plane.server(), network)
        };
        for node in ["node-a", "node-b", "node-c"] {
            runtime.block_on(kubelet.add_node(node, 1)).unwrap();
        }
        let teacher = TestTeacher::start(SHAPE, CLASSES, Some(&folder.path().join("bill"))).unwrap();
        let near: SocketAddr = teacher.url().trim_start_matches("http://").parse().unwrap();
        let far = SocketAddr::from((Network::host(), free_address().port()));
        let proxy = Proxy::start(far, near).unwrap();
        let world = Self {
            runtime,
            client,
            kubelet,
            plane,
            teacher,
            _proxy: proxy,
            url: format!("http://{far}"),
            folder,
        };
        world.helm(&["install", "crds", "charts/stillhouse-crds"]);
        world.helm(&["install", "stillhouse", "charts/stillhouse", "--wait", "60"]);
        Some(world)
    }

    /// Real Helm, in the namespace of the jobs.
    pub(crate) fn helm(&self, args: &[&str]) {
        self.helm_in(LAB, args);
    }

    /// Real Helm, in another namespace.
    pub(crate) fn helm_in(&self, namespace: &str, args: &[&str]) {
        let python = Command::new("scripts/charts.sh")
            .arg("python")
            .current_dir(root())
            .output()
            .unwrap();
        let python = String::from_utf8(python.stdout).unwrap();
        let mut helm = Command::new(python.trim());
        helm.current_dir(root()).arg("tests/python/helm.py").args(args).args([
            "--namespace",
            namespace,
            "--kubeconfig",
        ]);
        let done = helm.arg(self.plane.kubeconfig("admin")).output().unwrap();
        if !done.status.success() {
            self.report();
            panic!("helm {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }

    /// Where the operator's replicas serve their metrics.
    pub(crate) fn operators(&self) -> Vec<SocketAddr> {
        let ours = ListParams::default().labels("app.kubernetes.io/name=stillhouse-operator");
        let pods = self.wait(self.pods().list(&ours)).unwrap().items;
        let address = |pod: Pod| pod.status?.pod_ip?.parse().ok();
        pods.into_iter()
            .filter_map(address)
            .map(|ip| SocketAddr::new(ip, 9464))
            .collect()
    }

    /// The operator's replica that acts, if one does.
    pub(crate) fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LAB);
        let lease = self.wait(leases.get("stillhouse-operator")).ok()?;
        lease.spec?.holder_identity
    }

    /// Waits for a future.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Waits until `look` finds something.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if begun.elapsed() > PATIENCE {
                self.report();
                panic!("waited {PATIENCE:?} for {what}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Prints what helps to see why something did not happen.
    fn report(&self) {
        for job in self
            .wait(self.jobs().list(&ListParams::default()))
            .into_iter()
            .flatten()
        {
            eprintln!(
                "{}: {}",
                job.name_any(),
                serde_json::to_string_pretty(&job.status).unwrap()
            );
        }
        for pod in self
            .wait(self.pods().list(&ListParams::default()))
            .into_iter()
            .flatten()
        {
            eprintln!("{}: {}", pod.name_any(), serde_json::to_string(&pod.status).unwrap());
        }
        let tail = |file: PathBuf| {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(15).collect();
            eprintln!("--- {}", file.display());
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        };
        for pod in std::fs::read_dir(self.kubelet.home()).into_iter().flatten().flatten() {
            tail(pod.path().join("log"));
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn jobs(&self) -> Api<DistillJob> {
        Api::namespaced(self.client.clone(), LAB)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), LAB)
    }

    /// A volume of this machine that only the claim `claim` gets.
    pub(crate) fn volume(&self, claim: &str, folder: &Path, mode: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = json!({
            "metadata": { "name": format!("{LAB}-{claim}") },
            "spec": {
                "capacity": { "storage": "100Gi" }, "accessModes": [mode], "hostPath": { "path": folder },
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": { "namespace": LAB, "name": claim },
            },
        });
        let volume = serde_json::from_value(volume).unwrap();
        self.wait(volumes.create(&PostParams::default(), &volume)).unwrap();
    }

    /// A claim named `images` with the digits.
    pub(crate) fn images(&self) {
        let folder = self.path("images");
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(root().join("examples/data/digits")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        self.volume("images", &folder, "ReadOnlyMany");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), LAB);
        let claim = json!({ "metadata": { "name": "images" }, "spec": { "accessModes": ["ReadOnlyMany"],
            "resources": { "requests": { "storage": "1Gi" } } } });
        self.wait(claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()))
            .unwrap();
    }

    /// The object of `job` under another name, with its images in the claim, and a volume for it.
    pub(crate) fn object(&self, name: &str, job: &JobSpec, cluster: Value) -> Value {
        let mut object = without_nulls(serde_json::to_value(job).unwrap());
        object["metadata"]["name"] = json!(name);
        let spec = &mut object["spec"];
        spec["images"]["path"] = json!("train-images-idx3-ubyte.gz");
        if spec["evaluation"].is_object() {
            spec["evaluation"]["images"] = json!("test-images-idx3-ubyte.gz");
            spec["evaluation"]["labels"] = json!("test-labels-idx1-ubyte.gz");
        }
        spec["cluster"] = cluster;
        spec["cluster"]["data"] = json!({ "claim": "images" });
        object
    }

    /// Where the files of a job are.
    pub(crate) fn storage(&self, name: &str) -> PathBuf {
        self.path("volumes").join(name)
    }

    /// Where a watch of jobs begun now would be.
    pub(crate) fn revision(&self) -> String {
        let listed = self.wait(self.jobs().list(&ListParams::default())).unwrap();
        listed.metadata.resource_version.unwrap()
    }

    /// Whether the server knows nothing any more of what came after `revision` (410, Gone).
    pub(crate) fn is_gone(&self, revision: &str) -> bool {
        let is_410 = |status: &kube::core::Status| status.code == 410;
        let params = WatchParams::default().timeout(5);
        self.wait(async {
            match self.jobs().watch(&params, revision).await {
                Ok(events) => match events.boxed().next().await {
                    Some(Ok(WatchEvent::Error(status))) => is_410(&status),
                    Some(Err(kube::Error::Api(status))) => is_410(&status),
                    _ => false,
                },
                Err(kube::Error::Api(status)) => is_410(&status),
                Err(_) => false,
            }
        })
    }

    /// Applies an object, with a volume for its job.
    pub(crate) fn submit(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.volume(&format!("{name}-job"), &self.storage(name), "ReadWriteOncePod");
        self.apply(object).unwrap();
    }

    pub(crate) fn apply(&self, object: &Value) -> Result<DistillJob, kube::Error> {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.wait(
            self.jobs()
                .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)),
        )
    }

    pub(crate) fn patch(&self, name: &str, spec: &Value) -> Result<DistillJob, kube::Error> {
        self.wait(
            self.jobs()
                .patch(name, &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))),
        )
    }

    pub(crate) fn status(&self, name: &str) -> Status {
        let job = self.wait(self.jobs().get(name)).ok();
        job.and_then(|job| job.status).unwrap_or_default()
    }

    /// Waits for a phase; answers with every other phase on the way.
    pub(crate) fn phase(&self, name: &str, phase: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        self.until(&format!("{name} to be {phase}"), || {
            let now = self.status(name).phase;
            if seen.last() != Some(&now) {
                seen.push(now.clone());
            }
            (now == phase).then_some(())
        });
        seen
    }

    /// Pods of a role that are there and not about to go.
    pub(crate) fn pods_of(&self, job: &str, role: &str) -> Vec<Pod> {
        let labels = format!("stillhouse.dev/job={job},app.kubernetes.io/component={role}");
        let found = self.wait(self.pods().list(&ListParams::default().labels(&labels)));
        let pods = found.map(|list| list.items).unwrap_or_default();
        pods.into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect()
    }

    /// Every pod of a job that is there.
    pub(crate) fn all_pods(&self, job: &str) -> Vec<Pod> {
        let found = self.wait(
            self.pods()
                .list(&ListParams::default().labels(&format!("stillhouse.dev/job={job}"))),
        );
        found.map(|list| list.items).unwrap_or_default()
    }

    /// Deletes a job as a user does.
    pub(crate) fn delete(&self, name: &str) {
        let _deleted = self.wait(self.jobs().delete(name, &DeleteParams::default())).unwrap();
    }

    pub(crate) fn has_claim(&self, name: &str) -> bool {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), LAB);
        self.wait(claims.get_opt(name)).unwrap().is_some()
    }

    /// An address of this machine, as pods reach it.
    pub(crate) fn reachable(&self, near: SocketAddr) -> (Proxy, SocketAddr) {
        let far = SocketAddr::from((Network::host(), free_address().port()));
        (Proxy::start(far, near).unwrap(), far)
    }

    /// The operator looks again at a job that does not change, and writes nothing.
    pub(crate) fn at_rest(&self, name: &str) {
        let writes = || {
            let log = std::fs::read_to_string(self.plane.audit_log()).unwrap();
            let is_write = |line: &&str| {
                line.contains(":stillhouse-operator\"")
                    && !line.contains("\"resource\":\"leases\"")
                    && ["create", "patch", "update", "delete"]
                        .iter()
                        .any(|verb| line.contains(&format!("\"verb\":\"{verb}\"")))
            };
            log.lines().filter(is_write).count()
        };
        // What is still on its way.
        std::thread::sleep(Duration::from_secs(3));
        let before = writes();
        assert!(before > 5, "the log knows the operator");
        let touch = json!({ "metadata": { "annotations": { "touched": "by a test" } } });
        self.wait(self.jobs().patch(name, &PatchParams::default(), &Patch::Merge(&touch)))
            .unwrap();
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(writes(), before, "a job that does not change costs no write");
    }

    pub(crate) fn delete_pod(&self, name: &str, grace: u32) {
        let params = DeleteParams::default().grace_period(grace);
        self.wait(self.pods().delete(name, &params)).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kubelet.stop();
        // Pods end, and their namespaces go, before the bridge does.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A job as somebody writes it: what is not said is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let said = map.into_iter().filter(|(_, value)| !value.is_null());
            said.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        other => other,
    }
}

/// Says that a test could not run; a failure where every test must.
pub(crate) fn skipped<T>(reason: &str) -> Option<T> {
    skipped_unless("STILLHOUSE_EXPECT_KUBERNETES", reason)
}

/// Says that a test could not run; a failure where `variable` expects it to.
pub(crate) fn skipped_unless<T>(variable: &str, reason: &str) -> Option<T> {
    println!("skipped: {reason}");
    let is_expected = std::env::var_os(variable).is_some_and(|value| value == "1");
    assert!(!is_expected, "skipped: {reason}");
    None
}
