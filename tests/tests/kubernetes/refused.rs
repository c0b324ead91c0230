//! What is refused, and why a job waits: said where the user looks.

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use stillhouse_tests::jobs;
use stillhouse_tests::kubernetes::kubelet::ABSENT;
use stillhouse_tests::teacher::Fault;

use crate::world::{LAB, World, alone};

/// The condition `Running` of a job: reason and message.
fn waits_for(world: &World, name: &str) -> Option<(String, String)> {
    let status = world.status(name);
    let condition = status
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == "Running")?;
    (condition.status == "False").then_some((condition.reason, condition.message))
}

#[test]
fn bad_jobs_are_refused_at_admission_with_a_sentence_that_helps() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    let good = world.object("good", &jobs::one_round(&world.url), json!({ "suspend": true }));
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        world.apply(&bad).expect_err("a bad job").to_string()
    };
    let no_student = refusal(&|bad| bad["spec"]["student"] = json!({}));
    assert!(
        no_student.contains("name exactly one of architecture and torchscript"),
        "{no_student}"
    );
    let unknown = refusal(&|bad| bad["spec"]["acquisition"] = json!({ "score": "best" }));
    assert!(unknown.contains("least-confidence"), "{unknown}");
    let too_many = refusal(&|bad| bad["spec"]["cluster"]["replicas"] = json!(9));
    assert!(too_many.contains("more than spec.workers.max"), "{too_many}");

    world.apply(&good).unwrap();
    let less = refusal(&|bad| bad["spec"]["budget"]["queries"] = json!(39));
    assert!(less.contains("may only grow"), "{less}");
    let other = refusal(&|bad| bad["spec"]["images"]["take"] = json!(31));
    assert!(other.contains("cannot be changed"), "{other}");

    // What no schema can say is said in the status, and nothing is started.
    let mut senseless = good.clone();
    senseless["metadata"]["name"] = json!("senseless");
    senseless["spec"]["cluster"] = json!({ "teacherSecret": { "name": "a", "key": "b" } });
    world.apply(&senseless).unwrap();
    world.phase("senseless", "Invalid");
    assert!(
        world
            .status("senseless")
            .message
            .contains("spec.teacher.auth.environment")
    );
    assert!(world.all_pods("senseless").is_empty());
}

#[test]
fn a_job_says_what_it_waits_for() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let job = jobs::one_round(&world.url);
    let waits = |name: &str, reason: &str, part: &str| {
        world.until(&format!("{name} to say {reason}"), || {
            let (found, message) = waits_for(&world, name)?;
            (found == reason && message.contains(part)).then_some(())
        });
    };

    // More cards than any node has, and no time to wait for them.
    let cards = json!({ "workers": { "gpus": 2 }, "activeDeadlineSeconds": 15 });
    world.submit(&world.object("cards", &job, cards));
    waits("cards", "Gpu", "nvidia.com/gpu");

    // An image that is not there.
    let image = json!({ "workerImage": format!("{ABSENT}worker:1") });
    world.submit(&world.object("image", &job, image));
    waits("image", "Image", "no such image");

    // A Secret that is not there.
    let mut secret = world.object(
        "secret",
        &job,
        json!({ "teacherSecret": { "name": "missing", "key": "k" } }),
    );
    secret["spec"]["teacher"]["auth"] = json!({ "environment": "KEY" });
    world.submit(&secret);
    waits("secret", "Secret", "missing");

    // A claim that is not bound.
    world.apply(&world.object("volume", &job, json!({}))).unwrap();
    waits("volume", "Storage", "the coordinator waits");

    // A teacher that is away.
    world.teacher.set_fault(Fault::Down).unwrap();
    world.submit(&world.object("teacher", &job, json!({})));
    waits("teacher", "Teacher", "cannot be reached");
    world.teacher.set_fault(Fault::None).unwrap();
    world.phase("teacher", "Succeeded");
    world.phase("cards", "Failed");
    let failed = world.status("cards").conditions;
    let failed = failed.iter().find(|condition| condition.type_ == "Failed").unwrap();
    assert_eq!(
        (failed.status.as_str(), failed.reason.as_str()),
        ("True", "DeadlineExceeded")
    );
    for name in ["cards", "image", "secret", "volume"] {
        world.delete(name);
        world.until("its pods to be gone", || world.all_pods(name).is_empty().then_some(()));
    }

    // A quota that lets no worker's pod be made.
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), LAB);
    let quota = json!({ "metadata": { "name": "none" }, "spec": { "hard": { "requests.nvidia.com/gpu": "0" } } });
    world
        .wait(quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()))
        .unwrap();
    world.submit(&world.object("quota", &job, json!({ "workers": { "gpus": 1 } })));
    waits("quota", "Quota", "quota-worker");
}
