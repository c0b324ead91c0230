//! The client against servers that fail, lie, stall and flood: one attempt, a bounded answer, and
//! the right class of failure.

use std::sync::Arc;

use crate::raw::{RawTeacher, SHAPE, answer, attempt, ok, spec};
use stillhouse_core::job::AuthSpec;
use stillhouse_core::label::LabelError;
use stillhouse_teacher::{Attempt, Billing, ConnectError, FailureKind, Teacher, TeacherFailure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TWO: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255];

async fn connect(teacher: &RawTeacher, timeout_seconds: f64) -> Arc<dyn Teacher> {
    let mut spec = spec(teacher.address);
    spec.timeout_seconds = timeout_seconds;
    stillhouse_teacher::connect(&spec, SHAPE, None)
        .await
        .expect("a sound teacher so far")
        .0
}

async fn failure(teacher: &RawTeacher) -> TeacherFailure {
    let client = connect(teacher, 30.0).await;
    let failure = client.infer(&TWO, 2, &attempt()).await.expect_err("a failure");
    assert_eq!(teacher.asked(), 1, "one attempt: {failure}");
    failure
}

fn outputs(shape: &str, data: &str) -> String {
    ok(&format!(
        r#"{{"model_name":"lenet5","model_version":"1",
            "outputs":[{{"name":"out","shape":{shape},"datatype":"FP32","data":{data}}}]}}"#
    ))
}

#[tokio::test]
async fn a_sound_answer_becomes_labels_nested_or_flat() {
    for data in ["[0.25,0.75,1,0]", "[[0.25, 0.75], [1.0, 0e0]]"] {
        let teacher = RawTeacher::saying(outputs("[2,2]", data)).await;
        let labels = connect(&teacher, 30.0)
            .await
            .infer(&TWO, 2, &attempt())
            .await
            .expect("labels");
        let labels: Vec<_> = labels.into_iter().map(|label| label.expect("sound")).collect();
        assert_eq!(labels[0].probabilities(), [0.25, 0.75]);
        assert_eq!(labels[1].probabilities(), [1.0, 0.0]);
    }
}

