//! The published methods and our own on real digits, against a real teacher that was trained for them: what each gets out of
//! 800 queries. Floors lie some points below what they have; a method that is broken falls through.

use std::process::Command;

use stillhouse_tests::jobs::{digits, write_text};
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, program, run_job};

use crate::world::alone;

/// Side of the images: LeNet-5 needs more than the 8 pixels that the digits have.
const SIDE: u32 = 16;
/// Points that the queries after the seed images must be worth.
const GAIN: f64 = 3.0;

/// A name, the lines of the spec that make the method, queries a round, and the accuracy in percent that it must have.
const METHODS: [(&str, &str, u32, f64); 4] = [
    (
        "active-mixup",
        "preset: active-mixup\n  training: { epochs: 60, batch: 32, learningRate: 0.02, warmupSteps: 50 }",
        300,
        90.0,
    ),
    ("fs-bbt", "preset: fs-bbt", 600, 86.0),
    (
        "one",
        "preset: one\n  training: { epochs: 60, batch: 32, learningRate: 0.02, warmupSteps: 50, augmentation: none }",
        300,
        92.0,
    ),
    (
        "auto",
        "preset: auto\n  acquisition: { sample: 4000 }\n  training: { epochs: 30, batch: 32, minSteps: 0, warmupSteps: 50 }",
        300,
        91.0,
    ),
];

fn worker_program(part: &str) -> Command {
    let mut command = Command::new(program("stillhouse-worker"));
    command.args(["teacher", part]);
    command
}

fn job(strategy: &str, per_round: u32, url: &str) -> String {
    let [images, test_images, test_labels] = [
        "train-images-idx3-ubyte.gz",
        "test-images-idx3-ubyte.gz",
        "test-labels-idx1-ubyte.gz",
    ]
    .map(|file| serde_json::to_string(&digits(file)).unwrap());
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: digits }}
spec:
  images:     {{ source: idx, path: {images}, take: 200, size: {{ height: {SIDE}, width: {SIDE} }} }}
  teacher:    {{ protocol: open-inference, url: "{url}", model: digits }}
  student:    {{ architecture: lenet5 }}
  {strategy}
  budget:     {{ queries: 800, perRound: {per_round} }}
  evaluation: {{ images: {test_images}, labels: {test_labels}, everyEpochs: 1000 }}
"#
    )
}

/// Test accuracy in percent after every round.
fn accuracies(outcome: &Outcome) -> Vec<f64> {
    let summary = outcome.summary();
    let rounds = summary["active"]["rounds"].as_array().unwrap();
    let accuracy = |round: &serde_json::Value| 100.0 * round["accuracy"]["last"].as_f64().unwrap();
    rounds.iter().map(accuracy).collect()
}

#[test]
fn every_method_learns_real_digits_from_eight_hundred_queries() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (weights, bill) = (folder.path().join("teacher.safetensors"), folder.path().join("bill"));
    let mut command = worker_program("train");
    command.arg("--images").arg(digits("train-images-idx3-ubyte.gz"));
    command.arg("--labels").arg(digits("train-labels-idx1-ubyte.gz"));
    command.args(["--size", &format!("{SIDE}x{SIDE}"), "--architecture", "lenet5"]);
    command.args(["--batch", "32", "--epochs", "40", "--out"]).arg(&weights);
    let _ = Running::start(command).wait().succeeded();
    let address = free_address();
    let mut command = worker_program("serve");
    command.args(["--name", "digits", "--listen", &address.to_string()]);
    command.arg("--model").arg(&weights).arg("--bill").arg(&bill);
    let _teacher = Running::start(command);

    for (name, strategy, per_round, floor) in METHODS {
        let file = write_text(folder.path(), &job(strategy, per_round, &format!("http://{address}")));
        let dir = folder.path().join(name);
        let _ = Running::start(run_job(&file, &dir, 2)).wait().succeeded();
        let found = accuracies(&Outcome::of(&dir));
        println!("{name}: {found:.1?} %");
        let (first, last) = (found[0], *found.last().unwrap());
        assert!(last >= floor, "{name}: expected at least {floor} %, found {found:.1?}");
        assert!(
            last >= first + GAIN,
            "{name}: expected its queries to be worth {GAIN} points, found {found:.1?}"
        );
    }
    let billed = std::fs::read_to_string(&bill).unwrap().lines().count();
    assert_eq!(billed, 4 * 800);
}
