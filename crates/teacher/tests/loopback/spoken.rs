//! Chat completions and JSON as the job describes it, against servers that say what a test wants.

use serde_json::{Value, json};
use stillhouse_core::job::{AnswerSpec, Protocol, Response, TeacherSpec};
use stillhouse_core::label::LabelError;
use stillhouse_teacher::{Billing, FailureKind, Teacher, TeacherFailure, connect};

use crate::raw::{RawTeacher, SHAPE, answer, attempt, ok, spec};

fn chat(teacher: &RawTeacher, response: Response) -> TeacherSpec {
    TeacherSpec {
        protocol: Protocol::Openai,
        response,
        class_names: ["cat", "dog"].map(String::from).to_vec(),
        ..spec(teacher.address)
    }
}

async fn client(spec: &TeacherSpec) -> std::sync::Arc<dyn Teacher> {
    connect(spec, SHAPE, None).await.expect("connected").0
}

fn sent(teacher: &RawTeacher) -> Value {
    serde_json::from_slice(&teacher.bodies.lock().unwrap()[0]).unwrap()
}

fn completion(message: Value, more: Value) -> String {
    let mut choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
    choice
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ok(&json!({ "id": "x", "object": "chat.completion", "choices": [choice] }).to_string())
}

#[tokio::test]
async fn a_chat_names_one_of_the_classes() {
    let said = completion(
        json!({ "role": "assistant", "content": "{\"class\":\"dog\"}" }),
        json!({}),
    );
    let teacher = RawTeacher::saying(said).await;
    let labels = client(&chat(&teacher, Response::Label))
        .await
        .infer(&[7; 6], 1, &attempt())
        .await;
    assert_eq!(labels.unwrap()[0].as_ref().unwrap().probabilities(), [0.0, 1.0]);
    let sent = sent(&teacher);
    assert_eq!((&sent["model"], &sent["temperature"]), (&json!("lenet5"), &json!(0)));
    let content = &sent["messages"][0]["content"];
    assert_eq!(
        content[0]["text"],
        "Which of these classes does the image show? cat, dog"
    );
    let url = content[1]["image_url"]["url"].as_str().unwrap();
    assert!(url.starts_with("data:image/png;base64,iVBOR"), "{url}");
    let classes = &sent["response_format"]["json_schema"]["schema"]["properties"]["class"]["enum"];
    assert_eq!(*classes, json!(["cat", "dog"]));
    let head = teacher.questions.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
}

#[tokio::test]
async fn a_chat_tells_the_probabilities_of_letters() {
    let top: Vec<Value> = [("B", 0.75_f64), ("A", 0.25)]
        .map(|(token, p)| json!({ "token": token, "logprob": p.ln() }))
        .to_vec();
    let token = json!({ "token": "B", "logprob": -0.3, "top_logprobs": top });
    let said = completion(json!({ "content": "B" }), json!({ "logprobs": { "content": [token] } }));
    let teacher = RawTeacher::saying(said).await;
    let mut spec = chat(&teacher, Response::Probabilities);
    spec.url.push_str("/v1/");
    let labels = client(&spec).await.infer(&[7; 6], 1, &attempt()).await.unwrap();
    let label = labels[0].as_ref().unwrap().probabilities();
    assert!((label[1] - 0.75).abs() < 1e-6, "{label:?}");
    let sent = sent(&teacher);
    assert_eq!((&sent["logprobs"], &sent["top_logprobs"]), (&json!(true), &json!(20)));
    let text = sent["messages"][0]["content"][0]["text"].as_str().unwrap();
    assert!(
        text.contains("A: cat, B: dog") && text.ends_with("the letter alone."),
        "{text}"
    );
    let head = teacher.questions.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
}

#[tokio::test]
async fn a_refusal_is_billed_without_a_label_and_an_empty_account_is_no_reason_to_wait() {
    let refusal = completion(json!({ "content": null, "refusal": "I will not" }), json!({}));
    let teacher = RawTeacher::saying(refusal).await;
    let labels = client(&chat(&teacher, Response::Label))
        .await
        .infer(&[7; 6], 1, &attempt())
        .await
        .unwrap();
    assert!(matches!(&labels[0], Err(LabelError::Declined { reason }) if reason == "I will not"));

    let ask = async |said: String| -> TeacherFailure {
        let teacher = RawTeacher::saying(said).await;
        let client = client(&chat(&teacher, Response::Label)).await;
        client.infer(&[7; 6], 1, &attempt()).await.unwrap_err()
    };
    let busy = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    let busy = ask(answer(429, "Retry-After: 3\r\n", busy)).await;
    assert_eq!(
        (busy.is_fatal(), busy.retry_after.map(|wait| wait.as_secs())),
        (false, Some(3))
    );
    assert!(busy.message.ends_with("slow down"), "{busy}");
    let empty = r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let empty = ask(answer(429, "", empty)).await;
    assert_eq!(empty.kind, FailureKind::Rejected { status: 429 });
    assert!(empty.is_fatal() && empty.billing() == Billing::Refused);
    assert_eq!(ask(ok(r#"{"choices":[]}"#)).await.billing(), Billing::Billed);
}

#[tokio::test]
async fn a_template_speaks_to_any_server() {
    let said = ok(r#"{"predictions":[[0.25,0.75],[1,0]]}"#);
    let teacher = RawTeacher::saying(said).await;
    let mut spec = TeacherSpec {
        protocol: Protocol::Json,
        request: Some(
            json!({ "id": "{{requestId}}", "instances": { "{{each}}": { "pixels": "{{image.pixels.flat}}" } } }),
        ),
        answer: Some(AnswerSpec {
            images: Some("/predictions".into()),
            values: Some(String::new()),
            ..AnswerSpec::default()
        }),
        ..spec(teacher.address)
    };
    spec.url.push_str("/predict");
    let (client, info) = connect(&spec, SHAPE, Some(2)).await.unwrap();
    assert_eq!((info.classes, info.max_batch), (Some(2), Some(64)));
    let two: Vec<u8> = (0..12).collect();
    let labels = client.infer(&two, 2, &attempt()).await.unwrap();
    assert_eq!(labels[0].as_ref().unwrap().probabilities(), [0.25, 0.75]);
    let sent = sent(&teacher);
    assert_eq!(sent["instances"][1]["pixels"], json!([6, 7, 8, 9, 10, 11]));
    assert_eq!(sent["id"], teacher.header("x-request-id")[0]);
    assert!(teacher.questions.lock().unwrap()[0].starts_with("POST /predict "));
    let mut other = spec.clone();
    other.model = "another".into();
    assert_ne!(
        connect(&other, SHAPE, Some(2)).await.unwrap().1.fingerprint,
        info.fingerprint
    );
    for spec in [&mut spec, &mut other] {
        spec.fingerprint = Some("digits".into());
    }
    let named = connect(&spec, SHAPE, Some(2)).await.unwrap().1.fingerprint;
    assert_eq!(
        connect(&other, SHAPE, Some(2)).await.unwrap().1.fingerprint,
        named,
        "a declared name is enough"
    );
}
