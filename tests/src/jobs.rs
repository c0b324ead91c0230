//! Small job files on the UCI digits that lie in `examples/data/digits`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;
use stillhouse_core::ImageShape;
use stillhouse_core::job::{JobSpec, QueueSpec};

use crate::teacher::MODEL;

/// Shape of the digits.
pub const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};

/// Number of classes of the test teacher.
pub const CLASSES: usize = 10;

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("this package lies in the root").to_owned()
}

/// A file of the digits, for example `train-images-idx3-ubyte.gz`.
#[must_use]
pub fn digits(file: &str) -> PathBuf {
    root().join("examples/data/digits").join(file)
}

/// A TorchScript student for [`SHAPE`] and ten classes, with the script that makes it beside it.
#[must_use]
pub fn small_module() -> PathBuf {
    root().join("crates/student/tests/data/small.pt")
}

/// Three rounds of 60 queries for each of two students, from 150 digits: 530 queries.
///
/// # Panics
/// Never: the job is a constant.
#[must_use]
pub fn three_rounds(url: &str) -> JobSpec {
    let job = json!({
        "apiVersion": "stillhouse.dev/v1alpha1",
        "kind": "DistillJob",
        "metadata": { "name": "small-digits" },
        "spec": {
            "images": { "source": "idx", "path": digits("train-images-idx3-ubyte.gz"), "take": 150 },
            "teacher": { "protocol": "open-inference", "url": url, "model": MODEL, "batch": 16, "concurrency": 2 },
            "student": { "architecture": "lenet5" },
            "budget": { "queries": 530, "perRound": 60 },
            "control": "random",
            "training": { "epochs": 20, "batch": 16, "learningRate": 0.05, "schedule": "cosine", "warmupSteps": 20 },
            "workers": { "min": 1, "max": 3 },
            "evaluation": {
                "images": digits("test-images-idx3-ubyte.gz"),
                "labels": digits("test-labels-idx1-ubyte.gz"),
                "agreementQueries": 20,
                "everyEpochs": 10,
            },
        },
    });
    serde_json::from_value(job).expect("a job as the specification has it")
}

/// One round of 10 queries from 30 digits: 40 queries, a second of work.
#[must_use]
pub fn one_round(url: &str) -> JobSpec {
    let mut job = three_rounds(url);
    let spec = &mut job.spec;
    spec.images.take = Some(30);
    spec.budget.queries = 40;
    spec.budget.per_round = 10;
    spec.control = stillhouse_core::job::Control::None;
    spec.training.epochs = 12;
    spec.training.batch = 8;
    spec.evaluation = None;
    job
}

/// The queue of a Redis at this address.
///
/// # Panics
/// Never: it is an address.
#[must_use]
pub fn queue_at(redis: SocketAddr) -> QueueSpec {
    serde_json::from_value(format!("redis://{redis}").into()).expect("an address")
}

/// Writes `job` into `folder` and returns the file. JSON is YAML.
///
/// # Panics
/// When the folder cannot be written to.
#[must_use]
pub fn write(folder: &Path, job: &JobSpec) -> PathBuf {
    write_text(folder, &text(job))
}

/// The text of a job file.
///
/// # Panics
/// Never: a job has only text keys.
#[must_use]
pub fn text(job: &JobSpec) -> String {
    serde_json::to_string_pretty(job).expect("a job has only text keys")
}

/// Writes the text of a job file into `folder` and returns the file.
///
/// # Panics
/// When the folder cannot be written to.
#[must_use]
pub fn write_text(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("job.yaml");
    std::fs::write(&path, text).expect("the test's folder can be written to");
    path
}
