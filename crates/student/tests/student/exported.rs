//! Exported students give the same answers, here and in Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use stillhouse_core::job::Architecture;
use stillhouse_student::export::torchscript;
use stillhouse_student::train::Trained;
use stillhouse_student::{Frozen, Mode, Network, NetworkSpec};
use tch::{CModule, Tensor};

use crate::world::{Noise, alone, config, inputs, small_script, training, zoo};

fn trained(spec: &NetworkSpec) -> Network {
    let noise = Noise::new(32, spec.shape());
    let config = config(1);
    let Trained { network, .. } = alone(&training(spec, noise.set(), &config, 1)).unwrap();
    network
}

fn specs() -> Vec<(&'static str, NetworkSpec)> {
    vec![
        ("lenet5", zoo(Architecture::Lenet5, 1, 28)),
        ("alexnet-half", zoo(Architecture::AlexnetHalf, 3, 32)),
        ("resnet20", zoo(Architecture::Resnet20, 3, 32)),
        ("small", small_script()),
    ]
}

#[test]
fn torchscript_gives_the_same_logits_for_any_batch_size() {
    for (name, spec) in specs() {
        let network = trained(&spec);
        let bytes = torchscript(&network).unwrap();
        let module = CModule::load_data(&mut bytes.as_slice()).unwrap();
        for images in [1, 2, 7] {
            let x = inputs(network.spec(), images);
            let want = network.forward(&x, Mode::Eval).unwrap();
            let found = module.forward_ts(&[x]).unwrap();
            assert_eq!(found.size(), [images, 10], "{name}");
            let difference = (found - want).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{name} of {images}: {difference}");
        }
    }
}

#[test]
fn a_frozen_student_gives_the_same_logits() {
    for (name, spec) in specs() {
        let network = trained(&spec);
        let frozen = Frozen::new(&network).unwrap();
        for images in [1, 9] {
            let x = inputs(network.spec(), images);
            // The executor specialises a module in its first runs.
            for _ in 0..3 {
                let found = frozen.forward(&x).unwrap();
                let difference = (found - network.forward(&x, Mode::Eval).unwrap())
                    .abs()
                    .max()
                    .double_value(&[]);
                assert!(difference < 1e-5, "{name} of {images}: {difference}");
            }
        }
    }
}

/// Writes what `check_export.py` reads.
fn write_case(folder: &Path, name: &str, network: &Network) {
    let x = inputs(network.spec(), 5);
    let y = network.forward(&x, Mode::Eval).unwrap();
    let bytes = |tensor: &Tensor| -> Vec<u8> {
        let values: Vec<f32> = Vec::try_from(tensor.flatten(0, -1)).unwrap();
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    let write = |suffix: &str, bytes: &[u8]| std::fs::write(folder.join(format!("{name}.{suffix}")), bytes).unwrap();
    write("pt", &torchscript(network).unwrap());
    write("safetensors", &network.weights().unwrap());
    write("x", &bytes(&x));
    write("y", &bytes(&y));
    write("json", serde_json::to_string(&x.size()).unwrap().as_bytes());
}

/// Python with the torch that `scripts/libtorch.sh python` installs, if it is there.
fn python() -> Option<Command> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.libtorch"));
    let join = |parts: &[PathBuf]| std::env::join_paths(parts).unwrap();
    let libraries: Vec<PathBuf> = std::fs::read_dir(root.join("python/nvidia"))
        .map(|entries| entries.flatten().map(|entry| entry.path().join("lib")).collect())
        .unwrap_or_default();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", join(&[root.join("site"), root.join("python")]));
    python.env("LD_LIBRARY_PATH", join(&libraries));
    let mut probe = Command::new("python3");
    probe
        .args(["-c", "import torch"])
        .envs(python.get_envs().filter_map(|(key, value)| Some((key, value?))));
    probe
        .output()
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

#[test]
fn pytorch_gives_the_same_logits() {
    let Some(mut python) = python() else {
        println!("skipped: torch for Python cannot be imported (scripts/libtorch.sh python installs it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, spec) in specs() {
        write_case(folder.path(), name, &trained(&spec));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/check_export.py");
    let output = python.arg(script).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 4 * 2 + 2, "{text}");
    for line in text.lines() {
        let difference: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(difference < 1e-5, "{line}");
    }
}
