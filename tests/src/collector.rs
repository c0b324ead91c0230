//! A collector of traces, which keeps what programs send it as OpenTelemetry's takes it: OTLP over HTTP, in protobuf.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode as SpanStatus};
use prost::Message;
use tokio::runtime::Runtime;

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who sent it.
    pub service: String,
    /// Its process.
    pub process: String,
    /// Its trace.
    pub trace: Vec<u8>,
    /// Its own name in the trace.
    pub id: Vec<u8>,
    /// The span that it hangs below; empty at the top.
    pub parent: Vec<u8>,
    /// What was done.
    pub name: String,
    /// What it says of that.
    pub said: BTreeMap<String, String>,
    /// Whether it failed.
    pub failed: bool,
    /// Nanoseconds from beginning to end.
    pub took: i128,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Seen>,
    /// Everything as it came.
    bytes: Vec<u8>,
}

/// Listens while it lives.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _runtime: Runtime,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When the system has no port or thread to spare.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let kept = Arc::<Mutex<Kept>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(kept.clone());
        let builder = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = builder.expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket that does not block");
            axum::serve(listener, router).await
        });
        Self {
            address,
            kept,
            _runtime: runtime,
        }
    }

    /// What a program must find in its environment to send its traces here at once.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ]
    }

    /// What came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Seen> {
        locked(&self.kept).spans.clone()
    }

    /// Whether anything that came has `text` in it.
    #[must_use]
    pub fn was_told(&self, text: &str) -> bool {
        let kept = locked(&self.kept);
        kept.bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut kept = locked(&kept);
    kept.bytes.extend_from_slice(&body);
    for sent in request.resource_spans {
        let resource = words(sent.resource.map(|resource| resource.attributes).unwrap_or_default());
        let spans = sent.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.spans.extend(spans.map(|span| seen(&resource, span)));
    }
    StatusCode::OK
}

fn seen(resource: &BTreeMap<String, String>, span: Span) -> Seen {
    let of = |name: &str| resource.get(name).cloned().unwrap_or_default();
    Seen {
        service: of("service.name"),
        process: of("process.pid"),
        failed: span.status.is_some_and(|status| status.code() == SpanStatus::Error),
        took: i128::from(span.end_time_unix_nano) - i128::from(span.start_time_unix_nano),
        trace: span.trace_id,
        id: span.span_id,
        parent: span.parent_span_id,
        name: span.name,
        said: words(span.attributes),
    }
}

fn words(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let word = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |attribute: KeyValue| Some((attribute.key, word(attribute.value?.value?)));
    attributes.into_iter().filter_map(pair).collect()
}
