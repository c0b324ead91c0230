//! Teachers behind TLS whose certificate only the job's own file vouches for.

use std::net::SocketAddr;
use std::sync::Arc;

use stillhouse_core::job::{Protocol, TeacherSpec};
use stillhouse_teacher::{Books, ConnectError, Datatype, Host, connect};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_util::sync::CancellationToken;

use crate::conformance::{brightness, config};
use crate::raw::{SHAPE, attempt, spec};

/// Ends TLS for `localhost` in front of `target`; where, and the certificate in PEM.
async fn in_front_of(target: SocketAddr) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us hangs up.
                let Ok(mut open) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut open, &mut plain).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test]
async fn a_private_root_is_trusted_where_the_job_names_it_and_nowhere_else() {
    let host = Host::start(config(Datatype::Uint8), brightness(), Books::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    for protocol in [Protocol::OpenInference, Protocol::OpenInferenceGrpc] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = match protocol {
            Protocol::OpenInferenceGrpc => host.grpc_router(),
            _ => host.router(),
        };
        let (proxy, pem) = in_front_of(listener.local_addr().unwrap()).await;
        let shutdown = CancellationToken::new();
        let _guard = shutdown.clone().drop_guard();
        tokio::spawn(stillhouse_teacher::server::serve_router(listener, router, shutdown));
        let stranger = TeacherSpec {
            protocol,
            url: format!("https://localhost:{}", proxy.port()),
            ..spec(proxy)
        };
        let error = connect(&stranger, SHAPE, None).await.err().unwrap();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        std::fs::write(&ca_file, pem).unwrap();
        let known = TeacherSpec {
            ca_file: Some(ca_file.clone()),
            ..stranger
        };
        let (teacher, _) = connect(&known, SHAPE, None).await.expect("trusted");
        let labels = teacher.infer(&[255; 6], 1, &attempt()).await.expect("labels");
        assert_eq!(labels[0].as_ref().unwrap().probabilities(), [1.0, 0.0]);
    }
    std::fs::write(&ca_file, "no certificate").unwrap();
    let empty = TeacherSpec {
        ca_file: Some(ca_file),
        ..spec("localhost:1")
    };
    let error = connect(&empty, SHAPE, None).await.err().unwrap();
    assert!(
        error.is_fatal() && error.to_string().starts_with("spec.teacher.caFile"),
        "{error}"
    );
}
