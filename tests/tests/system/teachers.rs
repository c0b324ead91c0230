//! Teachers that are down, busy, broken or slow.

use std::time::{Duration, Instant};

use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::processes::Complaint;
use stillhouse_tests::teacher::{Fault, TestTeacher};

use crate::world::{World, alone};

/// Exit code for a teacher that cannot be used.
const TEACHER: i32 = 4;

/// Runs `job` against a teacher with `fault`; checks that it is refused for at most `cost` queries,
/// and that the same command finishes once the teacher is sound.
fn refuses_and_recovers(fault: Fault, cost: usize, change: impl Fn(&mut JobSpec)) -> Complaint {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    change(&mut job);
    world.teacher.set_fault(fault).unwrap();
    let complaint = world.start(&job, "job", 1).0.wait().refused(TEACHER);
    assert!(
        world.bill().len() <= cost,
        "{fault:?} cost {} queries",
        world.bill().len()
    );
    world.teacher.set_fault(Fault::None).unwrap();
    let outcome = world.finish(&job, "job", 1);
    assert_eq!(outcome.summary()["state"]["name"], "finished");
    let bill = world.bill();
    let distinct: std::collections::BTreeSet<&String> = bill.iter().collect();
    assert_eq!(distinct.len(), bill.len(), "{fault:?}: an image was billed twice");
    assert!(bill.len() as u64 <= job.spec.budget.queries);
    complaint
}

#[test]
fn a_teacher_that_is_down_costs_nothing() {
    let complaint = refuses_and_recovers(Fault::Down, 0, |_| ());
    assert!(
        complaint.error.contains("nothing was spent") && complaint.error.contains("refused"),
        "{complaint:?}"
    );
    assert!(complaint.hint.unwrap().contains("spec.teacher.url"));
}

#[test]
fn an_answer_of_the_wrong_shape_costs_one_query() {
    let complaint = refuses_and_recovers(Fault::WrongShape, 1, |_| ());
    assert!(
        complaint.error.contains("expected") && complaint.error.contains("found"),
        "{complaint:?}"
    );
}

#[test]
fn an_answer_that_is_not_a_number_costs_one_query() {
    let complaint = refuses_and_recovers(Fault::NotANumber, 1, |_| ());
    assert!(complaint.error.to_lowercase().contains("nan"), "{complaint:?}");
}

#[test]
fn probabilities_that_do_not_sum_to_one_cost_one_query() {
    let complaint = refuses_and_recovers(Fault::Unnormalised, 1, |_| ());
    assert!(
        complaint.error.contains("probabilities sum to ") && complaint.error.contains("expected 1"),
        "{complaint:?}"
    );
}

/// A server error is no proof that nothing was billed; the second one in a row ends the run.
#[test]
fn a_teacher_that_answers_500_costs_two_queries() {
    let complaint = refuses_and_recovers(Fault::ServerError { times: u32::MAX }, 2, |_| ());
    assert!(
        complaint.error.contains("500") && complaint.error.contains("may or may not have been billed"),
        "{complaint:?}"
    );
}

#[test]
fn a_teacher_that_hangs_costs_two_queries() {
    let complaint = refuses_and_recovers(Fault::Hang, 2, |job| job.spec.teacher.timeout_seconds = 0.3);
    assert!(
        complaint.error.contains("may or may not have been billed"),
        "{complaint:?}"
    );
}

#[test]
fn a_busy_teacher_is_waited_for_as_long_as_it_asks() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    world
        .teacher
        .set_fault(Fault::TooMany {
            retry_after: Some(1),
            times: 2,
        })
        .unwrap();
    let begun = Instant::now();
    let outcome = world.finish(&job, "job", 1);
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was told to wait twice");
    assert!(outcome.events_called("teacher-waits") > 0);
    assert_eq!(outcome.count("/budget/held"), 0);
    assert_eq!(world.bill().len() as u64, job.spec.budget.queries);
    outcome.settle(&world.bill());
}

#[test]
fn one_server_error_in_the_middle_is_survived_and_held() {
    let _alone = alone();
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    job.spec.teacher.batch = Some(4);
    job.spec.teacher.concurrency = 1;
    job.spec.teacher.rate_per_second = Some(20.0);
    let (mut running, outcome) = world.start(&job, "job", 1);
    assert!(running.lives_until(|| world.bill().len() > 4));
    world.teacher.set_fault(Fault::ServerError { times: 1 }).unwrap();
    let _ = running.wait().succeeded();
    assert!((1..=4).contains(&outcome.count("/budget/held")));
    outcome.settle(&world.bill());
}

#[test]
fn a_teacher_of_another_number_of_classes_or_another_image_size_is_refused_before_it_is_asked() {
    let world = World::new();
    let mut job = jobs::one_round(&world.url());
    job.spec.student.classes = Some(7);
    let complaint = world.start(&job, "classes", 1).0.wait().refused(TEACHER);
    assert!(
        complaint.error.contains("expected the 7 of") && complaint.error.contains("found 10"),
        "{complaint:?}"
    );
    assert!(complaint.hint.unwrap().contains("spec.student.classes"));
    let mut job = jobs::one_round(&world.url());
    job.spec.images.size = Some(stillhouse_core::job::Size { height: 16, width: 16 });
    let complaint = world.start(&job, "size", 1).0.wait().refused(TEACHER);
    assert!(
        complaint.error.contains("expected batches of") && complaint.error.contains("found [-1, 1, 8, 8]"),
        "{complaint:?}"
    );
    let mut job = jobs::one_round(&world.url());
    job.spec.teacher.model = "another".into();
    let complaint = world.start(&job, "model", 1).0.wait().refused(TEACHER);
    assert!(complaint.error.contains("404"), "{complaint:?}");
    assert!(world.bill().is_empty());
}

#[test]
fn a_job_does_not_go_on_with_another_teacher() {
    let _alone = alone();
    let world = World::new();
    let job = jobs::one_round(&world.url());
    world.finish(&job, "job", 1);
    let other = TestTeacher::start(jobs::SHAPE, 7, None).unwrap();
    let mut moved = job.clone();
    moved.spec.teacher.url = other.url();
    moved.spec.budget.queries += 5;
    let complaint = world.start(&moved, "job", 1).0.wait();
    assert!(!complaint.status.success(), "{complaint:?}");
    assert_eq!(world.bill().len() as u64, job.spec.budget.queries);
}
