//! A raw teacher that does what a test tells it, byte by byte.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stillhouse_core::ImageShape;
use stillhouse_core::job::{Protocol, TeacherSpec};
use stillhouse_teacher::Attempt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 2,
    width: 3,
};

pub(crate) fn spec(address: impl std::fmt::Display) -> TeacherSpec {
    TeacherSpec::new(Protocol::OpenInference, format!("http://{address}"), "lenet5")
}

/// A try with a name of its own.
pub(crate) fn attempt() -> Attempt {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Attempt::new(format!("try-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) const METADATA: &str = r#"{"name":"lenet5","versions":["1"],"platform":"x",
    "inputs":[{"name":"in","datatype":"UINT8","shape":[-1,1,2,3]}],
    "outputs":[{"name":"out","datatype":"FP32","shape":[-1,2]}]}"#;

/// A server that answers the free endpoints as a sound teacher, and an inference as told.
pub(crate) struct RawTeacher {
    pub(crate) address: SocketAddr,
    /// Head of every inference request.
    pub(crate) questions: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl RawTeacher {
    pub(crate) async fn start<F, Fut>(on_infer: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let (on_infer, heard) = (Arc::new(on_infer), Arc::clone(&questions));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(handle(stream, on_infer.clone(), heard.clone()));
            }
        });
        Self {
            address,
            questions,
            accepting,
        }
    }

    /// Answers each inference with these bytes and closes.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut stream| {
            let answer = answer.clone();
            async move { stream.write_all(&answer).await.unwrap() }
        })
        .await
    }

    pub(crate) fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
    }

    /// Closes the port.
    pub(crate) async fn stop(&mut self) {
        self.accepting.abort();
        assert!((&mut self.accepting).await.unwrap_err().is_cancelled());
    }
}

impl Drop for RawTeacher {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn handle<F, Fut>(mut stream: TcpStream, on_infer: Arc<F>, questions: Arc<Mutex<Vec<String>>>)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()>,
{
    // A keep-alive server: it would serve many requests on one connection.
    while let Some(head) = read_request(&mut stream).await {
        if head.starts_with("POST") {
            questions.lock().unwrap().push(head);
            on_infer(stream).await;
            return;
        }
        let body = if head.starts_with("GET /v2/models/lenet5 ") {
            METADATA
        } else {
            ""
        };
        let answer = ok(body);
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Reads one whole request; its head, or `None` at the end of the stream.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(str::to_owned)
    });
    let length = length.map_or(0, |length| length.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

/// A whole 200 with `body`.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A whole answer with `status`, header lines and `body`.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
