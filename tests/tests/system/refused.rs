//! Bad input gets one clear error with the mend, the documented exit code, and nothing is spent.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use image::GrayImage;
use stillhouse_core::job::{Architecture, ImageFormat, JobSpec};
use stillhouse_tests::jobs;
use stillhouse_tests::processes::{Complaint, Running, run_job, stillhouse};
use stillhouse_tests::teacher::TestTeacher;

use crate::world::{World, alone};

const USAGE: i32 = 2;
const DATA: i32 = 3;
const BUDGET: i32 = 5;
const DIRECTORY: i32 = 6;
const STORAGE: i32 = 7;
const INTERRUPTED: i32 = 130;

/// Runs a job file of which `change` made a mess; nothing may be spent.
fn refused(code: i32, change: impl FnOnce(&Path, &mut JobSpec)) -> Complaint {
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    change(world.path(), &mut job);
    refused_text(&world, code, &jobs::text(&job))
}

fn refused_text(world: &World, code: i32, text: &str) -> Complaint {
    let file = jobs::write_text(world.path(), text);
    let dir = world.path().join("job");
    let ran = Running::start(run_job(&file, &dir, 1)).wait().refused(code);
    assert!(world.bill().is_empty(), "something was spent");
    let mut validate = stillhouse();
    validate.arg("validate").arg(&file);
    assert_eq!(
        Running::start(validate).wait().refused(code),
        ran,
        "validate says the same"
    );
    ran
}

fn says(complaint: &Complaint, error: &[&str], hint: &str) {
    assert!(
        error.iter().all(|part| complaint.error.contains(part)),
        "expected {error:?} in {complaint:?}"
    );
    assert!(
        complaint.hint.as_deref().unwrap_or_default().contains(hint),
        "expected {hint:?} in {complaint:?}"
    );
}

#[test]
fn a_job_file_that_is_not_there() {
    let world = World::new();
    let command = run_job(&world.path().join("nowhere.yaml"), &world.path().join("job"), 1);
    let complaint = Running::start(command).wait().refused(USAGE);
    says(
        &complaint,
        &["cannot read the job file", "nowhere.yaml", "No such file"],
        "stillhouse init",
    );
}

#[test]
fn an_unknown_key_or_value_names_the_nearest() {
    let world = World::new();
    let text = jobs::text(&jobs::one_round(&world.url()));
    for (from, to, found, nearest) in [
        ("\"epochs\"", "\"epoch\"", "epoch", "did you mean `epochs`?"),
        ("\"lenet5\"", "\"lenet\"", "lenet", "did you mean `lenet5`?"),
        ("\"perRound\"", "\"per_round\"", "per_round", "did you mean `perRound`?"),
        (
            "\"least-confidence\"",
            "\"leastConfidence\"",
            "leastConfidence",
            "did you mean `least-confidence`?",
        ),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let complaint = refused_text(&world, USAGE, &text.replace(from, to));
        says(&complaint, &["job.yaml", found], nearest);
    }
}

#[test]
fn a_value_that_makes_no_sense_or_no_yaml_at_all() {
    let complaint = refused(USAGE, |_, job| job.spec.training.epochs = 0);
    says(&complaint, &["spec.training.epochs: expected 1 to 100000, found 0"], "");
    let complaint = refused(USAGE, |_, job| job.spec.student.architecture = None);
    says(
        &complaint,
        &["spec.student: expected one of architecture and torchscript, found neither"],
        "",
    );
    let world = World::new();
    says(&refused_text(&world, USAGE, "spec: [unclosed"), &["job.yaml"], "");
    says(&refused_text(&world, USAGE, ""), &["job.yaml"], "");
}

#[test]
fn images_that_are_not_there() {
    let complaint = refused(DATA, |_, job| job.spec.images.path = "no/such/file.gz".into());
    says(
        &complaint,
        &["no/such/file.gz"],
        "a relative one starts at the folder of the job file",
    );
}

