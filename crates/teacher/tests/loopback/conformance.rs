//! Our client against our server over loopback.

use std::path::Path;
use std::sync::Arc;

use crate::raw::{SHAPE, attempt, spec};
use stillhouse_core::job::{Response, TeacherSpec};
use stillhouse_core::key::hex;
use stillhouse_teacher::wire::{ErrorMessage, ModelStats};
use stillhouse_teacher::{
    BillFile, Billing, ConnectError, Datatype, FailureKind, Layout, ModelServer, OpenInference, Predict, Teacher,
    connect,
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) fn config(datatype: Datatype) -> ModelServer {
    ModelServer {
        name: "lenet5".into(),
        version: "7".into(),
        shape: SHAPE,
        classes: 2,
        datatype,
        max_batch: 8,
        response: Response::Probabilities,
        threads: 2,
    }
}

/// The share of white in the first pixel.
pub(crate) fn brightness() -> Predict {
    Arc::new(|pixels, _n| {
        let values = pixels.into_unit();
        Ok(values
            .chunks_exact(SHAPE.len())
            .flat_map(|i| [i[0], 1.0 - i[0]])
            .collect())
    })
}

async fn start(config: ModelServer, predict: Predict, bill: Option<&Path>) -> (TeacherSpec, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = spec(listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let bill = bill.map(|path| BillFile::open(path).unwrap());
    tokio::spawn(stillhouse_teacher::serve(
        listener,
        config,
        predict,
        bill,
        shutdown.clone(),
    ));
    (spec, shutdown.drop_guard())
}

#[tokio::test]
async fn images_go_out_and_labels_come_back_in_either_datatype() {
    let images: Vec<u8> = [0, 51, 255].iter().flat_map(|p| [*p, 1, 2, 3, 4, 5]).collect();
    for datatype in [Datatype::Uint8, Datatype::Fp32] {
        let folder = tempfile::tempdir().unwrap();
        let bill = folder.path().join("bill");
        let (spec, _guard) = start(config(datatype), brightness(), Some(&bill)).await;
        let client = OpenInference::connect(&spec, SHAPE, None).await.expect("connected");
        let info = client.info();
        assert_eq!((info.classes, info.max_batch), (Some(2), Some(8)));
        assert_eq!(
            (client.input().datatype, client.input().layout),
            (datatype, Layout::Nchw)
        );
        assert_eq!(info.version.as_deref(), Some("7"));
        let labels = client.infer(&images, 3, &attempt()).await.expect("labels");
        for (label, white) in labels.into_iter().zip([0.0, 0.2, 1.0]) {
            assert!((label.expect("sound").probabilities()[0] - white).abs() < 1e-6);
        }
        let billed: Vec<_> = images.chunks(6).map(|image| hex(&BillFile::digest(image))).collect();
        assert_eq!(BillFile::read(&bill).unwrap(), billed, "the pixels as they were sent");
        let stats = reqwest::get(format!("{}/v2/models/lenet5/stats", spec.url))
            .await
            .unwrap();
        let stats: ModelStats = stats.json().await.unwrap();
        assert_eq!(stats.model_stats[0].inference_count, 3);
        assert_eq!(stats.model_stats[0].execution_count, 1);
    }
}

#[tokio::test]
async fn logits_become_probabilities() {
    let logits: Predict = Arc::new(|_, n| Ok([0.0, 3.0_f32.ln()].repeat(n)));
    let server = ModelServer {
        response: Response::Logits,
        ..config(Datatype::Uint8)
    };
    let (mut spec, _guard) = start(server, logits, None).await;
    let refused = connect(&spec, SHAPE, None).await.err().expect("wrong response kind");
    assert_eq!(
        refused.to_string(),
        "the model's output: expected probabilities (spec.teacher.response), found logits"
    );
    spec.response = Response::Logits;
    let (client, _) = connect(&spec, SHAPE, None).await.expect("connected");
    let labels = client.infer(&[0; 6], 1, &attempt()).await.expect("labels");
    assert!((labels[0].as_ref().expect("sound").probabilities()[1] - 0.75).abs() < 1e-6);
}

#[tokio::test]
async fn a_teacher_that_does_not_fit_is_refused_before_anything_is_spent() {
    let folder = tempfile::tempdir().unwrap();
    let bill = folder.path().join("bill");
    let (spec, _guard) = start(config(Datatype::Uint8), brightness(), Some(&bill)).await;
    let refused = async |change: &dyn Fn(&mut TeacherSpec), shape| {
        let mut spec = spec.clone();
        change(&mut spec);
        connect(&spec, shape, None).await.err().expect("does not fit")
    };
    let error = refused(&|spec| spec.model = "vgg".into(), SHAPE).await;
    assert!(matches!(error, ConnectError::Refused { status: 404, .. }), "{error}");
    assert!(
        error.to_string().contains("expected model lenet5 version 7, found vgg"),
        "{error}"
    );
    let error = refused(&|spec| spec.version = Some("8".into()), SHAPE).await;
    assert!(error.to_string().contains("found lenet5 version 8"), "{error}");
    let wide = stillhouse_core::ImageShape { width: 4, ..SHAPE };
    let error = refused(&|_| (), wide).await;
    assert_eq!(
        error.to_string(),
        "the shape of the model's input: expected batches of 1x2x4 images, such as [-1, 1, 2, 4], \
         found [-1, 1, 2, 3]"
    );
    assert!(error.is_fatal());
    assert!(BillFile::read(&bill).unwrap().is_empty());
}

#[tokio::test]
async fn a_fingerprint_names_the_model_and_not_its_address() {
    let (here, _guard) = start(config(Datatype::Uint8), brightness(), None).await;
    let (there, _guard) = start(config(Datatype::Uint8), brightness(), None).await;
    let other = ModelServer {
        version: "8".into(),
        ..config(Datatype::Uint8)
    };
    let (newer, _guard) = start(other, brightness(), None).await;
    let (float, _guard) = start(config(Datatype::Fp32), brightness(), None).await;
    let fingerprint = async |spec: &TeacherSpec| {
        let (_, info) = connect(spec, SHAPE, None).await.expect("connected");
        info.fingerprint
    };
    let first = fingerprint(&here).await;
    assert_eq!(first, fingerprint(&there).await);
    assert_ne!(first, fingerprint(&newer).await);
    assert_ne!(first, fingerprint(&float).await);
    let pinned = TeacherSpec {
        version: Some("7".into()),
        ..here
    };
    assert_eq!(
        first,
        fingerprint(&pinned).await,
        "naming the served version changes nothing"
    );
}

#[tokio::test]
async fn a_failing_model_is_a_server_error_that_is_not_billed() {
    let folder = tempfile::tempdir().unwrap();
    let bill = folder.path().join("bill");
    let predict: Predict = Arc::new(|pixels, n| match pixels.into_bytes()[0] {
        0 => Err("out of memory".into()),
        1 => panic!("a planted panic"),
        2 => Ok(vec![1.0]),
        _ => Ok([1.0, 0.0].repeat(n)),
    });
    let (spec, _guard) = start(config(Datatype::Uint8), predict, Some(&bill)).await;
    let (client, _) = connect(&spec, SHAPE, None).await.expect("connected");
    for (pixel, cause) in [
        (0, "out of memory"),
        (1, "panicked"),
        (2, "expected 2 values from the model, found 1"),
    ] {
        let failure = client.infer(&[pixel; 6], 1, &attempt()).await.expect_err("fails");
        assert_eq!(failure.kind, FailureKind::Server { status: 500 });
        assert!(failure.message.contains(cause), "{failure}");
    }
    client.infer(&[3; 6], 1, &attempt()).await.expect("the threads live on");
    assert_eq!(BillFile::read(&bill).unwrap().len(), 1);
}

#[tokio::test]
async fn a_malformed_request_is_told_what_is_wrong() {
    let (spec, _guard) = start(config(Datatype::Uint8), brightness(), None).await;
    let http = reqwest::Client::new();
    let post = async |body: String| {
        let url = format!("{}/v2/models/lenet5/infer", spec.url);
        let response = http.post(url).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<ErrorMessage>().await.unwrap().error)
    };
    let input = |name: &str, shape: &str, datatype: &str, data: &str| {
        format!(r#"{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#)
    };
    let six = "[0,0,0,0,0,0]";
    for (body, cause) in [
        ("{".to_owned(), "EOF"),
        (r#"{"inputs":[]}"#.to_owned(), "exactly one input"),
        (input("image", "[1,1,2,3]", "UINT8", six), "found image of UINT8"),
        (input("images", "[1,1,2,3]", "FP32", six), "found images of FP32"),
        (input("images", "[]", "UINT8", six), "found []"),
        (input("images", "[0,1,2,3]", "UINT8", "[]"), "found [0, 1, 2, 3]"),
        (
            input("images", "[9,1,2,3]", "UINT8", six),
            "expected shape [1 to 8, 1, 2, 3]",
        ),
        (
            input("images", "[2,1,2,3]", "UINT8", six),
            "expected 12 values, found 6",
        ),
        (
            input("images", "[1,1,2,3]", "UINT8", "[0,0,0,0,0,256]"),
            "a value is no UINT8",
        ),
        (
            input("images", "[1,1,2,3]", "UINT8", "[0,0,0,0,0,0.5]"),
            "a value is no UINT8",
        ),
        (
            input("images", "[1,1,2,3]", "UINT8", "[0,0,0,0,0,null]"),
            "a value is no UINT8",
        ),
    ] {
        let (status, error) = post(body).await;
        assert!(status == 400 && error.contains(cause), "{status} {error}");
    }
    let (status, error) = post(" ".repeat(1 << 20)).await;
    assert!(status == 413 && error.contains("limit"), "{status} {error}");
    let nowhere = http.get(format!("{}/v3", spec.url)).send().await.unwrap();
    assert_eq!(nowhere.status().as_u16(), 404);
}

#[tokio::test]
async fn a_full_server_refuses_at_no_cost() {
    let (entered, arrivals) = std::sync::mpsc::channel();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new((gate, entered));
    let slow: Predict = Arc::new(move |_, n| {
        let gate = gate.lock().unwrap();
        let _ = gate.1.send(());
        // Until the test closes the gate.
        let _ = gate.0.recv();
        Ok([1.0, 0.0].repeat(n))
    });
    let server = ModelServer {
        threads: 1,
        ..config(Datatype::Uint8)
    };
    let (spec, _guard) = start(server, slow, None).await;
    let client = connect(&spec, SHAPE, None).await.expect("connected").0;
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { client.infer(&[0; 6], 1, &attempt()).await })
    };
    let mut waiting: Vec<_> = (0..65).map(|_| ask()).collect();
    tokio::task::spawn_blocking(move || arrivals.recv())
        .await
        .unwrap()
        .unwrap();
    // 64 wait for the model; the one that found no place is told at once.
    let refused = loop {
        if let Some(done) = waiting.iter().position(tokio::task::JoinHandle::is_finished) {
            break waiting.swap_remove(done).await.unwrap().expect_err("no place");
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.kind, FailureKind::Busy { status: 503 });
    assert_eq!(refused.billing(), Billing::Refused);
    assert_eq!(refused.retry_after.map(|wait| wait.as_secs()), Some(1));
    drop(open);
    for answer in waiting {
        answer.await.unwrap().expect("all others are answered");
    }
}
