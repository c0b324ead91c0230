//! The real Kueue decides when workers run, by quota; the operator lets it.

use k8s_openapi::api::batch::v1::Job as BatchJob;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs::{self, CLASSES, SHAPE};
use stillhouse_tests::kubernetes::kueue::{NAMESPACE, chart, values};
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Running, stillhouse};
use stillhouse_tests::teacher::TestTeacher;

use crate::blows::reference;
use crate::world::{LAB, World, alone, skipped_unless};

/// The queue of the jobs.
const QUEUE: &str = "cards";

/// [`jobs::three_rounds`], long enough for another to wait for it.
fn long(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    job.spec.training.epochs = 60;
    job
}

/// A flavor whose label and toleration Kueue gives to workers, and a queue with two cards of it.
fn queues() -> [Value; 3] {
    let quota = json!({ "name": "nvidia.com/gpu", "nominalQuota": 2 });
    let group =
        json!({ "coveredResources": ["nvidia.com/gpu"], "flavors": [{ "name": "spot", "resources": [quota] }] });
    let kind = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let spot = json!({ "nodeLabels": { "kubernetes.io/os": "linux" }, "tolerations": [{ "key": "spot", "operator": "Exists" }] });
    [
        kind("ResourceFlavor", "spot", spot),
        kind(
            "ClusterQueue",
            "lab",
            json!({ "namespaceSelector": {}, "resourceGroups": [group] }),
        ),
        kind("LocalQueue", QUEUE, json!({ "clusterQueue": "lab" })),
    ]
}

fn api_of(client: &Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", kind));
    match kind {
        "LocalQueue" | "Workload" => Api::namespaced_with(client.clone(), LAB, &resource),
        _ => Api::all_with(client.clone(), &resource),
    }
}

/// A cluster with Kueue.
struct Lab {
    world: World,
}

impl Lab {
    fn new() -> Option<Self> {
        let Some(chart) = chart() else {
            return skipped_unless(
                "STILLHOUSE_EXPECT_KUEUE",
                "there is no Kueue: scripts/kueue.sh builds it",
            );
        };
        let world = World::new()?;
        world.images();
        let file = world.path("kueue.json");
        std::fs::write(&file, values().to_string()).unwrap();
        let (chart, file) = (chart.to_str().unwrap(), file.to_str().unwrap());
        world.helm_in(
            NAMESPACE,
            &["install", "kueue", chart, "--values", file, "--wait", "60"],
        );
        let lab = Self { world };
        for object in queues() {
            let (kind, name) = (
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap(),
            );
            let params = PatchParams::apply("test");
            // Its webhooks are asked, so this waits until they answer.
            lab.world.until(&format!("Kueue to take the {kind}"), || {
                let api = api_of(&lab.world.client, kind);
                lab.world.wait(api.patch(name, &params, &Patch::Apply(&object))).ok()
            });
        }
        Some(lab)
    }

    /// Submits a job with two workers to the queue.
    fn submit(&self, name: &str, url: &str) -> Outcome {
        let cluster = json!({ "queueName": QUEUE, "replicas": 2, "workers": { "gpus": 1 } });
        self.world.submit(&self.world.object(name, &long(url), cluster));
        Outcome::of(&self.world.storage(name).join("job"))
    }

    fn stop_policy(&self, policy: &str) {
        let patch = json!({ "spec": { "stopPolicy": policy } });
        let (queues, patch) = (api_of(&self.world.client, "ClusterQueue"), Patch::Merge(&patch));
        let _changed = self
            .world
            .wait(queues.patch("lab", &PatchParams::default(), &patch))
            .unwrap();
    }

    /// The Job of a job's workers.
    fn workers(&self, name: &str) -> BatchJob {
        let jobs: Api<BatchJob> = Api::namespaced(self.world.client.clone(), LAB);
        self.world.wait(jobs.get(&format!("{name}-worker"))).unwrap()
    }

    fn is_suspended(&self, name: &str) -> bool {
        self.workers(name).spec.and_then(|spec| spec.suspend).unwrap_or(false)
    }

    /// Waits until a job says that it waits for the queue, and has no worker.
    fn waits(&self, name: &str) {
        self.world.until(&format!("{name} to wait for the queue"), || {
            let status = self.world.status(name);
            let is_held = status.phase == "Pending" && status.message.contains("admitted by the queue cards");
            (is_held && self.world.pods_of(name, "worker").is_empty()).then_some(())
        });
        assert!(self.is_suspended(name), "{name}");
    }

    /// Waits for so many workers.
    fn has_workers(&self, name: &str, workers: &str) {
        self.world.until(&format!("{workers} workers of {name}"), || {
            (self.world.status(name).workers == workers).then_some(())
        });
    }

