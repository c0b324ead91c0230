//! Students leave as TorchScript that Python runs, and enter as TorchScript that a user made.

use std::path::PathBuf;
use std::process::Command;

use stillhouse_tests::jobs;

use crate::world::{World, alone, skipped, undisturbed};

/// Python with the torch that `scripts/libtorch.sh python` installs, if it can be imported.
fn python() -> Option<Command> {
    let torch = jobs::root().join(".libtorch");
    let join = |parts: &[PathBuf]| std::env::join_paths(parts).unwrap();
    let folders = std::fs::read_dir(torch.join("python/nvidia"))
        .into_iter()
        .flatten()
        .flatten();
    let libraries: Vec<PathBuf> = folders.map(|folder| folder.path().join("lib")).collect();
    let command = || {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", join(&[torch.join("site"), torch.join("python")]));
        python.env("LD_LIBRARY_PATH", join(&libraries));
        python
    };
    let probe = command().args(["-c", "import torch"]).output();
    probe.is_ok_and(|output| output.status.success()).then(command)
}

#[test]
fn pytorch_loads_the_student_and_agrees_with_its_weights_to_1e_5() {
    let Some(mut python) = python() else {
        return skipped("torch for Python cannot be imported (make python-torch installs it)");
    };
    let _alone = alone();
    let outcome = &undisturbed().outcome;
    let script = jobs::root().join("tests/python/check_torchscript.py");
    let output = python.arg(script).arg(outcome.file("")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Student and control, batches of 1 and of 7.
    assert_eq!(text.lines().count(), 4, "{text}");
    for line in text.lines() {
        let difference: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(difference < 1e-5, "{line}");
    }
}

/// A convolution, batch norm, dropout and a linear layer; `make_small.py` beside it makes it.
#[test]
fn a_users_own_torchscript_student_trains_alike_on_one_worker_and_on_two() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    job.spec.student.architecture = None;
    job.spec.student.torchscript = Some(jobs::small_module());
    let one = world.finish(&job, "one", 1);
    let summary = one.summary();
    assert_eq!(summary["student"]["architecture"], "small.pt");
    assert!(one.file("student.pt").is_file());
    one.settle(&world.bill());
    assert_eq!(world.finish(&job, "two", 2).essence(), one.essence());
}