#[tokio::test]
async fn refusals_are_not_billed_and_say_when_to_come_back() {
    let busy = answer(429, "Retry-After: 7\r\n", r#"{"error":"slow down"}"#);
    let failure_429 = failure(&RawTeacher::saying(busy).await).await;
    assert_eq!(failure_429.kind, FailureKind::Busy { status: 429 });
    assert_eq!(failure_429.billing(), Billing::Refused);
    assert_eq!(failure_429.retry_after.map(|wait| wait.as_secs()), Some(7));
    assert!(failure_429.message.ends_with("slow down"), "{failure_429}");
    let date = "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n";
    let failure_503 = failure(&RawTeacher::saying(answer(503, date, "")).await).await;
    assert_eq!(failure_503.retry_after.map(|wait| wait.as_secs()), Some(3600));
    assert!(!failure_503.is_fatal());
    for status in [400, 401, 404, 413, 422] {
        let failure = failure(&RawTeacher::saying(answer(status, "", "no")).await).await;
        assert_eq!(failure.kind, FailureKind::Rejected { status });
        assert!(failure.is_fatal() && failure.billing() == Billing::Refused);
    }
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_is_not_followed() {
    let redirect = answer(307, "Location: /v2/models/lenet5/infer\r\n", "");
    let failure = failure(&RawTeacher::saying(redirect).await).await;
    assert_eq!(failure.kind, FailureKind::Rejected { status: 307 });
}

#[tokio::test]
async fn server_errors_are_ambiguous_and_not_retried() {
    for status in [500, 502, 504] {
        let failure = failure(&RawTeacher::saying(answer(status, "", "boom")).await).await;
        assert_eq!(failure.kind, FailureKind::Server { status });
        assert_eq!(failure.billing(), Billing::Ambiguous);
    }
}

#[tokio::test]
async fn a_lost_connection_is_ambiguous_at_every_point_of_the_answer() {
    let whole = outputs("[2,2]", "[0.25,0.75,1,0]");
    let head = whole.find("\r\n\r\n").unwrap() + 4;
    for cut in [0, 5, head - 2, head, head + 10, whole.len() - 1] {
        let failure = failure(&RawTeacher::saying(&whole.as_bytes()[..cut]).await).await;
        assert_eq!(failure.kind, FailureKind::Lost, "cut at {cut}: {failure}");
        assert_eq!(failure.billing(), Billing::Ambiguous);
    }
    let not_http = failure(&RawTeacher::saying("220 smtp ready\r\n\r\n").await).await;
    assert_eq!(not_http.billing(), Billing::Ambiguous);
}

#[tokio::test]
async fn a_useless_answer_was_paid_for() {
    let other_output = outputs("[2,2]", "[0,1,0,1]").replace("\"out\"", "\"ouT\"");
    let other_version = outputs("[2,2]", "[0,1,0,1]").replace("version\":\"1", "version\":\"2");
    let answers = [
        ("an inference response", ok("<html>")),
        ("an inference response", ok("")),
        ("an inference response", ok(r#"{"outputs":7}"#)),
        ("an inference response", ok(&"[".repeat(5_000))),
        ("an inference response", outputs("[2,2]", "[NaN,1,0,1]")),
        ("shape [2, 2], found [2, 3]", outputs("[2,3]", "[0,1,0,0,1,0]")),
        ("shape [2, 2], found [1, 2]", outputs("[1,2]", "[0,1]")),
        ("shape [2, 2], found [2]", outputs("[2]", "[0,1]")),
        ("expected 4 values, found 3", outputs("[2,2]", "[0,1,0]")),
        ("shape [2, 2]", outputs("[18446744073709551615,2]", "[]")),
        ("expected output out, found none", other_output),
        ("model version 1, found 2", other_version),
        ("202", answer(202, "", "")),
    ];
    for (cause, said) in answers {
        let failure = failure(&RawTeacher::saying(said).await).await;
        assert_eq!(failure.billing(), Billing::Billed, "{failure}");
        assert!(failure.is_fatal() && failure.to_string().contains(cause), "{failure}");
    }
}

#[tokio::test]
async fn a_bad_label_spoils_its_own_image_only() {
    let teacher = RawTeacher::saying(outputs("[2,2]", "[null,1,0.5,0.5]")).await;
    let labels = connect(&teacher, 30.0)
        .await
        .infer(&TWO, 2, &attempt())
        .await
        .expect("answers");
    assert!(matches!(labels[0], Err(LabelError::NotFinite { class: 0, .. })));
    assert!(labels[1].is_ok());
    let teacher = RawTeacher::saying(outputs("[2,2]", "[3,4,0.5,0.5]")).await;
    let labels = connect(&teacher, 30.0)
        .await
        .infer(&TWO, 2, &attempt())
        .await
        .expect("answers");
    assert_eq!(labels[0], Err(LabelError::Sum { sum: 7.0 }));
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n{";
    let announced = failure(&RawTeacher::saying(announced).await).await;
    assert_eq!(announced.kind, FailureKind::Malformed, "{announced}");
    let teacher = RawTeacher::start(|mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        // Until the client hangs up.
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let endless = failure(&teacher).await;
    assert!(endless.message.contains("expected at most"), "{endless}");
}

#[tokio::test]
async fn a_stalled_answer_meets_the_deadline() {
    for said in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
    ] {
        let teacher = RawTeacher::start(move |mut stream| async move {
            stream.write_all(said.as_bytes()).await.unwrap();
            // Returns when the client hangs up.
            let _ = stream.read_u8().await;
        })
        .await;
        let failure = connect(&teacher, 0.5)
            .await
            .infer(&TWO, 2, &attempt())
            .await
            .expect_err("stalled");
        assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
        assert_eq!(failure.billing(), Billing::Ambiguous);
    }
}

#[tokio::test]
async fn a_refusal_counts_even_when_its_text_never_ends() {
    let teacher = RawTeacher::start(|mut stream| async move {
        let head = b"HTTP/1.1 429 Busy\r\nretry-after: 1\r\ncontent-length: 99\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let failure = connect(&teacher, 0.5)
        .await
        .infer(&TWO, 2, &attempt())
        .await
        .expect_err("refused");
    assert_eq!(failure.billing(), Billing::Refused);
}

#[tokio::test]
async fn a_closed_port_means_that_nothing_was_sent() {
    let mut teacher = RawTeacher::saying("").await;
    let client = connect(&teacher, 30.0).await;
    teacher.stop().await;
    let failure = client.infer(&TWO, 2, &attempt()).await.expect_err("closed");
    assert_eq!(failure.billing(), Billing::NotSent, "{failure}");
    assert!(!failure.is_fatal() && teacher.asked() == 0);
    let error = stillhouse_teacher::connect(&spec(teacher.address), SHAPE, None)
        .await
        .err()
        .expect("closed");
    assert!(
        !error.is_fatal() && error.to_string().contains("cannot be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_kept_connection_that_is_cut_under_a_request_loses_that_request_and_no_other() {
    let teacher = RawTeacher::keeping(|mut stream, nth| async move {
        // The second request on a connection is read, and never answered.
        if nth == 1 {
            return None;
        }
        let answer = outputs("[2,2]", "[0,1,0,1]");
        stream.write_all(answer.as_bytes()).await.unwrap();
        Some(stream)
    })
    .await;
    let client = connect(&teacher, 5.0).await;
    client.infer(&TWO, 2, &attempt()).await.expect("the first");
    let failure = client.infer(&TWO, 2, &attempt()).await.expect_err("cut");
    assert_eq!(
        (failure.kind, failure.billing()),
        (FailureKind::Lost, Billing::Ambiguous)
    );
    assert_eq!(teacher.asked(), 2, "not sent again");
    client.infer(&TWO, 2, &attempt()).await.expect("a new connection");
    assert_eq!(teacher.asked(), 3);
}

#[tokio::test]
async fn a_server_that_hangs_up_after_each_answer_never_sees_a_request_twice() {
    let teacher = RawTeacher::saying(outputs("[2,2]", "[0,1,0,1]")).await;
    let client = connect(&teacher, 5.0).await;
    let (mut answered, mut lost) = (0, 0);
    for _ in 0..200 {
        match client.infer(&TWO, 2, &attempt()).await {
            Ok(_) => answered += 1,
            Err(failure) => match failure.billing() {
                Billing::Ambiguous => lost += 1,
                Billing::NotSent => {}
                billing => panic!("{billing:?}: {failure}"),
            },
        }
    }
    let asked = teacher.asked();
    assert!(
        (answered..=answered + lost).contains(&asked),
        "{asked} asked, {answered} answered, {lost} lost"
    );
    let ids = teacher.header("x-request-id");
    let distinct: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), asked, "each request once");
}

#[tokio::test]
async fn secrets_travel_but_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let echo = answer(403, "", r#"{"error":"bad token s3cret"}"#);
    let teacher = RawTeacher::saying(echo).await;
    let mut spec = spec(teacher.address);
    spec.headers.insert("X-Tenant".into(), "blue".into());
    spec.auth = Some(AuthSpec {
        header: "Authorization".into(),
        scheme: None,
        file: Some(file),
        environment: None,
    });
    let client = stillhouse_teacher::connect(&spec, SHAPE, None).await.expect("sound").0;
    let named = Attempt {
        request_id: "r-17".into(),
        idempotency_key: Some("k-9".into()),
        trace_parent: None,
    };
    let failure = client.infer(&TWO, 2, &named).await.expect_err("403");
    let head = teacher.questions.lock().unwrap()[0].to_ascii_lowercase();
    for line in [
        "authorization: bearer s3cret",
        "x-tenant: blue",
        "x-request-id: r-17",
        "idempotency-key: k-9",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(failure.message.ends_with("bad token ***"), "{failure}");
    assert!(!format!("{spec:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_server_without_tls_is_unreachable_over_https() {
    let teacher = RawTeacher::saying("").await;
    let mut spec = spec(teacher.address);
    spec.url = spec.url.replace("http:", "https:");
    spec.timeout_seconds = 1.0;
    let error = stillhouse_teacher::connect(&spec, SHAPE, None)
        .await
        .err()
        .expect("no TLS");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert_eq!(teacher.asked(), 0);
}
