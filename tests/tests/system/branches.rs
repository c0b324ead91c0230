//! Multi-branch students (ONE) through whole jobs: chosen by their branches' disagreement, trained on
//! mixed batches, by any number of workers, killed in between.

use stillhouse_core::job::{Control, GuardSpec, JobSpec, Mixing, OneSpec};
use stillhouse_core::{Acquisition, Diversity};
use stillhouse_tests::jobs;

use crate::world::{World, alone, undisturbed};

fn branched(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    let spec = &mut job.spec;
    spec.student.one = Some(OneSpec::default());
    spec.acquisition.score = Acquisition::Bald;
    spec.acquisition.sample = Some(2_500);
    spec.acquisition.guard = Some(GuardSpec {
        share: 0.25,
        shift: true,
    });
    spec.acquisition.diversity = Some(Diversity {
        per_image: Some(2.0),
        class_pairs: true,
        shortlist: None,
    });
    spec.training.mixing = Mixing::Uniform;
    spec.control = Control::None;
    spec.budget.queries = 290;
    spec.budget.per_round = 60;
    job
}

#[test]
fn branches_choose_and_train_alike_on_one_worker_on_three_and_after_kill_9() {
    let _alone = alone();
    let world = World::new();
    let job = branched(&world.url());
    let one = world.finish(&job, "one", 1);
    one.settle(&world.bill());
    let (essence, summary) = (one.essence(), one.summary());
    assert_eq!(essence.batches["active"].len(), 3, "the seed images and two rounds");
    // Two rounds, each with 30 of the 150 seed images kept back from both twins.
    assert_eq!(one.count("/comparison/images"), 60);
    assert_eq!(one.count("/active/rounds/1/drawn"), 15);
    assert_eq!(one.events_called("compared"), 4);
    // What is deployed is a plain network, and the disagreement of its branches chose.
    let plain = undisturbed().outcome.summary();
    assert_eq!(summary["student"]["parameters"], plain["student"]["parameters"]);
    assert_ne!(essence.batches["active"][1], undisturbed().essence.batches["active"][1]);
    // The test's teacher knows no digits, but its answers can be learnt: a uniform guess would lose 2.3.
    let loss = summary["active"]["rounds"][2]["loss"].as_f64().unwrap();
    assert!(loss < 1.8, "it learns: {loss}");

    assert_eq!(world.finish(&job, "three", 3).essence(), essence, "three workers");

    // While it trains, while it scores a sample, and while it trains a twin.
    let moments = [
        ("asked", "active-000"),
        ("trained", "active-000"),
        ("trained", "active-001"),
    ];
    world.kill_at(&moments, &job, "killed");
    assert_eq!(world.finish(&job, "killed", 2).essence(), essence, "killed three times");
}
