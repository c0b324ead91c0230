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
use tokio::task::{JoinHandle, JoinSet};

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
    /// Body of every inference request.
    pub(crate) bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    accepting: JoinHandle<()>,
}

impl RawTeacher {
    /// Hands each inference the stream that it came on, which it may keep.
    pub(crate) async fn start<F, Fut>(on_infer: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let on_infer = Arc::new(on_infer);
        Self::keeping(move |stream, _| {
            let on_infer = on_infer.clone();
            async move {
                on_infer(stream).await;
                None
            }
        })
        .await
    }

    /// As [`RawTeacher::start`], for an inference that hands the stream back, told how many came
    /// before it on that connection.
    pub(crate) async fn keeping<F, Fut>(on_infer: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let on_infer = Arc::new(on_infer);
        let heard = (Arc::clone(&questions), Arc::clone(&bodies));
        let accepting = tokio::spawn(async move {
            // Ends with the task.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(handle(stream, on_infer.clone(), heard.clone()));
            }
        });
        Self {
            address,
            questions,
            bodies,
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

    /// A header of every inference request.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let questions = self.questions.lock().unwrap();
        let value = |head: &String| {
            let line = head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            });
            line.unwrap_or_default()
        };
        questions.iter().map(value).collect()
    }

    /// Closes the port and every connection.
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

/// Heads and bodies.
type Heard = (Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<Vec<u8>>>>);

async fn handle<F, Fut>(mut stream: TcpStream, on_infer: Arc<F>, (questions, bodies): Heard)
where
    F: Fn(TcpStream, usize) -> Fut,
    Fut: Future<Output = Option<TcpStream>>,
{
    let mut asked = 0;
    // A keep-alive server: it would serve many requests on one connection.
    while let Some((head, body)) = read_request(&mut stream).await {
        if head.starts_with("POST") {
            questions.lock().unwrap().push(head);
            bodies.lock().unwrap().push(body);
            match on_infer(stream, asked).await {
                Some(kept) => stream = kept,
                None => return,
            }
            asked += 1;
            continue;
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

/// Reads one whole request; its head and body, or `None` at the end of the stream.
async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
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
    Some((head, body))
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
