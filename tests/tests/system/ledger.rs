//! The books of a job: shown, checked, compared with the teacher's own bill, carried to the next job.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::Value;
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs::{self, CLASSES, SHAPE};
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::processes::{Complaint, Finished, Running, run_job, stillhouse};
use stillhouse_tests::teacher::{Fault, TestTeacher};

use crate::world::{World, alone};

const USAGE: i32 = 2;
const TEACHER: i32 = 4;
const BUDGET: i32 = 5;
const DIRECTORY: i32 = 6;
const STORAGE: i32 = 7;
const INTERRUPTED: i32 = 130;

/// `stillhouse` with these words.
fn asked<const N: usize>(words: [&str; N]) -> Finished {
    let mut command = stillhouse();
    command.args(words);
    Running::start(command).wait()
}

/// What `stillhouse ledger` says.
fn said<const N: usize>(words: [&str; N]) -> String {
    let mut command = stillhouse();
    command.arg("ledger").args(words);
    Running::start(command).wait().succeeded().stdout
}

/// `ledger show --json`.
fn books(dir: &str) -> Value {
    serde_json::from_str(&said(["show", dir, "--json"])).expect("JSON")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// How often each image stands on the bill at most.
fn is_billed_once(bill: &[String]) -> bool {
    bill.iter().collect::<BTreeSet<_>>().len() == bill.len()
}

/// Two rounds of ten queries from 30 digits.
fn two_rounds(url: &str) -> JobSpec {
    let mut job = jobs::one_round(url);
    job.spec.budget.queries = 50;
    job
}

/// The essence of [`two_rounds`] of a job that paid for all itself.
fn paid_alone() -> stillhouse_tests::outcomes::Essence {
    let world = World::new();
    let outcome = world.finish(&two_rounds(&world.url()), "job", 1);
    outcome.settle(&world.bill());
    outcome.essence()
}

#[test]
fn a_second_job_pays_only_for_what_is_new_and_trains_the_same_student() {
    let _alone = alone();
    let world = World::new();
    let first = world.finish(&jobs::one_round(&world.url()), "first", 1);
    assert_eq!(world.bill().len(), 40);
    let mut job = two_rounds(&world.url());
    job.spec.budget.reuse = vec![PathBuf::from("first")];
    let second = world.finish(&job, "second", 1);
    assert_eq!(world.bill().len(), 50, "only the second round was new");
    assert!(is_billed_once(&world.bill()), "a label was bought twice");
    assert_eq!(second.count("/budget/billed/total"), 10);
    assert_eq!(second.count("/budget/reused"), 40);
    assert_eq!(second.count("/budget/left"), 40);
    assert_eq!(first.count("/budget/reused"), 0);
    assert_eq!(second.essence(), paid_alone(), "who paid makes no difference");
    for dir in ["first", "second"] {
        let verdict = said(["verify", text(&world.path().join(dir))]);
        assert!(verdict.contains("no damage"), "{verdict}");
    }
    let shown = books(text(&world.path().join("second")));
    assert_eq!(shown["imported"], 40);
    assert_eq!(shown["charges"]["active"]["committed"], 10);
}

#[test]
fn a_sweep_over_a_folder_of_jobs_pays_for_each_label_once_also_when_a_job_is_killed() {
    let _alone = alone();
    let world = World::new();
    let mut job = two_rounds(&world.url());
    for seed in 0..3 {
        job.spec.training.seed = seed;
        let file = jobs::write(world.path(), &job);
        std::fs::create_dir_all(world.path().join("jobs/empty")).unwrap();
        let dir = world.path().join(format!("jobs/{seed}"));
        let start = || {
            let mut command = run_job(&file, &dir, 1);
            command.arg("--reuse").arg(world.path().join("jobs"));
            Running::start(command)
        };
        let mut running = start();
        let outcome = Outcome::of(&dir);
        if running.lives_until(|| outcome.has_event("trained", "active-001")) {
            running.kill_everything();
        }
        let _ = start().wait().succeeded();
        assert_eq!(outcome.count("/budget/billed/real"), if seed == 0 { 30 } else { 0 });
    }
    let bill = world.bill();
    assert!(is_billed_once(&bill), "a label was bought twice");
    assert!(bill.len() <= 30 + 3 * 20, "{} billed", bill.len());
}

#[test]
fn exported_labels_of_either_format_cost_the_next_job_nothing() {
    let _alone = alone();
    let world = World::new();
    let _ = world.finish(&two_rounds(&world.url()), "first", 1);
    let first = world.path().join("first");
    for file in ["labels.parquet", "labels.safetensors"] {
        let file = world.path().join(file);
        let wrote = said(["export", text(&first), text(&file)]);
        assert!(wrote.contains("50 labels"), "{wrote}");
        let name = file.extension().unwrap().to_str().unwrap();
        let mut job = two_rounds(&world.url());
        job.spec.budget.reuse = vec![PathBuf::from(format!("labels.{name}"))];
        let outcome = world.finish(&job, name, 1);
        assert_eq!(world.bill().len(), 50, "{name}");
        assert_eq!(outcome.count("/budget/reused"), 50);
        assert_eq!(outcome.essence(), Outcome::of(&first).essence());
    }
    exported(&world.path().join("labels.safetensors"), &Outcome::of(&first));
    pyarrow_reads(world.path());
}

/// Checks that a stranger finds in `file` what the documentation says.
fn exported(file: &Path, of: &Outcome) {
    let bytes = std::fs::read(file).unwrap();
    let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = head.metadata().clone().expect("metadata");
    assert_eq!(metadata["stillhouse.job"], "small-digits");
    assert_eq!(
        metadata["stillhouse.fingerprint"],
        of.summary()["teacher"]["fingerprint"]
    );
    assert_eq!(metadata["stillhouse.shape"], SHAPE.to_string());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("keys").unwrap().shape(), [50, 32]);
    assert_eq!(tensors.tensor("probabilities").unwrap().shape(), [50, CLASSES]);
}

