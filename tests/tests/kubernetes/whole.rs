//! A job that is applied ends with the student that one machine makes.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs::{self, digits};
use stillhouse_tests::object_store::{BUCKET, KEY, ObjectStore, SECRET, program};
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::on_path;
use stillhouse_tests::prometheus::{Prometheus, panels, unanswered};
use stillhouse_tests::proxy::Proxy;

use crate::blows::reference;
use crate::world::{LAB, World, alone, skipped};

/// Images, evaluation images and their labels.
const DIGITS: [&str; 3] = [
    "train-images-idx3-ubyte.gz",
    "test-images-idx3-ubyte.gz",
    "test-labels-idx1-ubyte.gz",
];

/// [`jobs::three_rounds`], long enough to be seen running.
fn visible(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    job.spec.training.epochs = 60;
    job
}

/// A store that speaks S3, as pods reach it.
struct Store {
    server: ObjectStore,
    // It listens on the bridge.
    _proxy: Proxy,
    endpoint: String,
}

impl Store {
    /// With the digits in it, and its credentials in a Secret; `None` where there is no such server.
    fn start(world: &World) -> Option<Self> {
        let Some(program) = program() else {
            return skipped("there is no object store: scripts/object-store.sh builds one");
        };
        let server = ObjectStore::start(&program, &world.path("store")).unwrap();
        for file in DIGITS {
            server.put(file, &digits(file)).unwrap();
        }
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), LAB);
        let secret = json!({ "metadata": { "name": "store" }, "stringData": { "id": KEY, "secret": SECRET } });
        let secret = serde_json::from_value(secret).unwrap();
        world.wait(secrets.create(&PostParams::default(), &secret)).unwrap();
        let (proxy, far) = world.reachable(server.address());
        Some(Self {
            server,
            _proxy: proxy,
            endpoint: format!("http://{far}"),
        })
    }

    /// Images come from it, and results go there: no claim holds images.
    fn is_used_by(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        let [images, test, labels] = DIGITS.map(|file| json!(format!("s3://{BUCKET}/{file}")));
        spec["images"]["path"] = images;
        spec["evaluation"]["images"] = test;
        spec["evaluation"]["labels"] = labels;
        spec["results"] = json!({ "url": format!("s3://{BUCKET}/results") });
        let cluster = spec["cluster"].as_object_mut().unwrap();
        cluster.remove("data");
        let secret = |key: &str| json!({ "name": "store", "key": key });
        cluster.insert(
            "coordinator".into(),
            json!({
                "env": { "AWS_ENDPOINT": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1" },
                "secretEnv": { "AWS_ACCESS_KEY_ID": secret("id"), "AWS_SECRET_ACCESS_KEY": secret("secret") },
            }),
        );
    }
}

#[test]
fn a_job_that_is_applied_ends_with_the_student_of_one_machine() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let mut job = visible(&world.url);
    job.spec.budget.queries = 410;
    let mut object = world.object("whole", &job, json!({ "workers": { "gpus": 1 }, "replicas": 2 }));
    let store = Store::start(&world);
    if let Some(store) = &store {
        store.is_used_by(&mut object);
    }
    let prometheus = on_path("prometheus").map(|program| {
        let operators = world.operators();
        assert_eq!(operators.len(), 2);
        Prometheus::start(&program, &world.path(""), &operators)
    });
    world.submit(&object);
    let phases = world.phase("whole", "Succeeded");
    assert_eq!(world.status("whole").queries, "410/410");
    // It was over, and may spend more: the same as if it could from the beginning.
    world.until("the workers to have left", || {
        let pods = world.all_pods("whole");
        let is_over = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
        pods.iter().all(is_over).then_some(())
    });
    world.patch("whole", &json!({ "budget": { "queries": 530 } })).unwrap();
    // What both students want is bought once.
    let is_spent = |queries: &str| ["528/530", "529/530", "530/530"].contains(&queries);
    world.until("more to be spent", || {
        is_spent(&world.status("whole").queries).then_some(())
    });
    world.phase("whole", "Succeeded");
    assert_eq!(phases.last().map(String::as_str), Some("Succeeded"));
    assert!(phases.contains(&"Running".to_owned()), "{phases:?}");
    let outcome = Outcome::of(&world.storage("whole").join("job"));
    outcome.settle(&world.teacher.billed().unwrap());
    if let Some(store) = store {
        let copied = std::fs::read_dir(store.server.file("results")).unwrap().next().unwrap();
        let copy = copied.unwrap().path().join("student.pt");
        assert_eq!(
            std::fs::read(copy).unwrap(),
            std::fs::read(outcome.file("student.pt")).unwrap()
        );
    }
    let status = world.status("whole");
    assert!(is_spent(&status.queries), "{}", status.queries);
    assert_eq!(status.round, Some(3));
    if let Some(prometheus) = prometheus {
        let empty = unanswered(&prometheus, &panels(|board| board == "operator"));
        assert!(empty.is_empty(), "panels without an answer: {empty:#?}");
        let leaders = "sum(stillhouse_operator_leader) != 1";
        assert_eq!(prometheus.ask(leaders), (0, 0), "one replica acts");
    }
    assert_eq!(outcome.essence(), reference(&world, visible));
}
