//! Rules of this repository, as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{Dependency, DependencyKind, Metadata, MetadataCommand};
use stillhouse_core::Job;
use stillhouse_tests::jobs::root;
use stillhouse_tests::processes::{Running, stillhouse};

/// Which of our crates each may depend on. Everything points towards `core`.
const EDGES: [(&str, &[&str]); 15] = [
    ("core", &[]),
    ("protocol", &["core"]),
    ("ledger", &["core", "metrics"]),
    ("queue", &["core"]),
    ("teacher", &["core", "metrics", "trace"]),
    ("data", &["core"]),
    ("collective", &["core", "nccl-rs"]),
    ("nccl-rs", &[]),
    ("metrics", &[]),
    ("trace", &["core"]),
    ("student", &["core", "collective", "nccl-rs"]),
    ("runtime", &[]),
    ("operator", &["core", "metrics", "runtime"]),
    (
        "stillhouse",
        &[
            "core", "protocol", "ledger", "queue", "teacher", "data", "runtime", "metrics", "operator", "trace",
        ],
    ),
    (
        "worker",
        &[
            "core",
            "protocol",
            "collective",
            "data",
            "student",
            "teacher",
            "runtime",
            "trace",
            "nccl-rs",
            "metrics",
        ],
    ),
];

/// Crates that do no input or output.
const PURE: [&str; 2] = ["core", "protocol"];
/// What would let them. `rand` is none of it: without the entropy of `getrandom` it is distributions over a generator that
/// one brings.
const IMPURE: [&str; 14] = [
    "tokio",
    "mio",
    "socket2",
    "reqwest",
    "hyper",
    "axum",
    "getrandom",
    "fs4",
    "tempfile",
    "tracing-subscriber",
    "prometheus",
    "rayon",
    "tch",
    "torch-sys",
];

/// The only files in which unsafe code is allowed: the edges to foreign functions, and to memory of two processes.
const UNSAFE: [&str; 4] = [
    "crates/collective/src/ring/memory.rs",
    "crates/nccl-rs/src/ffi.rs",
    "crates/runtime/src/ffi.rs",
    "crates/student/src/ffi.rs",
];

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps();
    command.exec().unwrap()
}

/// Name of a crate of ours without the prefix, which the command line and what is of use on its own
/// do without; `None` for a foreign one.
fn ours(name: &str) -> Option<&str> {
    name.strip_prefix("stillhouse-")
        .or_else(|| ["stillhouse", "nccl-rs"].contains(&name).then_some(name))
}

/// Our crates, without tests and benchmarks, and the crates of ours that each depends on.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let crates = root().join("crates");
    let metadata = metadata();
    let own = metadata
        .packages
        .iter()
        .filter(|package| package.manifest_path.as_std_path().starts_with(&crates));
    let edges = own.map(|package| {
        // Tests may use the test teacher; nothing that is shipped does.
        let shipped = |of: &&Dependency| of.kind != DependencyKind::Development || of.name != "stillhouse-tests";
        let needs = package
            .dependencies
            .iter()
            .filter(shipped)
            .filter_map(|of| ours(&of.name))
            .map(str::to_owned);
        (
            ours(&package.name).expect("our crates have our prefix").to_owned(),
            needs.collect(),
        )
    });
    edges.collect()
}

#[test]
fn crates_depend_on_each_other_only_where_the_list_allows_it() {
    let edges = edges();
    let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        edges.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        known,
        "a crate without a rule"
    );
    for (name, allowed) in EDGES {
        let beyond: Vec<_> = edges[name]
            .iter()
            .filter(|need| !allowed.contains(&need.as_str()))
            .collect();
        assert!(beyond.is_empty(), "{name} may not depend on {beyond:?}");
    }
}

/// Everything that is compiled into a crate.
fn tree(name: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root())
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"]);
    let output = cargo
        .args(["--package", &format!("stillhouse-{name}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn core_and_protocol_are_made_of_nothing_that_does_input_or_output() {
    for name in PURE {
        let tree = tree(name);
        assert!(tree.contains("serde"), "{tree:?}");
        let impure: Vec<_> = IMPURE.iter().filter(|impure| tree.contains(**impure)).collect();
        assert!(impure.is_empty(), "{name} is made of {impure:?}");
    }
}

#[test]
fn core_and_protocol_ban_clock_threads_files_and_sockets() {
    for name in PURE {
        let text = std::fs::read_to_string(root().join(format!("crates/{name}/clippy.toml"))).unwrap();
        for banned in [
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "std::thread::spawn",
            "std::fs::File",
            "std::net::TcpStream",
        ] {
            assert!(text.contains(&format!("\"{banned}\"")), "{name} does not ban {banned}");
        }
        for (file, text) in sources(&root().join("crates").join(name).join("src")) {
            for banned in [
                "std::fs",
                "std::thread",
                "Instant::now",
                "SystemTime::now",
                "std::env::var",
                "std::process",
            ] {
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                assert!(
                    code.clone().all(|line| !line.contains(banned)),
                    "{}: {banned}",
                    file.display()
                );
            }
        }
    }
}

/// Every Rust file below `folder`, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

#[test]
fn unsafe_code_stays_in_the_files_that_call_foreign_functions() {
    let folders = ["crates", "tests", "benchmarks"];
    let files = folders.iter().flat_map(|folder| sources(&root().join(folder)));
    let allow = concat!("allow(", "unsafe_code)");
    let expect = concat!("expect(", "unsafe_code)");
    let found = files.filter(|(_, text)| text.contains(allow) || text.contains(expect));
    let found: BTreeSet<PathBuf> = found
        .map(|(path, _)| path.strip_prefix(root()).unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        UNSAFE.iter().map(PathBuf::from).collect(),
        "files with unsafe code"
    );
}

#[test]
fn every_crate_stands_in_the_list_of_crates() {
    let list = std::fs::read_to_string(root().join("crates/README.md")).unwrap();
    for name in edges().keys() {
        assert!(
            list.contains(&format!("[`{name}`]({name})")),
            "{name} is missing in crates/README.md"
        );
    }
}

#[test]
fn every_example_is_a_valid_job() {
    let entries = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let jobs: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(jobs.len() >= 2, "{jobs:?}");
    let deployed = ["deploy/compose/job.yaml", "deploy/kind/job.yaml"].map(|path| root().join(path));
    for path in jobs.into_iter().chain(deployed) {
        let job = Job::parse(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut validate = stillhouse();
        validate.arg("validate").arg(&path);
        let finished = Running::start(validate).wait();
        let images = path.parent().unwrap().join(&job.spec.images.path);
        if images.exists() {
            let _ = finished.succeeded();
        } else {
            // Data that the repository does not hold is all that may be missing.
            let complaint = finished.refused(3);
            assert!(complaint.error.contains(&*images.to_string_lossy()), "{complaint:?}");
        }
    }
}

#[test]
fn two_commands_set_everything_up_and_the_readme_begins_with_them() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let begin = readme
        .lines()
        .position(|line| line.starts_with("```"))
        .expect("a block of commands");
    assert!(begin < 60, "the first block of commands begins at line {begin}");
    let block = readme
        .lines()
        .skip(begin + 1)
        .take_while(|line| !line.starts_with("```"));
    let commands: Vec<&str> = block
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(commands, ["make demo", "make test"]);
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    assert!(
        commands
            .iter()
            .all(|command| makefile.contains(&format!("\n{}:", command.trim_start_matches("make "))))
    );
}

#[test]
fn continuous_integration_runs_the_tests_of_the_readme() {
    let run = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let commands = run.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    assert!(commands.clone().any(|line| line.ends_with("make test")), "{run}");
}