/// Both files as pyarrow and the Python package safetensors read them.
fn pyarrow_reads(folder: &Path) {
    let mut python = Command::new(std::env::var_os("STILLHOUSE_PYTHON").unwrap_or_else(|| "python3".into()));
    let probe = python
        .args(["-c", "import pyarrow.parquet, safetensors.numpy"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        // The next job has read both files already.
        return println!("skipped: pyarrow and safetensors for Python cannot be imported");
    }
    let mut python = Command::new(python.get_program());
    let script = jobs::root().join("tests/python/check_export.py");
    let output = python
        .arg(script)
        .arg(folder.join("labels.parquet"))
        .arg(folder.join("labels.safetensors"));
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "50 labels, equal in both"
    );
}

#[test]
fn labels_imported_into_a_job_are_used_when_it_goes_on() {
    let _alone = alone();
    let world = World::new();
    let _ = world.finish(&two_rounds(&world.url()), "rich", 1);
    let mut job = two_rounds(&world.url());
    job.spec.budget.queries = 40;
    let _ = world.finish(&job, "poor", 1);
    assert_eq!(world.bill().len(), 90);
    let (rich, poor) = (world.path().join("rich"), world.path().join("poor"));
    let taken = said(["import", text(&poor), text(&rich)]);
    assert!(taken.contains("10 labels at hand at no cost"), "{taken}");
    let again = said(["import", text(&poor), text(&rich)]);
    assert!(again.contains("nothing new"), "{again}");
    assert_eq!(books(text(&poor))["atHand"], 10);
    job.spec.budget.queries = 50;
    let outcome = world.finish(&job, "poor", 1);
    assert_eq!(world.bill().len(), 90, "the second round was known");
    assert_eq!(outcome.count("/budget/reused"), 10);
    assert_eq!(outcome.count("/budget/left"), 10);
    assert_eq!(outcome.essence(), Outcome::of(&rich).essence());
}

