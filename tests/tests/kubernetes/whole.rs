//! A job that is applied ends with the student that one machine makes.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::on_path;
use stillhouse_tests::prometheus::{Prometheus, panels, unanswered};

use crate::blows::reference;
use crate::world::{World, alone};

/// [`jobs::three_rounds`], long enough to be seen running.
fn visible(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    job.spec.training.epochs = 60;
    job
}

#[test]
fn a_job_that_is_applied_ends_with_the_student_of_one_machine() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    world.images();
    let mut job = visible(&world.url);
    job.spec.budget.queries = 410;
    let object = world.object("whole", &job, json!({ "workers": { "gpus": 1 }, "replicas": 2 }));
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