/// The digits' training images, unpacked.
fn unpacked() -> Vec<u8> {
    let file = std::fs::File::open(jobs::digits("train-images-idx3-ubyte.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_truncated_image_file_packed_or_not() {
    let packed = std::fs::read(jobs::digits("train-images-idx3-ubyte.gz")).unwrap();
    for whole in [unpacked(), packed] {
        let complaint = refused(DATA, |folder, job| {
            job.spec.images.path = folder.join("cut.idx");
            std::fs::write(&job.spec.images.path, &whole[..whole.len() / 2]).unwrap();
        });
        says(&complaint, &["cut.idx"], "copy or download the file again");
    }
}

#[test]
fn labels_given_as_images_and_a_picture_given_as_idx() {
    let complaint = refused(DATA, |_, job| {
        job.spec.images.path = jobs::digits("train-labels-idx1-ubyte.gz")
    });
    says(
        &complaint,
        &["looks like a labels file", "found idx1, expected idx3"],
        "train-images-idx3-ubyte.gz",
    );
    let complaint = refused(DATA, |folder, job| {
        job.spec.images.path = folder.join("picture.png");
        GrayImage::new(8, 8).save(&job.spec.images.path).unwrap();
    });
    says(
        &complaint,
        &["picture.png is not an IDX images file", "looks like a PNG"],
        "folder",
    );
}

#[test]
fn a_folder_of_images_that_differ_in_size() {
    let complaint = refused(DATA, |folder, job| {
        let images = folder.join("images");
        std::fs::create_dir(&images).unwrap();
        GrayImage::new(8, 8).save(images.join("a.png")).unwrap();
        GrayImage::new(9, 8).save(images.join("b.png")).unwrap();
        job.spec.images.path = images;
        job.spec.images.source = ImageFormat::Folder;
        job.spec.images.take = None;
    });
    says(&complaint, &["a.png", "8 x 8", "b.png", "8 x 9"], "spec.images.size");
}

#[test]
fn more_seed_images_than_there_are() {
    let complaint = refused(DATA, |_, job| {
        job.spec.images.take = Some(5_000);
        job.spec.budget.queries = 6_000;
    });
    says(&complaint, &["5000", "1297"], "spec.images.take");
}

#[test]
fn a_budget_smaller_than_the_seed_images() {
    let complaint = refused(BUDGET, |_, job| job.spec.budget.queries = 29);
    says(
        &complaint,
        &["budget is 29 queries", "30 seed images"],
        "spec.budget.queries",
    );
}

#[test]
fn evaluation_images_that_do_not_fit() {
    let world = World::new();
    let mut job = jobs::three_rounds(&world.url());
    job.spec.evaluation.as_mut().unwrap().labels = Some(jobs::digits("train-labels-idx1-ubyte.gz"));
    let complaint = refused_text(&world, DATA, &jobs::text(&job));
    says(&complaint, &["1297 labels", "expected 500"], "same split");
}

#[test]
fn a_directory_of_another_job_and_a_smaller_budget() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    let before = world.finish(&job, "job", 1).essence();
    let bill = world.bill();
    let mut other = job.clone();
    other.spec.training.seed = 9;
    let complaint = world.start(&other, "job", 1).0.wait().refused(DIRECTORY);
    says(&complaint, &["belongs to another job"], "--dir");
    let mut smaller = job.clone();
    smaller.spec.budget.queries -= 1;
    let complaint = world.start(&smaller, "job", 1).0.wait().refused(BUDGET);
    says(&complaint, &["40", "39"], "spec.budget.queries");
    assert_eq!(world.bill(), bill, "nothing was spent");
    let outcome = world.finish(&job, "job", 1);
    assert_eq!(outcome.essence(), before, "the job itself is as it was");
    let mut larger = job;
    larger.spec.budget.queries += 10;
    let outcome = world.finish(&larger, "job", 1);
    assert_eq!(outcome.batches("active").len(), 3, "a larger budget goes on");
    outcome.settle(&world.bill());
}

#[test]
fn a_directory_that_a_running_job_holds() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    // Long enough for a second process to find it at work.
    job.spec.teacher.rate_per_second = Some(1.0);
    let (mut first, outcome) = world.start(&job, "job", 1);
    assert!(first.lives_until(|| outcome.events_called("worker-joined") > 0));
    let complaint = world.start(&job, "job", 1).0.wait().refused(DIRECTORY);
    says(&complaint, &["in use by a running job"], "--dir");
    assert!(!first.has_ended(), "the first run is not disturbed");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.id().cast_signed()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let complaint = first.wait().refused(INTERRUPTED);
    says(&complaint, &["interrupted"], "run the same command again");
    job.spec.teacher.rate_per_second = None;
    world.finish(&job, "job", 1).settle(&world.bill());
}