#[test]
fn labels_that_cannot_be_used_are_refused_before_anything_is_spent() {
    let _alone = alone();
    let world = World::new();
    let refused = |reuse: &str, code| -> Complaint {
        let mut job = jobs::one_round(&world.url());
        job.spec.budget.reuse = vec![PathBuf::from(reuse)];
        let complaint = world.start(&job, "job", 1).0.wait().refused(code);
        assert!(world.bill().is_empty(), "something was spent");
        complaint
    };
    let complaint = refused("nowhere", USAGE);
    assert!(complaint.error.contains("nowhere"), "{complaint:?}");
    std::fs::create_dir(world.path().join("jobs")).unwrap();
    let complaint = refused("jobs", USAGE);
    assert!(
        complaint.error.contains("expected a job directory or a folder of them"),
        "{complaint:?}"
    );
    std::fs::write(world.path().join("x.parquet"), "PAR1 or not").unwrap();
    let complaint = refused("x.parquet", USAGE);
    assert!(complaint.error.contains("expected a Parquet file"), "{complaint:?}");
    let other = TestTeacher::start(SHAPE, 7, None).unwrap();
    let _ = world.finish(&jobs::one_round(&other.url()), "jobs/other", 1);
    let complaint = refused("jobs/other", USAGE);
    assert!(
        complaint.error.contains("of another teacher: expected"),
        "{complaint:?}"
    );
    let mut job = jobs::one_round(&world.url());
    job.spec.budget.reuse = vec![PathBuf::from("jobs")];
    let outcome = world.finish(&job, "job", 1);
    assert_eq!(outcome.count("/budget/reused"), 0, "in a folder it is skipped");
    outcome.settle(&world.bill());
}

#[test]
fn verify_finds_damage_in_every_file() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::three_rounds(&world.url());
    job.spec.budget.queries = 170;
    let _ = world.finish(&job, "job", 2);
    let dir = world.path().join("job");
    let verdict = said(["verify", text(&dir)]);
    assert!(
        verdict.contains("170 queries, 170 labels, 170 keys recomputed: no damage"),
        "{verdict}"
    );
    let label = a_label(&Outcome::of(&dir));
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [(&str, Damage<'_>, &str); 6] = [
        (
            "labels.safetensors",
            &|bytes| *bytes.last_mut().unwrap() ^= 1,
            "row 169 names another sample",
        ),
        (
            "seeds.safetensors",
            &|bytes| *bytes.last_mut().unwrap() ^= 1,
            "does not have this key",
        ),
        (
            "evaluation.safetensors",
            &|bytes| bytes.truncate(40),
            "evaluation.safetensors",
        ),
        ("job.yaml", &|bytes| bytes.truncate(40), "job.yaml"),
        (
            "summary.json",
            &|bytes| replace(bytes, "\"real\": 150", "\"real\": 149"),
            "budget.billed.real 149",
        ),
        (
            "ledger/ledger.log",
            &|bytes| rot(bytes, &label),
            "is not as it was written",
        ),
    ];
    for (file, damage, expected) in damages {
        let path = dir.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        damage(&mut bytes);
        assert_ne!(bytes, whole, "{file}");
        std::fs::write(&path, &bytes).unwrap();
        let finished = asked(["ledger", "verify", text(&dir)]);
        let complaint = finished.refused(STORAGE);
        let told = finished.stdout + &complaint.error;
        assert!(told.contains(expected), "{file}: {told}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{file}: looking mends nothing");
        std::fs::write(&path, whole).unwrap();
    }
    let _ = said(["verify", text(&dir)]);
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(std::mem::take(bytes)).unwrap();
    *bytes = text.replacen(from, to, 1).into_bytes();
}

