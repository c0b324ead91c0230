//! Images, checkpoints and results in a store that speaks S3: a real server, which checks signatures.

use std::path::Path;
use std::process::Command;

use stillhouse_core::job::{EvaluationSpec, ImageFormat, JobSpec, ResultsSpec};
use stillhouse_tests::jobs::{self, digits};
use stillhouse_tests::object_store::{BUCKET, ObjectStore, program};
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Finished, Running, run_job};

use crate::elastic::{checkpoints_named, long_trainings};
use crate::same;
use crate::world::{World, alone, skipped};

const TRAIN: &str = "train-images-idx3-ubyte.gz";
const TEST: &str = "test-images-idx3-ubyte.gz";
const LABELS: &str = "test-labels-idx1-ubyte.gz";

/// A teacher and a store, with the digits in it.
struct Lab {
    world: World,
    store: ObjectStore,
}

impl Lab {
    fn new() -> Option<Self> {
        let Some(program) = program() else {
            skipped("there is no object store: scripts/object-store.sh builds one");
            return None;
        };
        let world = World::new();
        let store = ObjectStore::start(&program, &world.path().join("store")).unwrap();
        for file in [TRAIN, TEST, LABELS] {
            store.put(&format!("digits/{file}"), &digits(file)).unwrap();
        }
        Some(Self { world, store })
    }

    /// [`jobs::one_round`] with everything in the store.
    fn job(&self) -> JobSpec {
        let mut job = jobs::one_round(&self.world.url());
        job.spec.images.path = address(&format!("digits/{TRAIN}")).into();
        job.spec.evaluation = Some(EvaluationSpec {
            images: address(&format!("digits/{TEST}")).into(),
            labels: Some(address(&format!("digits/{LABELS}")).into()),
            agreement_queries: 0,
            every_epochs: 10,
        });
        job.spec.results = Some(ResultsSpec {
            url: address("results/"),
        });
        job
    }

    fn start(&self, job: &JobSpec, name: &str) -> (Running, Outcome) {
        let dir = self.world.path().join(name);
        let mut command = run_job(&jobs::write(self.world.path(), job), &dir, 2);
        command.envs(self.store.variables());
        (Running::start(command), Outcome::of(&dir))
    }

    fn run(&self, job: &JobSpec, name: &str) -> (Finished, Outcome) {
        let (running, outcome) = self.start(job, name);
        (running.wait(), outcome)
    }

    /// The folder of the one job whose results were copied.
    fn results(&self) -> std::path::PathBuf {
        let mut found = std::fs::read_dir(self.store.file("results")).unwrap();
        let only = found.next().expect("results").unwrap().path();
        assert!(found.next().is_none(), "one job, one folder");
        only
    }
}

fn address(key: &str) -> String {
    format!("s3://{BUCKET}/{key}")
}

/// The one error and its hint.
fn words(finished: &Finished, code: i32) -> String {
    let complaint = finished.refused(code);
    format!("{} hint: {}", complaint.error, complaint.hint.unwrap_or_default())
}

fn same_bytes(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    assert!(a == b);
}

#[test]
fn a_job_with_its_images_in_a_store_is_the_same_job_and_its_results_are_copied_there() {
    let _alone = alone();
    let Some(lab) = Lab::new() else { return };
    let mut job = lab.job();
    let (finished, outcome) = lab.run(&job, "remote");
    let said = finished.succeeded().stdout;
    assert!(
        said.contains("copied ") && said.contains("s3://lab/results/small-digits-"),
        "{said}"
    );
    let results = lab.results();
    for name in [
        "student.pt",
        "student.safetensors",
        "labels.safetensors",
        "summary.json",
        "report.html",
    ] {
        same_bytes(&results.join(name), &outcome.file(name));
    }
    assert!(!results.join("token").exists() && results.join("manifest.json").is_file());
    let billed = lab.world.bill().len();
    // Nothing is left to do, and nothing is asked again.
    assert!(lab.run(&job, "remote").0.succeeded().stdout.contains("copied "));
    assert_eq!(lab.world.bill().len(), billed);

    let evaluation = job.spec.evaluation.as_mut().unwrap();
    (evaluation.images, evaluation.labels) = (digits(TEST), Some(digits(LABELS)));
    job.spec.images.path = digits(TRAIN);
    job.spec.results = None;
    assert_eq!(lab.run(&job, "local").1.essence(), outcome.essence());

    // A folder of pictures below a prefix, with what is none of them.
    let (folder, pixels) = (lab.world.path().join("pictures"), same::pixels());
    let names = same::write_folder(&folder, &pixels);
    for name in &names {
        lab.store
            .put(&format!("pictures/{}", name.display()), &folder.join(name))
            .unwrap();
    }
    lab.store.put("pictures/notes.txt", &digits(LABELS)).unwrap();
    lab.store.put("pictures/.cache/a.png", &digits(LABELS)).unwrap();
    job.spec.images.source = ImageFormat::Folder;
    job.spec.evaluation = None;
    let paths = [address("pictures"), folder.to_str().unwrap().to_owned()];
    let [remote, local] = [0, 1].map(|at| {
        job.spec.images.path = paths[at].clone().into();
        lab.run(&job, &format!("folder-{at}")).1.essence()
    });
    assert_eq!(remote, local);
}

