use stillhouse_core::SoftLabel;
use stillhouse_core::job::{Protocol, TeacherSpec};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_teacher::{Attempt, Billing, Pixels, connect};

use super::*;

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};

fn spec(url: String, timeout_seconds: f64) -> TeacherSpec {
    TeacherSpec {
        timeout_seconds,
        ..TeacherSpec::new(Protocol::OpenInference, url, MODEL)
    }
}

fn noise(images: usize) -> Vec<u8> {
    let stream = Stream::new(1, Purpose::SeedImages, 0);
    (0..(images * SHAPE.len()) as u64)
        .map(|at| stream.at(at) as u8)
        .collect()
}

#[test]
fn answers_are_varied_confident_and_always_the_same() {
    let ask = || predict(SHAPE, 10)(Pixels::Uint8(noise(200)), 200).unwrap();
    let answers = ask();
    assert_eq!(answers, ask());
    let labels = answers
        .chunks(10)
        .map(|p| SoftLabel::from_probabilities(p.to_vec(), 10).unwrap());
    let mut counts = [0; 10];
    labels.for_each(|label| counts[label.class()] += 1);
    assert!(counts.iter().filter(|count| **count > 5).count() >= 6, "{counts:?}");
}

#[tokio::test]
async fn every_fault_does_what_it_says_and_the_bill_tells() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = TestTeacher::start(SHAPE, 10, Some(&folder.path().join("bill"))).unwrap();
    let (client, _) = connect(&spec(teacher.url(), 0.5), SHAPE, None).await.unwrap();
    let images = noise(2);
    let infer = async || client.infer(&images, 2, &Attempt::new("1")).await;
    let billing = async || infer().await.map_err(|failure| failure.billing());
    assert!(infer().await.unwrap().iter().all(Result::is_ok));
    teacher.set_fault("too-many:1:3".parse().unwrap()).unwrap();
    let refused = infer().await.unwrap_err();
    assert_eq!(refused.billing(), Billing::Refused);
    assert_eq!(refused.retry_after.map(|wait| wait.as_secs()), Some(3));
    assert_eq!(teacher.billed().unwrap().len(), 2);
    assert!(infer().await.is_ok(), "the fault has struck out");
    teacher.set_fault(Fault::Down).unwrap();
    // The connection of the last answer may be found broken only while it is written to.
    let mut unreachable = billing().await;
    if unreachable == Err(Billing::Ambiguous) {
        unreachable = billing().await;
    }
    assert_eq!(unreachable, Err(Billing::NotSent));
    assert_eq!(teacher.billed().unwrap().len(), 4);
    teacher.set_fault(Fault::WrongShape).unwrap();
    assert_eq!(billing().await, Err(Billing::Billed));
    for (fault, bad) in [(Fault::NotANumber, 1), (Fault::Unnormalised, 2)] {
        teacher.set_fault(fault).unwrap();
        let labels = infer().await.unwrap();
        assert_eq!(labels.iter().filter(|label| label.is_err()).count(), bad, "{fault:?}");
    }
    for fault in [Fault::ServerError { times: 1 }, Fault::Hang, Fault::DieAfter(1)] {
        teacher.set_fault(fault).unwrap();
        assert_eq!(billing().await, Err(Billing::Ambiguous), "{fault:?}");
    }
    assert_eq!(teacher.billed().unwrap().len(), 16);
    teacher.set_fault(Fault::None).unwrap();
    assert!(infer().await.is_ok(), "it lives again");
    assert_eq!(teacher.billed().unwrap().len(), 18);
}

#[test]
fn a_fault_is_switched_from_another_process() {
    let teacher = TestTeacher::start(SHAPE, 10, None).unwrap();
    set_fault(teacher.address, "too-many:3:1").unwrap();
    let chosen = Fault::TooMany {
        retry_after: Some(1),
        times: 3,
    };
    assert_eq!(*locked(&teacher.fault), chosen);
    assert!(set_fault(teacher.address, "sulk").is_err());
    assert_eq!(*locked(&teacher.fault), chosen);
    set_fault(teacher.address, "none").unwrap();
    assert_eq!(*locked(&teacher.fault), Fault::None);
}

#[test]
fn a_fault_is_named_on_the_command_line() {
    for (text, fault) in [
        ("none", Fault::None),
        (
            "too-many:2",
            Fault::TooMany {
                retry_after: None,
                times: 2,
            },
        ),
        ("die-after:100", Fault::DieAfter(100)),
    ] {
        assert_eq!(text.parse::<Fault>().unwrap(), fault);
    }
    for bad in ["", "hang:1", "server-error", "server-error:x", "too-many:1:2:3", "sulk"] {
        assert!(bad.parse::<Fault>().is_err(), "{bad}");
    }
}
