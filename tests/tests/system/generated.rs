//! Images of a conditional VAE as candidates: made once, scored, asked, kept and trained on like any other.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use stillhouse_core::Acquisition;
use stillhouse_core::job::{BetaMixupSpec, Control, CvaeSpec, JobSpec, MixupSpec, PoolSource, Recipe, TrainingSpec};
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Running, stillhouse};

use crate::gateways::Cluster;
use crate::world::{World, alone};

/// Two rounds of 60 from 150 digits.
fn two_rounds(url: &str) -> JobSpec {
    let mut job = jobs::three_rounds(url);
    job.spec.control = Control::None;
    job.spec.budget.queries = 290;
    job
}

/// Pairs and generated images in one pool; the least confident of both are asked.
fn competing(url: &str) -> JobSpec {
    let mut job = two_rounds(url);
    let cvae = CvaeSpec {
        images: Some(600),
        epochs: Some(20),
        batch: Some(32),
        ..CvaeSpec::default()
    };
    job.spec.pool = vec![PoolSource::Mixup(MixupSpec::default()), PoolSource::Cvae(cvae)];
    job
}

/// FS-BBT as its preset has it, with fewer passes.
fn one_shot(url: &str) -> JobSpec {
    let mut job = two_rounds(url);
    let cvae = CvaeSpec {
        epochs: Some(20),
        ..CvaeSpec::default()
    };
    job.spec.pool = vec![PoolSource::BetaMixup(BetaMixupSpec::default()), PoolSource::Cvae(cvae)];
    job.spec.acquisition.score = Acquisition::Random;
    job.spec.training = TrainingSpec {
        epochs: 10,
        ..Recipe::FsBbt.training()
    };
    job
}

/// Rows of `labels.safetensors` by kind.
fn kinds(outcome: &Outcome) -> BTreeMap<u8, usize> {
    let bytes = std::fs::read(outcome.file("labels.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut kinds = BTreeMap::new();
    for kind in file.tensor("kind").unwrap().data() {
        *kinds.entry(*kind).or_default() += 1;
    }
    kinds
}

/// The books of `dir` are checked by whoever has nothing but the directory.
fn verify(dir: &Path) -> String {
    let mut command = stillhouse();
    command.args(["ledger", "verify"]).arg(dir);
    Running::start(command).wait().succeeded().stdout
}

#[test]
fn generated_images_compete_with_pairs_alike_on_one_worker_on_three_and_after_kill_9() {
    let _alone = alone();
    let world = World::new();
    let job = competing(&world.url());
    let one = world.finish(&job, "one", 1);
    one.settle(&world.bill());
    let essence = one.essence();
    assert_eq!(one.events_called("generated"), 1);
    assert_eq!(one.count("/pool/generated"), 600);
    let kinds = kinds(&one);
    assert_eq!((kinds[&0], kinds[&2]), (150, 20));
    assert_eq!(kinds[&1] + kinds[&3], 120);
    assert!(kinds[&3] > 0, "generated images were asked: {kinds:?}");
    verify(&one.file(""));

    assert_eq!(world.finish(&job, "three", 3).essence(), essence, "three workers");

    // While images are generated, when they just were, and while the pool is scored with them.
    let kill = |is_time: &dyn Fn(&Outcome) -> bool| {
        let (mut running, outcome) = world.start(&job, "killed", 2);
        assert!(running.lives_until(|| is_time(&outcome)), "it ended too early");
        running.kill_everything();
    };
    kill(&|outcome| outcome.has_event("asked", "active-000"));
    kill(&|outcome| outcome.events_called("generated") > 0);
    kill(&|outcome| outcome.has_event("trained", "active-000"));
    let killed = world.finish(&job, "killed", 2);
    assert_eq!(killed.essence(), essence, "killed three times");
}

#[test]
fn one_shot_mixup_buys_what_it_drew_and_every_generated_image_through_gateways_of_other_processes_too() {
    let _alone = alone();
    let world = World::new();
    let here = world.finish(&one_shot(&world.url()), "here", 2);
    here.settle(&world.bill());
    let generated = here.count("/pool/generated") as usize;
    let kinds = kinds(&here);
    assert!((5..30).contains(&generated), "a ninth of 120 is dropped: {generated}");
    assert_eq!((kinds[&1], kinds[&3]), (120 - generated, generated));
    verify(&here.file(""));

    let Some(cluster) = Cluster::of(one_shot) else { return };
    let (running, there) = cluster.start();
    let _ = running.wait().succeeded();
    there.settle(&cluster.world.bill());
    assert_eq!(there.essence(), here.essence());
}

#[test]
fn a_job_whose_generated_images_were_altered_is_not_gone_on_with() {
    let _alone = alone();
    let world = World::new();
    let job = competing(&world.url());
    let (mut running, outcome) = world.start(&job, "job", 1);
    assert!(running.lives_until(|| outcome.events_called("generated") > 0));
    running.kill_everything();
    let file = outcome.file("generated.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let billed = world.bill().len();
    let (running, _) = world.start(&job, "job", 1);
    let complaint = running.wait().refused(6);
    assert!(
        complaint
            .error
            .contains("generated.safetensors is not what this job generated"),
        "{complaint:?}"
    );
    assert_eq!(world.bill().len(), billed);
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    world.finish(&job, "job", 1).settle(&world.bill());
}