#[test]
fn a_directory_that_cannot_be_made_and_one_without_a_job() {
    let world = World::new();
    let file = jobs::write(world.path(), &jobs::one_round(&world.url()));
    let complaint = Running::start(run_job(&file, &file.join("below"), 1))
        .wait()
        .refused(STORAGE);
    says(&complaint, &["cannot use the job directory"], "");
    for command in ["status", "report"] {
        let mut show = stillhouse();
        show.arg(command).arg(world.path());
        let complaint = Running::start(show).wait().refused(DIRECTORY);
        says(&complaint, &["summary.json"], "job directory");
    }
    assert!(world.bill().is_empty());
}

#[test]
fn the_exit_code_is_the_same_when_nothing_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut show = stillhouse();
    show.arg("status").arg(folder.path()).stdout(full()).stderr(full());
    assert_eq!(show.status().unwrap().code(), Some(DIRECTORY));
}

/// `command` under a limit of so many blocks of 512 bytes a file. The signal that would kill the
/// program is ignored, so that a write beyond the limit fails as on a full disk.
fn limited(command: &Command, blocks: u64) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell
        .arg("-c")
        .arg(script)
        .arg(command.get_program())
        .args(command.get_args());
    shell
}

#[test]
fn a_disk_that_is_full_from_the_start() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    let command = run_job(&jobs::write(world.path(), &job), &world.path().join("job"), 1);
    let complaint = Running::start(limited(&command, 0)).wait().refused(STORAGE);
    says(&complaint, &["no space left"], "free some space");
    assert!(world.bill().is_empty(), "something was spent");
    world.finish(&job, "job", 1).settle(&world.bill());
}

#[test]
fn a_disk_that_fills_up_in_the_middle_loses_nothing_that_was_paid_for() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    // A student of 1.09 MB is the first file larger than the limit; the ledger begins with 1 MiB.
    job.spec.student.architecture = Some(Architecture::Resnet20);
    job.spec.training.epochs = 4;
    let command = run_job(&jobs::write(world.path(), &job), &world.path().join("job"), 2);
    let complaint = Running::start(limited(&command, 2_100)).wait().refused(STORAGE);
    says(
        &complaint,
        &["no space left", "active-000.safetensors"],
        "free some space",
    );
    let paid = world.bill();
    assert_eq!(
        paid.len(),
        30,
        "the seed images were asked before the student was written"
    );
    let outcome = world.finish(&job, "job", 2);
    assert_eq!(world.bill()[..30], paid);
    outcome.settle(&world.bill());
}

/// Runs `job`, of which no worker can build the student; nothing may be spent.
fn unfit(change: impl FnOnce(&Path, &mut JobSpec)) -> Complaint {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    change(world.path(), &mut job);
    let complaint = world.start(&job, "job", 2).0.wait().refused(USAGE);
    assert!(world.bill().is_empty(), "something was spent");
    says(&complaint, &["the student cannot be built"], "spec.student");
    complaint
}

#[test]
fn a_student_that_does_not_fit_the_images() {
    let complaint = unfit(|_, job| job.spec.student.architecture = Some(Architecture::AlexnetHalf));
    says(
        &complaint,
        &["alexnet-half does not fit 1x8x8 images"],
        "spec.images.size",
    );
}

#[test]
fn a_torchscript_student_that_is_none() {
    let complaint = unfit(|folder, job| {
        let module = folder.join("student.pt");
        std::fs::write(&module, "not a module").unwrap();
        job.spec.student.architecture = None;
        job.spec.student.torchscript = Some(module);
    });
    says(&complaint, &["TorchScript student cannot be read"], "");
}

#[test]
fn a_torchscript_student_of_another_number_of_classes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let teacher = TestTeacher::start(jobs::SHAPE, 7, Some(&folder.path().join("bill"))).unwrap();
    let mut job = jobs::one_round(&teacher.url());
    job.spec.student.architecture = None;
    job.spec.student.torchscript = Some(jobs::small_module());
    let command = run_job(&jobs::write(folder.path(), &job), &folder.path().join("job"), 1);
    let complaint = Running::start(command).wait().refused(USAGE);
    says(&complaint, &["[2, 10]", "expected [2, 7]"], "spec.student");
    assert!(teacher.billed().unwrap().is_empty(), "something was spent");
}