#[test]
fn a_job_killed_in_a_training_goes_on_from_its_checkpoint_in_a_store() {
    let _alone = alone();
    let Some(mut lab) = Lab::new() else { return };
    let mut job = long_trainings(&lab.world.url());
    let (finished, calm) = lab.run(&job, "calm");
    let _ = finished.succeeded();

    job.spec.checkpoints.url = Some(address("checkpoints"));
    // Asked again by the same teacher: each of the two has its own ledger, and the bill knows both.
    let (mut running, outcome) = lab.start(&job, "killed");
    let folder = || std::fs::read_dir(lab.store.file("checkpoints")).ok()?.next()?.ok();
    let is_named = || folder().is_some_and(|own| checkpoints_named(&own.path()) > 0);
    assert!(running.lives_until(is_named), "it ended before its first checkpoint");
    running.kill_everything();
    // The store dies as well, and comes back.
    lab.store.kill();
    lab.store.revive();
    let _ = lab.run(&job, "killed").0.succeeded();
    let events = outcome.events();
    let found = events.iter().find(|event| event["event"] == "checkpoint-found");
    assert!(found.expect("it began the training anew")["step"].as_u64().unwrap() > 1);
    assert_eq!(outcome.essence(), calm.essence());
    let own = std::fs::read_dir(lab.store.file("checkpoints"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(
        checkpoints_named(&own),
        0,
        "checkpoints of trainings that are done stay behind"
    );
}

#[test]
fn a_store_that_says_no_or_nothing_costs_one_clear_error_and_no_query() {
    let _alone = alone();
    let Some(mut lab) = Lab::new() else { return };
    let complaint = |lab: &Lab, job: &JobSpec, code, change: &dyn Fn(&mut Command)| {
        let mut command = run_job(&jobs::write(lab.world.path(), job), &lab.world.path().join("job"), 1);
        command.envs(lab.store.variables());
        change(&mut command);
        words(&Running::start(command).wait(), code)
    };
    let mut absent = lab.job();
    absent.spec.images.path = address("digits/no-such.gz").into();
    let said = complaint(&lab, &absent, 3, &|_| {});
    assert!(
        said.contains("s3://lab/digits/no-such.gz") && said.contains("check the address"),
        "{said}"
    );
    let said = complaint(&lab, &lab.job(), 3, &|command| {
        command.env("AWS_SECRET_ACCESS_KEY", "another-secret");
    });
    assert!(
        said.contains("AWS_SECRET_ACCESS_KEY") && !said.contains("another-secret"),
        "{said}"
    );
    absent.spec.images.source = ImageFormat::Folder;
    absent.spec.images.path = address("nothing").into();
    let said = complaint(&lab, &absent, 3, &|_| {});
    assert!(said.contains("s3://lab/nothing"), "{said}");
    // What is there and makes no sense is named by its address.
    absent.spec.images.source = ImageFormat::Idx;
    absent.spec.images.path = address(&format!("digits/{LABELS}")).into();
    let said = complaint(&lab, &absent, 3, &|_| {});
    assert!(
        said.contains(&format!("s3://lab/digits/{LABELS}, as it was fetched")),
        "{said}"
    );

    // What is away may come back: another exit code, which a cluster tries again.
    lab.store.kill();
    let said = complaint(&lab, &lab.job(), 7, &|_| {});
    assert!(said.contains("cannot read s3://lab/digits/"), "{said}");
    lab.store.revive();
    assert!(lab.world.bill().is_empty());

    // It is away when the results are to be copied: the job is done, and the same command does the rest.
    let job = lab.job();
    let (mut running, outcome) = lab.start(&job, "job");
    assert!(running.lives_until(|| outcome.has_event("asked", "active-001")));
    lab.store.kill();
    let said = words(&running.wait(), 7);
    assert!(
        said.contains("the job is done") && said.contains("run the same command again"),
        "{said}"
    );
    lab.store.revive();
    let billed = lab.world.bill();
    assert!(lab.run(&job, "job").0.succeeded().stdout.contains("copied "));
    same_bytes(&lab.results().join("student.pt"), &outcome.file("student.pt"));
    assert_eq!(lab.world.bill(), billed);
}
