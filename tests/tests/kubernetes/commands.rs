//! What a user does with `stillhouse` alone.

use std::path::Path;

use serde_json::json;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Finished, Running, stillhouse};

use crate::world::{World, alone};

fn run(world: &World, args: &[&str]) -> Finished {
    let mut command = stillhouse();
    command.args(args).env("KUBECONFIG", world.plane.kubeconfig("admin"));
    Running::start(command).wait()
}

/// What a command that succeeds says.
fn said(world: &World, args: &[&str]) -> String {
    run(world, args).succeeded().stdout
}

#[test]
fn a_job_is_submitted_watched_changed_exported_and_cancelled() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let mut job = jobs::three_rounds(&world.url);
    job.spec.budget.queries = 410;
    job.spec.teacher.price_per_query = Some(0.5);
    let object = world.object("mine", &job, json!({ "workers": { "gpus": 1 }, "replicas": 1 }));
    world.volume("mine-job", &world.storage("mine"), "ReadWriteOncePod");
    let file = world.path("job.yaml");
    std::fs::write(&file, object.to_string()).unwrap();
    let file = file.to_str().unwrap();

    assert!(said(&world, &["list"]).contains("no jobs in default"));
    let told = said(&world, &["submit", file, "--dry-run", "client"]);
    for part in [
        "at most 410 queries, 205.00 in all",
        "Job mine-coordinator",
        "1 worker with 1 cards",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(said(&world, &["submit", file, "--dry-run", "server"]).contains("nothing was kept"));
    assert!(
        said(&world, &["list"]).contains("no jobs in default"),
        "dry runs send nothing"
    );

    assert!(said(&world, &["submit", file]).contains("mine: submitted"));
    assert!(said(&world, &["suspend", "mine"]).contains("mine: "));
    world.phase("mine", "Suspended");
    let described = said(&world, &["describe", "mine"]);
    assert!(described.contains("what to do stillhouse resume"), "{described}");
    assert!(said(&world, &["budget", "add", "djob/mine", "120"]).contains("the budget was 410, now it is 530"));
    assert!(said(&world, &["resize", "mine", "2"]).contains("2 workers"));
    assert!(said(&world, &["resume", "djob/mine"]).contains("it goes on"));

    let watched = said(&world, &["watch", "djob/mine"]);
    assert!(watched.contains("Running") && watched.contains("530/530"), "{watched}");
    assert!(said(&world, &["status", "djob/mine"]).contains("Succeeded"));
    assert!(said(&world, &["list", "-A"]).contains("default    mine  Succeeded"));
    assert!(said(&world, &["logs", "mine", "--tail", "200"]).contains("job started job=\"mine\""));
    let log = said(&world, &["logs", "mine", "--role", "worker", "--follow"]);
    assert!(log.lines().any(|line| line.starts_with("mine-worker-1-")), "{log}");
    let described = said(&world, &["describe", "mine"]);
    assert!(
        described.contains("RoundTrained") && described.contains("BudgetSpent"),
        "{described}"
    );

    let to = world.path("exported");
    assert!(said(&world, &["export", "mine", "--to", to.to_str().unwrap()]).contains("7 files"));
    let outcome = Outcome::of(&world.storage("mine").join("job"));
    outcome.settle(&world.teacher.billed().unwrap());
    for name in [
        "student.safetensors",
        "student.pt",
        "labels.safetensors",
        "summary.json",
        "report.html",
    ] {
        let read = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(read(&to.join(name)), read(&outcome.file(name)), "{name}");
    }
    world.until("the pod that served them to be gone", || {
        let pods = world.wait(world.pods().list(&Default::default())).unwrap().items;
        let is_export =
            |pod: &k8s_openapi::api::core::v1::Pod| pod.metadata.name.iter().any(|name| name.contains("export"));
        (!pods.iter().any(is_export)).then_some(())
    });
    let cancelled = said(&world, &["cancel", "mine"]);
    assert!(cancelled.contains("its volume mine-job stays"), "{cancelled}");
    assert!(said(&world, &["list"]).contains("no jobs"));
}

#[test]
fn what_cannot_be_done_gets_one_clear_error() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    let absent = run(&world, &["describe", "nothing"]).refused(2);
    assert!(absent.error.contains("\"nothing\" not found"), "{absent:?}");
    let bad = world.path("bad.yaml");
    let mut object = world.object("bad", &jobs::one_round(&world.url), json!({ "replicas": 9 }));
    std::fs::write(&bad, object.to_string()).unwrap();
    let refused = run(&world, &["submit", bad.to_str().unwrap()]).refused(2);
    assert!(
        refused.error.contains("replicas: expected 1 to spec.workers.max"),
        "{refused:?}"
    );

    object["spec"]["cluster"] = json!({ "suspend": true });
    object["spec"]["cluster"]["storage"] = json!({ "size": "ten" });
    std::fs::write(&bad, object.to_string()).unwrap();
    let refused = run(&world, &["submit", bad.to_str().unwrap()]).refused(2);
    assert!(refused.error.contains("spec.cluster.storage.size"), "{refused:?}");

    // What only a comparison with what is there can refuse.
    object["spec"]["cluster"] = json!({ "suspend": true });
    std::fs::write(&bad, object.to_string()).unwrap();
    let _ = run(&world, &["submit", bad.to_str().unwrap()]).succeeded();
    object["spec"]["budget"]["queries"] = json!(39);
    std::fs::write(&bad, object.to_string()).unwrap();
    let refused = run(&world, &["submit", bad.to_str().unwrap()]).refused(2);
    assert!(refused.error.contains("may only grow"), "{refused:?}");

    // An account that may do nothing.
    let token = world
        .wait(stillhouse_tests::kubernetes::pod::account_token(
            &world.client,
            "default",
            "default",
        ))
        .unwrap();
    let weak = world.plane.write_kubeconfig("weak", &token).unwrap();
    let forbidden = run(&world, &["list", "--kubeconfig", weak.to_str().unwrap()]).refused(2);
    assert!(
        forbidden
            .hint
            .as_deref()
            .unwrap_or_default()
            .contains("lacks the right"),
        "{forbidden:?}"
    );
    assert!(!forbidden.error.contains(&token));
    let nowhere = run(&world, &["list", "--kubeconfig", "/nowhere"]).refused(2);
    assert!(nowhere.error.contains("no cluster is configured"), "{nowhere:?}");
}