    /// Workers for which Kueue counts quota, or would.
    fn counted(&self, name: &str) -> Option<u64> {
        let listed = self
            .world
            .wait(api_of(&self.world.client, "Workload").list(&ListParams::default()));
        let of_job = |load: &DynamicObject| {
            let mut owners = load.metadata.owner_references.iter().flatten();
            owners.any(|owner| owner.name == format!("{name}-worker"))
        };
        let load = listed.unwrap().items.into_iter().find(of_job)?;
        load.data.pointer("/spec/podSets/0/count")?.as_u64()
    }

    fn said(&self, args: &[&str]) -> String {
        let mut command = stillhouse();
        command
            .args(args)
            .env("KUBECONFIG", self.world.plane.kubeconfig("admin"));
        Running::start(command).wait().succeeded().stdout
    }

    /// What the server refused to the operator.
    fn refusals(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.world.plane.audit_log()).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_refused = |event: &Value| {
            let user = event["user"]["username"].as_str().unwrap_or_default();
            let code = event["responseStatus"]["code"].as_u64().unwrap_or(0);
            user.ends_with(":stillhouse-operator") && code >= 400 && event["objectRef"]["resource"] == "jobs"
        };
        events.filter(is_refused).map(|event| event.to_string()).collect()
    }

    /// Kueue alone has a say in whether workers run, and nothing that the operator wrote was refused.
    fn is_left_to_kueue(&self, name: &str) {
        let fields = self.workers(name).metadata.managed_fields.unwrap_or_default();
        for entry in fields
            .iter()
            .filter(|entry| entry.manager.as_deref() == Some("stillhouse-operator"))
        {
            let owned = entry.fields_v1.as_ref().map(|fields| fields.0.to_string());
            assert!(!owned.unwrap_or_default().contains("f:suspend"), "{name}");
        }
        let refusals = self.refusals();
        assert!(refusals.is_empty(), "{refusals:#?}");
    }
}

/// Its cards are taken from a job that runs: it waits, and the operator writes nothing. Then it goes on.
fn a_drained_queue_costs_its_job_nothing(lab: &Lab, name: &str) {
    lab.stop_policy("HoldAndDrain");
    lab.waits(name);
    lab.world.at_rest(name);
    lab.waits(name);
    lab.is_left_to_kueue(name);
    lab.stop_policy("None");
    lab.has_workers(name, "2/2");
}

/// A job that finds no card left says so, and its size can be changed all the same.
fn a_job_that_waits_says_why_and_shrinks(lab: &Lab, name: &str) {
    lab.waits(name);
    let described = lab.said(&["describe", name]);
    let why = "insufficient unused quota for nvidia.com/gpu";
    assert!(described.contains(why), "{described}");
    assert!(lab.said(&["resize", name, "1"]).contains("1 worker"));
    lab.world.until("Kueue to count one worker", || {
        (lab.counted(name) == Some(1)).then_some(())
    });
    lab.waits(name);
}

/// Kueue takes all workers of a job that grows back, and lets in as many as are wanted now.
fn a_job_that_runs_grows(lab: &Lab, name: &str) {
    let workers = || {
        let pods = lab.world.pods_of(name, "worker").into_iter();
        pods.filter_map(|pod| pod.metadata.uid).collect::<Vec<_>>()
    };
    let before = workers();
    assert!(lab.said(&["resize", name, "2"]).contains("2 workers"));
    lab.has_workers(name, "2/2");
    assert_eq!(lab.counted(name), Some(2));
    assert!(!workers().iter().any(|uid| before.contains(uid)), "{before:?}");
}

#[test]
fn jobs_share_a_quota_and_outlive_evictions_and_the_operator_does_not_fight_kueue() {
    let _alone = alone();
    let Some(lab) = Lab::new() else { return };
    let world = &lab.world;
    let first = lab.submit("first", &world.url);
    world.until("the first training", || {
        first.has_event("asked", "active-000").then_some(())
    });
    lab.has_workers("first", "2/2");
    a_drained_queue_costs_its_job_nothing(&lab, "first");

    let teacher = TestTeacher::start(SHAPE, CLASSES, Some(&world.path("bill-2"))).unwrap();
    let near = teacher.url().trim_start_matches("http://").parse().unwrap();
    let (_proxy, far) = world.reachable(near);
    let second = lab.submit("second", &format!("http://{far}"));
    a_job_that_waits_says_why_and_shrinks(&lab, "second");

    world.phase("first", "Succeeded");
    lab.has_workers("second", "1/1");
    a_job_that_runs_grows(&lab, "second");
    world.phase("second", "Succeeded");
    lab.is_left_to_kueue("second");

    first.settle(&world.teacher.billed().unwrap());
    second.settle(&teacher.billed().unwrap());
    let reference = reference(world, long);
    assert_eq!(first.essence(), reference);
    assert_eq!(second.essence(), reference);
}
