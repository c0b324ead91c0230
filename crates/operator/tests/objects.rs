//! The custom resource and the objects of a job, without a cluster.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stillhouse_operator::crd::{DistillJob, definition};
use stillhouse_operator::desired::{Coordinator, Images, Observed, Plan, TEMPLATE, plan, template_digest, token};
use stillhouse_operator::pods::{Role, command};
use stillhouse_operator::request::{Request, parse};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn object() -> Value {
    let mut object = json!({
        "apiVersion": "stillhouse.dev/v1alpha1", "kind": "DistillJob",
        "metadata": { "name": "mnist", "namespace": "lab", "uid": "u-1" },
        "spec": {
            "images": { "source": "idx", "path": "train.gz", "take": 2000 },
            "teacher": { "protocol": "open-inference", "url": "http://teacher:8080", "model": "lenet5",
                         "auth": { "environment": "TEACHER_KEY" } },
            "student": { "architecture": "lenet5", "one": {} },
            "acquisition": { "score": "bald", "sample": 40000 },
            "budget": { "queries": 26000, "perRound": 6000 },
            "training": { "recipe": "strong" },
            "queue": { "url": "redis://redis:6379/0", "password": { "environment": "REDIS_PASSWORD" } },
            "workers": { "min": 2, "max": 8 },
            "evaluation": { "images": "test.gz", "labels": "labels.gz" },
            "cluster": {
                "image": "r/s:1", "workerImage": "r/w:1", "imagePullPolicy": "Always", "imagePullSecrets": ["pull"],
                "priorityClassName": "low", "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 3600,
                "data": { "claim": "images" }, "storage": { "size": "20Gi", "className": "fast" },
                "sharedMemory": "2Gi",
                "teacherSecret": { "name": "teacher", "key": "key" },
                "queueSecret": { "name": "redis", "key": "password" },
                "workers": {
                    "cpu": "4", "memory": "8Gi", "gpus": 1, "gpuResource": "nvidia.com/gpu",
                    "nodeSelector": { "gpu": "h100" },
                    "tolerations": [{ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" }],
                    "env": { "RUST_LOG": "info" }, "secretEnv": { "S3": { "name": "s3", "key": "id" } },
                    "volumes": [{ "name": "cache", "mountPath": "/cache", "claim": "cache" }],
                },
                "gateways": { "replicas": 3 },
            },
        },
    });
    object["spec"]["cluster"]["tls"] = json!({ "secretName": "mnist-tls", "serverName": "coordinator.lab" });
    object
}

fn request_of(object: Value) -> Request {
    parse(&serde_json::from_value::<DistillJob>(object).unwrap()).unwrap()
}

fn refusal_of(object: Value) -> String {
    parse(&serde_json::from_value::<DistillJob>(object).unwrap())
        .unwrap_err()
        .to_string()
}

fn plan_of(object: Value, coordinator: Coordinator) -> Plan {
    let images = Images {
        control: "c".into(),
        worker: "w".into(),
    };
    let observed = Observed {
        coordinator,
        has_token: true,
        ..Observed::default()
    };
    plan(&request_of(object), &observed, &images)
}

fn find<'a>(plan: &'a Plan, kind: &str, name: &str) -> Option<&'a Value> {
    plan.apply
        .iter()
        .find(|item| item["kind"] == kind && item["metadata"]["name"] == name)
}

/// Paths of `value` that `schema` does not know; a server would drop them.
fn unknown(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true || !schema["additionalProperties"].is_null() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                match schema["properties"].get(key) {
                    Some(schema) => unknown(schema, value, &path, found),
                    None => found.push(path),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| unknown(&schema["items"], item, path, found)),
        _ => {}
    }
}

