//! What a cluster does to a job, and what must not change by it.

use serde_json::json;
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::{Essence, Outcome};
use stillhouse_tests::processes::{Running, run_job};

use crate::world::{World, alone};

/// [`jobs::three_rounds`], long enough for blows.
fn long(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    job.spec.training.epochs = 90;
    job
}

/// What one machine makes of it.
pub(crate) fn reference(world: &World, job: impl Fn(&str) -> JobSpec) -> Essence {
    let folder = tempfile::tempdir().unwrap();
    let reference = Outcome::of(&folder.path().join("job"));
    let file = jobs::write(folder.path(), &job(&world.teacher.url()));
    let _ = Running::start(run_job(&file, &reference.file(""), 2))
        .wait()
        .succeeded();
    reference.essence()
}

fn outcome(world: &World, name: &str) -> Outcome {
    Outcome::of(&world.storage(name).join("job"))
}

#[test]
fn lost_pods_nodes_servers_and_leaders_change_neither_queries_nor_student() {
    let _alone = alone();
    let Some(mut world) = World::new() else { return };
    world.images();
    let object = world.object(
        "blows",
        &long(&world.url),
        json!({ "workers": { "gpus": 1 }, "replicas": 3 }),
    );
    world.submit(&object);
    let there = outcome(&world, "blows");
    world.until("the first training", || {
        let are_there = there.events_called("worker-joined") >= 3;
        (are_there && there.has_event("asked", "active-000")).then_some(())
    });

    // A worker's pod is killed.
    let victim = world.pods_of("blows", "worker")[0].metadata.name.clone().unwrap();
    world.delete_pod(&victim, 0);
    world.until("the worker to be lost", || {
        (there.events_called("worker-lost") > 0).then_some(())
    });

    // The API server dies, and what was watched is compacted before it comes back: no watch can go on where it was.
    let before = world.revision();
    world.plane.restart_server_without_the_past().unwrap();
    world.until("the server", || world.leader());
    assert!(world.is_gone(&before), "a watch goes on from before");

    // The operator that acts is lost; another takes over.
    let leader = world.leader().unwrap();
    world.delete_pod(&leader, 0);
    world.until("another leader", || world.leader().filter(|now| *now != leader));

    // The coordinator is killed in the middle of a round. While it asks, a request would be in doubt, and held.
    world.until("a training of the second round", || {
        there.has_event("asked", "control-001").then_some(())
    });
    let victim = world.pods_of("blows", "coordinator")[0].metadata.name.clone().unwrap();
    world.delete_pod(&victim, 0);

    // A node loses its power, with a worker on it.
    let node_of = |role| {
        let pods = world.pods_of("blows", role);
        let nodes = pods.into_iter().filter_map(|pod| pod.spec?.node_name);
        nodes.collect::<Vec<_>>()
    };
    let lost = world.until("a worker beside the coordinator's node", || {
        let coordinator = node_of("coordinator").pop()?;
        node_of("worker").into_iter().find(|node| *node != coordinator)
    });
    world.kubelet.lose_node(&lost);

    world.phase("blows", "Succeeded");
    there.settle(&world.teacher.billed().unwrap());
    assert_eq!(there.essence(), reference(&world, long));
}

#[test]
fn a_job_is_suspended_resumed_resized_and_given_more_in_the_middle_of_its_rounds() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let smaller = |url: &str| {
        let mut job = long(url);
        job.spec.budget.queries = 410;
        job
    };
    let object = world.object(
        "moved",
        &smaller(&world.url),
        json!({ "workers": { "gpus": 1 }, "replicas": 2 }),
    );
    world.submit(&object);
    let there = outcome(&world, "moved");
    world.until("the first training", || {
        there.has_event("asked", "active-000").then_some(())
    });

    world
        .patch("moved", &json!({ "cluster": { "suspend": true } }))
        .unwrap();
    world.phase("moved", "Suspended");
    for role in ["coordinator", "worker", "gateway"] {
        world.until("every pod to be gone", || {
            world.pods_of("moved", role).is_empty().then_some(())
        });
    }
    let billed = world.teacher.billed().unwrap().len();
    world.at_rest("moved");
    assert_eq!(
        world.teacher.billed().unwrap().len(),
        billed,
        "nothing is asked meanwhile"
    );

    world
        .patch("moved", &json!({ "cluster": { "suspend": false, "replicas": 3 } }))
        .unwrap();
    world.until("three workers", || {
        (world.status("moved").workers == "3/3").then_some(())
    });
    world.patch("moved", &json!({ "cluster": { "replicas": 1 } })).unwrap();
    world.until("one worker", || {
        (world.pods_of("moved", "worker").len() == 1).then_some(())
    });

    world.patch("moved", &json!({ "budget": { "queries": 530 } })).unwrap();
    world.phase("moved", "Succeeded");
    there.settle(&world.teacher.billed().unwrap());
    assert_eq!(world.status("moved").queries, "530/530");
    assert_eq!(there.essence(), reference(&world, long));
}

#[test]
fn what_was_paid_for_outlives_a_deleted_job_and_another_of_its_name_goes_on() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let object = world.object("again", &long(&world.url), json!({}));
    world.submit(&object);
    let there = outcome(&world, "again");
    world.until("a round", || there.has_event("asked", "active-001").then_some(()));
    world.delete("again");
    world.until("every pod to be gone", || {
        world.all_pods("again").is_empty().then_some(())
    });
    assert!(world.has_claim("again-job"), "labels that were paid for");

    world.apply(&object).unwrap();
    world.phase("again", "Succeeded");
    there.settle(&world.teacher.billed().unwrap());
    assert_eq!(there.essence(), reference(&world, long));
}
