//! Every way to the same model: JSON, raw tensors, gRPC; and one account of all of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use stillhouse_core::job::{Encoding, Protocol, Response, TeacherSpec};
use stillhouse_core::key::hex;
use stillhouse_teacher::server::serve_router;
use stillhouse_teacher::{
    Attempt, BillFile, Billing, Books, ConnectError, Datatype, FailureKind, Host, InvoiceFile, ModelServer,
    OpenInference, Predict, connect,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::conformance::{brightness, config};
use crate::raw::{SHAPE, attempt, spec};

/// A server that is asked over HTTP and gRPC.
struct Served {
    http: TeacherSpec,
    grpc: TeacherSpec,
    _guard: DropGuard,
}

async fn serve(config: ModelServer, predict: Predict, books: Books) -> Served {
    let host = Host::start(config, predict, books).unwrap();
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (http, grpc) = (listen().await, listen().await);
    let (at, grpc_at) = (http.local_addr().unwrap(), grpc.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(serve_router(http, host.router(), shutdown.clone()));
    tokio::spawn(serve_router(grpc, host.grpc_router(), shutdown.clone()));
    Served {
        http: spec(at),
        grpc: TeacherSpec {
            protocol: Protocol::OpenInferenceGrpc,
            ..spec(grpc_at)
        },
        _guard: shutdown.drop_guard(),
    }
}

impl Served {
    /// Each with a name for messages.
    fn ways(&self) -> [(&'static str, TeacherSpec); 3] {
        let json = TeacherSpec {
            encoding: Encoding::Json,
            ..self.http.clone()
        };
        [
            ("json", json),
            ("binary", self.http.clone()),
            ("grpc", self.grpc.clone()),
        ]
    }
}

fn images() -> Vec<u8> {
    [0, 51, 255].iter().flat_map(|p| [*p, 1, 2, 3, 4, 5]).collect()
}

#[tokio::test]
async fn every_way_gives_the_same_labels_and_has_the_same_fingerprint() {
    for datatype in [Datatype::Uint8, Datatype::Fp32] {
        let folder = tempfile::tempdir().unwrap();
        let (bill, invoice) = (folder.path().join("bill"), folder.path().join("invoice"));
        let books = Books::open(Some(&bill), Some(&invoice)).unwrap();
        let served = serve(config(datatype), brightness(), books).await;
        assert!(
            OpenInference::connect(&served.http, SHAPE, None)
                .await
                .unwrap()
                .is_binary()
        );
        let mut fingerprints = vec![];
        for (way, spec) in served.ways() {
            let (teacher, info) = connect(&spec, SHAPE, None).await.expect(way);
            assert_eq!((info.classes, info.max_batch), (Some(2), Some(8)), "{way}");
            fingerprints.push(info.fingerprint);
            let labels = teacher.infer(&images(), 3, &Attempt::new(way)).await.expect(way);
            for (label, white) in labels.into_iter().zip([0.0, 0.2, 1.0]) {
                assert!((label.expect("sound").probabilities()[0] - white).abs() < 1e-6, "{way}");
            }
        }
        assert_eq!(fingerprints, [fingerprints[0]; 3]);
        let digests: Vec<_> = images().chunks(6).map(|image| hex(&BillFile::digest(image))).collect();
        let thrice = [&digests[..]; 3].concat();
        assert_eq!(BillFile::read(&bill).unwrap(), thrice, "the same pixels");
        let lines = InvoiceFile::read(&invoice).unwrap();
        let lines: Vec<_> = lines.iter().map(|line| (&*line.request_id, line.images)).collect();
        assert_eq!(lines, [("json", 3), ("binary", 3), ("grpc", 3)]);
    }
}

#[tokio::test]
async fn the_most_probable_classes_and_single_labels_come_by_every_way() {
    let predict: Predict = Arc::new(|_, n| Ok([0.125, 0.5, 0.25, 0.125].repeat(n)));
    let model = ModelServer {
        classes: 4,
        ..config(Datatype::Uint8)
    };
    let served = serve(model, predict, Books::default()).await;
    for (response, want) in [
        (Response::TopK(1), [0.5 / 3.0, 0.5, 0.5 / 3.0, 0.5 / 3.0]),
        (Response::TopK(2), [0.125, 0.5, 0.25, 0.125]),
        (Response::Label, [0.0, 1.0, 0.0, 0.0]),
    ] {
        for (way, spec) in served.ways() {
            let spec = TeacherSpec { response, ..spec };
            let (teacher, _) = connect(&spec, SHAPE, None).await.expect(way);
            let labels = teacher.infer(&images(), 3, &attempt()).await.expect(way);
            assert_eq!(labels[2].as_ref().unwrap().probabilities(), want, "{way} {response}");
        }
    }
}

#[tokio::test]
async fn failures_over_grpc_are_classified() {
    let predict: Predict = Arc::new(|pixels, n| match pixels.into_bytes()[0] {
        0 => Err("out of memory".into()),
        _ => Ok([1.0, 0.0].repeat(n)),
    });
    let served = serve(config(Datatype::Uint8), predict, Books::default()).await;
    let (teacher, _) = connect(&served.grpc, SHAPE, None).await.unwrap();
    let failure = teacher.infer(&[0; 6], 1, &attempt()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Server { status: 500 });
    assert!(
        failure.billing() == Billing::Ambiguous && failure.message.contains("out of memory"),
        "{failure}"
    );
    let failure = teacher.infer(&[1; 54], 9, &attempt()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Rejected { status: 400 }, "{failure}");
    assert!(
        failure.message.contains("expected shape [1 to 8, 1, 2, 3]"),
        "{failure}"
    );
    teacher.infer(&[1; 6], 1, &attempt()).await.expect("it lives on");
    let other = TeacherSpec {
        model: "vgg".into(),
        ..served.grpc.clone()
    };
    let error = connect(&other, SHAPE, None).await.err().unwrap();
    assert!(matches!(error, ConnectError::Refused { status: 404, .. }), "{error}");
    assert!(error.to_string().contains("expected model lenet5"), "{error}");
    let nobody = TeacherSpec {
        url: "http://127.0.0.1:9".into(),
        ..served.grpc.clone()
    };
    let error = connect(&nobody, SHAPE, None).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_deadline_over_grpc_is_met() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let slow: Predict = Arc::new(move |_, n| {
        // Until the test ends.
        let _ = gate.lock().unwrap().recv();
        Ok([1.0, 0.0].repeat(n))
    });
    let served = serve(config(Datatype::Uint8), slow, Books::default()).await;
    let hasty = TeacherSpec {
        timeout_seconds: 1.0,
        ..served.grpc.clone()
    };
    let (teacher, _) = connect(&hasty, SHAPE, None).await.unwrap();
    let failure = teacher.infer(&[1; 6], 1, &attempt()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
    drop(open);
}

/// Passes connections on to `target` until the task is aborted, which cuts them all.
async fn wire_to(target: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let passing = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, passing)
}

#[tokio::test]
async fn a_connection_cut_under_a_request_leaves_its_fate_unknown_and_is_not_replayed() {
    let (entered, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let slow: Predict = Arc::new(move |_, n| {
        let _ = entered.send(());
        // Until the test opens the gate.
        let _ = gate.lock().unwrap().recv();
        Ok([1.0, 0.0].repeat(n))
    });
    let served = serve(config(Datatype::Uint8), slow, Books::default()).await;
    for (way, spec) in served.ways() {
        let target = spec.url.trim_start_matches("http://").parse().unwrap();
        let (address, passing) = wire_to(target).await;
        let spec = TeacherSpec {
            url: format!("http://{address}"),
            ..spec
        };
        let (teacher, _) = connect(&spec, SHAPE, None).await.expect(way);
        let asking = tokio::spawn({
            let teacher = teacher.clone();
            async move { teacher.infer(&[1; 6], 1, &attempt()).await }
        });
        arrivals.recv().await.unwrap();
        passing.abort();
        let failure = asking.await.unwrap().unwrap_err();
        assert_eq!(
            (failure.kind, failure.billing()),
            (FailureKind::Lost, Billing::Ambiguous),
            "{way}: {failure}"
        );
        let failure = teacher.infer(&[1; 6], 1, &attempt()).await.unwrap_err();
        assert_eq!(
            failure.billing(),
            Billing::NotSent,
            "{way}: nobody listens any more: {failure}"
        );
        open.send(()).unwrap();
        assert!(arrivals.try_recv().is_err(), "{way}: asked once");
    }
}

fn keyed(request_id: &str, key: &str) -> Attempt {
    Attempt {
        request_id: request_id.into(),
        idempotency_key: Some(key.into()),
        trace_parent: None,
    }
}

async fn with_books(path: &Path) -> Served {
    let books = Books::open(Some(path), None).unwrap();
    serve(config(Datatype::Uint8), brightness(), books).await
}

#[tokio::test]
async fn a_key_is_billed_once_by_whichever_way_and_in_whichever_life_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let bill = folder.path().join("bill");
    let mut labels = vec![];
    for life in 0..2 {
        let served = with_books(&bill).await;
        for (way, spec) in served.ways() {
            let (teacher, _) = connect(&spec, SHAPE, None).await.expect(way);
            let name = format!("{life}-{way}");
            labels.push(teacher.infer(&images(), 3, &keyed(&name, "k")).await.expect(way));
            let failure = teacher.infer(&[9; 18], 3, &keyed(&name, "k")).await.unwrap_err();
            assert_eq!(
                failure.billing(),
                Billing::Refused,
                "{way}: other images under the same key: {failure}"
            );
        }
    }
    assert!(labels.iter().all(|label| *label == labels[0]));
    assert_eq!(BillFile::read(&bill).unwrap().len(), 3);
    let served = with_books(&bill).await;
    let (teacher, _) = connect(&served.http, SHAPE, None).await.unwrap();
    teacher.infer(&images(), 3, &keyed("x", "another")).await.unwrap();
    assert_eq!(BillFile::read(&bill).unwrap().len(), 6);
}