fn spec_schema() -> Value {
    definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

#[test]
fn the_definition_is_small_and_the_file_is_what_the_program_prints() {
    let text = serde_json::to_string_pretty(&definition()).unwrap() + "\n";
    assert!(text.len() < 200_000, "{} bytes", text.len());
    let file = root().join("deploy/crd.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), text, "UPDATE=1 writes it");
}

#[test]
fn the_schema_knows_every_field_of_the_examples_and_of_the_types() {
    let mut specs = vec![object()["spec"].clone()];
    let examples = std::fs::read_dir(root().join("examples")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path());
    for path in examples.chain([root().join("deploy/kind/job.yaml")]) {
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let file: Value = serde_saphyr::from_str(&text).unwrap();
            specs.push(file["spec"].clone());
        }
    }
    assert!(specs.len() > 2);
    // With every default written down, by the types themselves.
    let whole = request_of(object());
    specs.push(serde_json::to_value(&whole.job.spec).unwrap());
    specs.push(json!({ "cluster": whole.cluster }));
    for spec in specs {
        let mut found = Vec::new();
        unknown(&spec_schema(), &spec, "spec", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn the_types_know_every_setting_of_a_cluster_that_the_schema_has() {
    let settings = stillhouse_operator::cluster::ClusterSpec::default();
    let known = serde_json::to_value(settings).unwrap();
    for name in spec_schema()["properties"]["cluster"]["properties"]
        .as_object()
        .unwrap()
        .keys()
    {
        assert!(known.get(name).is_some(), "spec.cluster.{name}");
    }
}

#[test]
fn the_job_file_of_a_pod_is_the_job_of_a_laptop() {
    let request = request_of(object());
    let there = stillhouse_core::Job::parse(&request.job_file).unwrap();
    assert_eq!(there, request.job);
    assert_eq!(there.spec.images.path, Path::new("/data/train.gz"));
    // A request's nulls are the teacher's business.
    let mut with_null = object();
    with_null["spec"]["teacher"] = json!({ "protocol": "json", "url": "http://t", "model": "m",
        "request": { "image": "{{image.png.base64}}", "seed": null }, "answer": { "values": "/p" } });
    with_null["spec"]["cluster"]["teacherSecret"].take();
    let request = request_of(with_null);
    assert_eq!(stillhouse_core::Job::parse(&request.job_file).unwrap(), request.job);
    assert!(request.job.spec.teacher.request.as_ref().unwrap().get("seed").is_some());
    let laptop = stillhouse_core::Job::parse(&object_of_laptop().to_string()).unwrap();
    assert!(
        laptop.spec.cluster.is_some(),
        "one machine reads it and does nothing with it"
    );
}

fn object_of_laptop() -> Value {
    let mut file = object();
    file["metadata"] = json!({ "name": "mnist" });
    file
}

#[test]
fn a_workers_command_line_is_this_one() {
    let request = request_of(object());
    // The worker's parser is in a program that links libtorch; whole jobs on a control plane run this line.
    let line = command(&request, Role::Worker).join(" ");
    assert_eq!(line, "stillhouse-worker worker --coordinator mnist-coordinator:7700");
}

#[test]
fn the_key_of_the_certificate_is_in_the_coordinators_pod_alone() {
    let request = request_of(object());
    let images = Images {
        control: "c".into(),
        worker: "w".into(),
    };
    for (role, keys) in [
        (Role::Coordinator, &["tls.crt", "tls.key"][..]),
        (Role::Worker, &["ca.crt"]),
        (Role::Gateway, &["ca.crt"]),
    ] {
        let template = stillhouse_operator::pods::template(&request, role, &images);
        let volumes = template["spec"]["volumes"].as_array().unwrap();
        let tls = volumes.iter().find(|volume| volume["name"] == "tls").unwrap();
        let items = tls["secret"]["items"].as_array().unwrap();
        let found: Vec<_> = items.iter().map(|item| item["key"].as_str().unwrap()).collect();
        assert_eq!(found, keys, "{role:?}");
        // The whole Secret comes in by no other way.
        assert_eq!(template.to_string().matches("mnist-tls").count(), 1);
    }
}

#[test]
fn bad_jobs_are_refused_with_a_sentence() {
    let with = |pointer: &str, value: Value| {
        let mut bad = object();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[key] = value;
        refusal_of(bad)
    };
    assert!(with("/spec/budget/perRound", json!(0)).contains("budget"));
    assert!(with("/spec/cluster/replicas", json!(9)).contains("spec.workers.max"));
    assert!(with("/spec/cluster/imag", json!("x")).contains("unknown field `imag`"));
    assert!(with("/spec/teacher/auth", Value::Null).contains("teacherSecret"));
    assert!(with("/spec/cluster/workers/volumes/0/secret", json!("x")).contains("exactly one"));
    assert!(with("/metadata/name", json!("x".repeat(51))).contains("50"));
}

#[test]
fn a_job_with_everything_becomes_these_objects() {
    let plan = plan_of(object(), Coordinator::Absent);
    let text = serde_json::to_string_pretty(&plan.apply).unwrap() + "\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/everything.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), text, "UPDATE=1 writes it");
    assert_eq!(plan, plan_of(object(), Coordinator::Absent));
}

#[test]
fn suspended_workers_stay_until_the_coordinator_is_drained() {
    let mut suspended = object();
    suspended["spec"]["cluster"]["suspend"] = json!(true);
    let draining = plan_of(suspended.clone(), Coordinator::Active);
    assert_eq!(
        find(&draining, "Job", "mnist-coordinator").unwrap()["spec"]["suspend"],
        true
    );
    assert_eq!(
        find(&draining, "Job", "mnist-worker").unwrap()["spec"]["suspend"],
        false
    );
    assert_eq!(
        find(&draining, "Deployment", "mnist-gateway").unwrap()["spec"]["replicas"],
        3
    );
    let drained = plan_of(suspended, Coordinator::Idle);
    assert_eq!(find(&drained, "Job", "mnist-worker").unwrap()["spec"]["suspend"], true);
    assert_eq!(
        find(&drained, "Deployment", "mnist-gateway").unwrap()["spec"]["replicas"],
        0
    );
}

#[test]
fn a_job_that_is_over_holds_no_gpu_and_asks_nothing() {
    for coordinator in [Coordinator::Succeeded, Coordinator::Failed] {
        let plan = plan_of(object(), coordinator);
        let workers = find(&plan, "Job", "mnist-worker");
        assert!(workers.is_none_or(|job| job["spec"]["suspend"] == true));
        assert_eq!(
            find(&plan, "Deployment", "mnist-gateway").unwrap()["spec"]["replicas"],
            0
        );
    }
}

#[test]
fn resizing_changes_both_numbers_of_the_indexed_job_and_nothing_of_the_coordinator() {
    let mut fewer = object();
    fewer["spec"]["cluster"]["replicas"] = json!(1);
    let (before, after) = (
        plan_of(object(), Coordinator::Active),
        plan_of(fewer, Coordinator::Active),
    );
    let size = |plan: &Plan| {
        let spec = find(plan, "Job", "mnist-worker").unwrap()["spec"].clone();
        (spec["completions"].clone(), spec["parallelism"].clone())
    };
    assert_eq!(
        (size(&before), size(&after)),
        ((json!(8), json!(8)), (json!(1), json!(1)))
    );
    let coordinator = |plan| find(plan, "Job", "mnist-coordinator").cloned();
    assert_eq!(coordinator(&before), coordinator(&after));
}

#[test]
fn a_larger_budget_starts_the_coordinator_again_and_never_a_second_beside_it() {
    let before = request_of(object());
    let mut larger = object();
    larger["spec"]["budget"]["queries"] = json!(30000);
    let images = Images {
        control: "c".into(),
        worker: "w".into(),
    };
    let observed = Observed {
        coordinator: Coordinator::Active,
        coordinator_template: Some(template_digest(&before, Role::Coordinator, &images)),
        worker_template: Some(template_digest(&before, Role::Worker, &images)),
        images: Some(images.clone()),
        has_token: true,
        ..Observed::default()
    };
    let larger = plan(&request_of(larger), &observed, &images);
    assert_eq!(larger.delete, ["mnist-coordinator"]);
    assert!(find(&larger, "Job", "mnist-coordinator").is_none());

    let newer = Images {
        control: "c:2".into(),
        worker: "w:2".into(),
    };
    let upgraded = plan(&before, &observed, &newer);
    assert!(
        upgraded.delete.is_empty(),
        "a job under way keeps the images of its start"
    );
    assert_eq!(upgraded.apply, plan(&before, &observed, &images).apply);

    let spent = Observed {
        workers_over: true,
        ..observed.clone()
    };
    let again = plan(&before, &spent, &images);
    assert_eq!(
        again.delete,
        ["mnist-worker"],
        "workers that left at the end of a job are needed again"
    );
    let ended = Observed {
        coordinator: Coordinator::Succeeded,
        ..spent
    };
    assert!(plan(&before, &ended, &images).delete.is_empty());

    let mut other = object();
    other["spec"]["cluster"]["workers"]["cpu"] = json!("8");
    let other = plan(&request_of(other), &observed, &images);
    assert_eq!(other.delete, ["mnist-worker"], "another template needs another Job");
    assert!(find(&other, "Job", "mnist-worker").is_none());
}

#[test]
fn kueue_alone_decides_whether_its_workers_run() {
    let mut queued = object();
    queued["spec"]["cluster"]["queueName"] = json!("gpus");
    let first = plan_of(queued.clone(), Coordinator::Active);
    let workers = find(&first, "Job", "mnist-worker").unwrap();
    assert_eq!(workers["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "gpus");
    assert!(workers["spec"].get("suspend").is_none());

    let seen = |queued: &Value, coordinator, worker_count: Option<u32>| {
        let images = Images {
            control: "c".into(),
            worker: "w".into(),
        };
        let observed = Observed {
            coordinator,
            worker_template: worker_count
                .map(|_| workers["metadata"]["annotations"][TEMPLATE].as_str().unwrap().into()),
            worker_count,
            has_token: true,
            ..Observed::default()
        };
        let plan = plan(&request_of(queued.clone()), &observed, &images);
        assert!(
            worker_count.is_none() || find(&plan, "Job", "mnist-worker").is_none(),
            "what Kueue changed stands"
        );
        (plan.merge, plan.delete)
    };
    assert_eq!(seen(&queued, Coordinator::Active, Some(8)), (Vec::new(), Vec::new()));
    let (resized, deleted) = seen(&queued, Coordinator::Active, Some(3));
    assert_eq!(resized[0]["spec"], json!({ "completions": 8, "parallelism": 8 }));
    assert!(deleted.is_empty());

    let mut suspended = queued.clone();
    suspended["spec"]["cluster"]["suspend"] = json!(true);
    let gone = (Vec::new(), vec!["mnist-worker".to_owned()]);
    for (job, coordinator) in [(&suspended, Coordinator::Idle), (&queued, Coordinator::Failed)] {
        assert_eq!(seen(job, coordinator, Some(8)), gone, "quota is not kept without need");
        assert_eq!(
            seen(job, coordinator, None),
            Default::default(),
            "nothing is written at rest"
        );
    }
    queued["spec"]["cluster"]["queueName"] = json!("others");
    assert_eq!(
        seen(&queued, Coordinator::Active, Some(8)),
        gone,
        "no Job that runs changes its queue"
    );
}

#[test]
fn secrets_go_to_those_who_need_them_and_are_nowhere_else() {
    let plan = plan_of(object(), Coordinator::Absent);
    let text = |kind, name| find(&plan, kind, name).unwrap().to_string();
    assert!(text("Job", "mnist-coordinator").contains("TEACHER_KEY"));
    assert!(text("Deployment", "mnist-gateway").contains("TEACHER_KEY"));
    assert!(!text("Job", "mnist-worker").contains("TEACHER_KEY"));
    assert!(plan.apply.iter().all(|item| item["kind"] != "Secret"));
    let secret = token(&request_of(object()), "ab");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u-1");
}

#[test]
fn every_object_but_the_labels_goes_with_its_job_and_every_pod_is_confined() {
    for item in plan_of(object(), Coordinator::Absent).apply {
        // What was paid for stays.
        let stays = item["kind"] == "PersistentVolumeClaim";
        assert_eq!(
            item["metadata"]["ownerReferences"][0]["controller"] == true,
            !stays,
            "{item}"
        );
        let pod = &item["spec"]["template"]["spec"];
        if pod.is_object() {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            let container = &pod["containers"][0]["securityContext"];
            assert_eq!(container["readOnlyRootFilesystem"], true);
            assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
        }
    }
}