/// The bytes of the first label of a job.
fn a_label(outcome: &Outcome) -> Vec<u8> {
    let bytes = std::fs::read(outcome.file("labels.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor("probabilities").unwrap().data()[..4 * CLASSES].to_vec()
}

/// Changes the last bit of `label` wherever it is: it stays a label.
fn rot(bytes: &mut [u8], label: &[u8]) {
    for at in 0..bytes.len() - label.len() {
        if &bytes[at..at + label.len()] == label {
            bytes[at] ^= 1;
        }
    }
}

/// Runs `job` against a teacher with `fault`, which ends it with queries in doubt.
fn in_doubt(world: &World, job: &JobSpec, fault: Fault) -> PathBuf {
    world.teacher.set_fault(fault).unwrap();
    let complaint = world.start(job, "job", 1).0.wait().refused(TEACHER);
    assert!(
        complaint.error.contains("may or may not have been billed"),
        "{complaint:?}"
    );
    world.teacher.set_fault(Fault::None).unwrap();
    world.path().join("job")
}

#[test]
fn a_closed_bill_gives_back_what_was_not_billed_and_the_job_asks_it_again() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    let dir = in_doubt(&world, &job, Fault::FailsFirst { times: u32::MAX });
    let (dir, bill) = (text(&dir), world.path().join("bill"));
    let shown = said(["show", dir, "--ambiguous"]);
    assert!(shown.contains("2 in doubt") && shown.contains("500"), "{shown}");
    assert_eq!(books(dir)["unanswered"]["total"], 2);
    let compared = said(["reconcile", dir, text(&bill)]);
    assert!(compared.contains("--apply gives 2 queries back"), "{compared}");
    assert_eq!(books(dir)["budget"]["left"], 38, "nothing changed yet");
    let applied = said(["reconcile", dir, text(&bill), "--apply"]);
    assert!(
        applied.contains("2 queries given back to the budget; 40 left"),
        "{applied}"
    );
    assert!(said(["verify", dir]).contains("no damage"));
    let outcome = world.finish(&job, "job", 1);
    assert_eq!(outcome.count("/budget/held"), 0);
    assert_eq!(world.bill().len(), 40);
    outcome.settle(&world.bill());
    let compared = said(["reconcile", dir, text(&bill)]);
    let words: Vec<&str> = compared.split_whitespace().collect();
    assert!(words.join(" ").contains("billed by both 40 answered"), "{compared}");
}

#[test]
fn a_bill_that_lacks_what_was_answered_gives_nothing_back() {
    let _alone = alone();
    let world = World::new();
    // The first request, of one image, fails before any work; the next ones are answered.
    world.teacher.set_fault(Fault::FailsFirst { times: 1 }).unwrap();
    let outcome = world.finish(&jobs::one_round(&world.url()), "job", 1);
    assert_eq!(outcome.count("/budget/held"), 1);
    let dir = world.path().join("job");
    let (dir, bill, begun) = (text(&dir), world.path().join("bill"), world.path().join("begun"));
    let lines = world.bill();
    std::fs::write(&begun, lines[..lines.len() - 3].join("\n") + "\n").unwrap();
    let applied = said(["reconcile", dir, text(&begun), "--apply"]);
    assert!(applied.contains("lacks 3 answered queries"), "{applied}");
    assert_eq!(books(dir)["unanswered"]["total"], 1, "nothing was given back");
    let applied = said(["reconcile", dir, text(&bill), "--apply"]);
    assert!(applied.contains("1 query given back to the budget"), "{applied}");
}

#[test]
fn a_bill_proves_that_a_query_in_doubt_was_billed() {
    let _alone = alone();
    let world = World::new();
    let dir = in_doubt(
        &world,
        &jobs::one_round(&world.url()),
        Fault::ServerError { times: u32::MAX },
    );
    let (dir, bill) = (text(&dir), world.path().join("bill"));
    assert_eq!(world.bill().len(), 2, "the worst case: billed and not answered");
    let applied = said(["reconcile", dir, text(&bill), "--apply"]);
    assert!(applied.contains("nothing to give back"), "{applied}");
    // By request: one of two requests is on the bill.
    let shown = books(dir);
    let unanswered = shown["unanswered"]["shown"].as_array().unwrap();
    let request = |at: usize| unanswered[at]["request"].as_str().expect("a request id").to_owned();
    let csv = world.path().join("invoice.csv");
    std::fs::write(&csv, format!("time_unix_ms,request_id,images\n1,{},1\n", request(0))).unwrap();
    let compared = said(["reconcile", dir, text(&csv)]);
    assert!(compared.contains("--apply gives 1 query back"), "{compared}");
    // More than was ever sent is a breach, or another client.
    std::fs::write(&csv, format!("request_id,images\n{},1\nstranger,3\n", request(1))).unwrap();
    let finished = asked(["ledger", "reconcile", dir, text(&csv)]);
    let complaint = finished.refused(BUDGET);
    assert!(
        complaint.error.contains("3 queries more than this ledger"),
        "{complaint:?}"
    );
    assert!(complaint.hint.unwrap().contains("stranger"));
    let _ = said(["reconcile", dir, text(&csv), "--shared"]);
    let complaint = asked(["ledger", "reconcile", dir, "--billed", "3"]).refused(BUDGET);
    assert!(
        complaint.error.contains("1 query more than this ledger"),
        "{complaint:?}"
    );
    let _ = said(["reconcile", dir, "--billed", "1"]);
    let applied = asked(["ledger", "reconcile", dir, "--billed", "1", "--apply"]);
    assert_eq!(
        applied.status.code(),
        Some(USAGE),
        "a total proves nothing: {applied:?}"
    );
}

#[test]
fn a_raised_budget_goes_on_with_the_old_job_file() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    let _ = world.finish(&job, "job", 1);
    let dir = world.path().join("job");
    let raised = asked(["budget", "add", text(&dir), "10"]).succeeded().stdout;
    assert!(
        raised.contains("the budget was 40, now it is 50 queries; 10 left"),
        "{raised}"
    );
    assert!(said(["verify", text(&dir)]).contains("no damage"));
    let (running, outcome) = world.start(&job, "job", 1);
    let finished = running.wait().succeeded();
    assert!(
        finished.stderr.contains("stillhouse budget add raised it"),
        "{}",
        finished.stderr
    );
    assert_eq!(outcome.count("/budget/queries"), 50);
    assert_eq!(outcome.essence(), paid_alone());
    outcome.settle(&world.bill());
    let mut lowered = job.clone();
    lowered.spec.budget.queries = 39;
    let complaint = world.start(&lowered, "job", 1).0.wait().refused(BUDGET);
    assert!(
        complaint.error.contains("40") && complaint.error.contains("39"),
        "{complaint:?}"
    );
    let _ = world.finish(&job, "job", 1);
    assert_eq!(world.bill().len(), 50);
}

#[test]
fn of_a_running_job_the_books_show_what_it_last_wrote_and_nothing_can_be_changed() {
    let _alone = alone();
    let world = World::new();
    let mut job = two_rounds(&world.url());
    // Long enough for other programs to find it at work.
    job.spec.budget.queries = 400;
    job.spec.teacher.rate_per_second = Some(8.0);
    let (mut running, outcome) = world.start(&job, "job", 1);
    assert!(running.lives_until(|| outcome.has_event("trained", "active-000")));
    let path = world.path().join("job");
    let dir = text(&path);
    let shown = books(dir);
    assert_eq!(
        (&shown["source"], &shown["budget"]["queries"]),
        (&"summary".into(), &400.into())
    );
    assert!(said(["show", dir]).contains("a job is running on this ledger"));
    let file = world.path().join("x.parquet");
    let import = ["ledger", "import", dir, dir];
    for complaint in [
        asked(["ledger", "verify", dir]).refused(DIRECTORY),
        asked(["ledger", "export", dir, text(&file)]).refused(DIRECTORY),
        asked(import).refused(DIRECTORY),
        asked(["budget", "add", dir, "10"]).refused(DIRECTORY),
    ] {
        assert!(
            complaint.hint.as_deref().unwrap_or_default().contains("stop"),
            "{complaint:?}"
        );
    }
    let process = rustix::process::Pid::from_raw(running.id().cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let _ = running.wait().refused(INTERRUPTED);
    assert_eq!(books(dir)["source"], "ledger");
}

#[test]
fn a_folder_without_a_ledger_has_no_books() {
    let world = World::new();
    let dir = text(world.path());
    for complaint in [
        asked(["ledger", "show", dir]).refused(DIRECTORY),
        asked(["ledger", "verify", dir]).refused(DIRECTORY),
        asked(["budget", "add", dir, "1"]).refused(DIRECTORY),
    ] {
        assert!(complaint.error.contains("there is no ledger"), "{complaint:?}");
    }
}
