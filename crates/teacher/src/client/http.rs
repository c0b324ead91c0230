//! One HTTP exchange: no retry, no redirect, bounded in time and size, its failure classified.
//!
//! Connections are kept for [`IDLE`], which spares a handshake a request. What makes that safe:
//!
//! - hyper takes a request back from a kept connection that turns out to be closed only while no
//!   byte of it was written, and then uses another connection: that is still one request on the
//!   wire. reqwest's own retries (of requests that an HTTP/2 server says it did not process) are
//!   off.
//! - A failure after writing began is [`FailureKind::Lost`], on a kept connection as on a new one:
//!   its fate is unknown, and it is not sent again.
//! - Servers close idle connections after 2 s (gunicorn), 5 s (uvicorn, Node.js, Apache) or more. A
//!   connection that is given up after 1 s is practically never closed under a request.

use std::error::Error;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use stillhouse_core::job::TeacherSpec;
use tokio::time::{Instant, timeout_at};

use super::ConnectError;
use super::address::Address;
use super::credential::{self, Credential};
use crate::failure::{FailureKind, TeacherFailure, parse_retry_after};
use crate::teacher::Attempt;

/// Longest time to make a connection, and never more than half of the request's deadline: so a
/// deadline that passes before a connection exists is always seen as *not sent*.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(1);

/// Longest time spent on the text of a refusal, whose status is known already.
const CAUSE_DEADLINE: Duration = Duration::from_secs(2);

/// Most bytes of a refusal, or of an answer about a model.
const TEXT_BYTES: usize = 1 << 20;

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    One,
    /// With prior knowledge where there is no TLS: gRPC.
    Two,
}

/// A teacher's end of HTTP.
pub(super) struct Endpoint {
    client: Client,
    pub(super) address: Address,
    headers: HeaderMap,
    deadline: Duration,
}

impl Endpoint {
    /// Reads the secret and the certificates of `spec`; connects to nothing.
    pub(super) fn new(spec: &TeacherSpec, http: Http) -> Result<Self, ConnectError> {
        let credential = spec.auth.as_ref().map(Credential::read).transpose()?;
        let address = Address::new(&spec.url, credential.as_ref().map(Credential::secret))?;
        if credential.is_some() && address.is_in_the_open() {
            // Once a process, however often it connects.
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(%address, "the teacher's secret travels unencrypted: its address is no https");
            });
        }
        let deadline = Duration::from_secs_f64(spec.timeout_seconds);
        let client = client(spec, &address, deadline, http)?;
        Ok(Self {
            headers: credential::headers(spec, credential.as_ref())?,
            client,
            address,
            deadline,
        })
    }

    /// When a request that begins now must be over.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Asks a free endpoint.
    pub(super) async fn get(&self, url: &Url) -> Result<(StatusCode, Vec<u8>), ConnectError> {
        let until = self.until();
        let request = self.client.get(url.clone()).headers(self.headers.clone());
        let response = timeout_at(until, request.send()).await;
        let response = response
            .map_err(|_| self.unreachable(self.late().message))?
            .map_err(|error| self.unreachable(chain(error)))?;
        let status = response.status();
        let body = self.body(response, TEXT_BYTES, until).await;
        Ok((status, body.map_err(|failure| self.unreachable(failure.message))?))
    }

    /// Sends `body` once; anything but 200 is a failure, and the body of a 200 is left to the
    /// caller.
    ///
    /// # Panics
    /// When a name in `attempt` cannot stand in a header.
    pub(super) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
        attempt: &Attempt,
        until: Instant,
    ) -> Result<Response, TeacherFailure> {
        let request = self
            .client
            .post(url.clone())
            .headers(self.headers.clone())
            .headers(headers)
            .headers(names(attempt))
            .body(body);
        let response = match timeout_at(until, request.send()).await {
            Err(_) => return Err(self.late()),
            Ok(Err(error)) => return Err(self.failed(error)),
            Ok(Ok(response)) => response,
        };
        match FailureKind::of_status(response.status().as_u16()) {
            None => Ok(response),
            Some(kind) => Err(self.refusal(kind, response, until).await),
        }
    }

    async fn refusal(&self, kind: FailureKind, response: Response, until: Instant) -> TeacherFailure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let until = until.min(Instant::now() + CAUSE_DEADLINE);
        let body = self.body(response, TEXT_BYTES, until).await.unwrap_or_default();
        let (cause, code) = error_text(&body);
        // OpenAI's word for an empty account: waiting does not fill it.
        let kind = match kind {
            FailureKind::Busy { status: status @ 429 } if code == "insufficient_quota" => {
                FailureKind::Rejected { status }
            }
            kind => kind,
        };
        let message = format!("the teacher answered {status}: {}", self.address.excerpt(&cause));
        TeacherFailure {
            retry_after,
            ..TeacherFailure::new(kind, message.trim_end_matches(": "))
        }
    }

    /// The whole body of `response`, at most `limit` bytes, before `until`.
    pub(super) async fn body(
        &self,
        mut response: Response,
        limit: usize,
        until: Instant,
    ) -> Result<Vec<u8>, TeacherFailure> {
        let too_long = || malformed(format!("at most {limit} bytes"), "more");
        let announced = response.content_length();
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default() as usize);
        loop {
            let chunk = timeout_at(until, response.chunk()).await.map_err(|_| self.late())?;
            match chunk.map_err(|error| self.lost(error))? {
                Some(chunk) if bytes.len() + chunk.len() > limit => return Err(too_long()),
                Some(chunk) => bytes.extend_from_slice(&chunk),
                None => return Ok(bytes),
            }
        }
    }

    /// Not ready where waiting may help (busy, failing, or 200 that says no), else refused.
    pub(super) fn unusable(&self, url: &Url, status: StatusCode, body: &[u8]) -> ConnectError {
        let address = self.address.to_string();
        let cause = self.address.excerpt(&error_text(body).0);
        let waiting = status.is_success() || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        if waiting {
            let path = url.path();
            let cause = format!("{status} to {path}: {cause}");
            return ConnectError::NotReady { address, cause };
        }
        ConnectError::Refused {
            address,
            status: status.as_u16(),
            path: url.path().to_owned(),
            cause,
        }
    }

    pub(super) fn unreachable(&self, cause: String) -> ConnectError {
        ConnectError::Unreachable {
            address: self.address.to_string(),
            cause,
        }
    }

    pub(super) fn late(&self) -> TeacherFailure {
        TeacherFailure::new(
            FailureKind::Deadline,
            format!("the teacher gave no whole answer within {:?}", self.deadline),
        )
    }

    /// Not sent when there was no connection or no byte was written, else lost.
    fn failed(&self, error: reqwest::Error) -> TeacherFailure {
        if error.is_connect() || is_unstarted(&error) {
            let message = format!("the teacher at {} cannot be reached: {}", self.address, chain(error));
            return TeacherFailure::new(FailureKind::Unreachable, message);
        }
        self.lost(error)
    }

    pub(super) fn lost(&self, error: reqwest::Error) -> TeacherFailure {
        let cause = chain(error);
        let message = format!("the connection to the teacher was lost after the request began: {cause}");
        TeacherFailure::new(FailureKind::Lost, message)
    }
}

/// A client whose requests are on the wire at most once.
///
/// Proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`) are used, except for a teacher on this
/// machine.
fn client(spec: &TeacherSpec, address: &Address, deadline: Duration, http: Http) -> Result<Client, ConnectError> {
    let builder = Client::builder()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(IDLE)
        .connect_timeout(CONNECT_DEADLINE.min(deadline / 2))
        .user_agent(concat!("stillhouse/", env!("CARGO_PKG_VERSION")));
    let builder = match http {
        Http::One => builder.http1_only(),
        Http::Two => builder.http2_prior_knowledge(),
    };
    let builder = match &spec.ca_file {
        Some(path) => builder.tls_certs_merge(credential::certificates(path)?),
        None => builder,
    };
    let builder = if address.is_loopback() {
        builder.no_proxy()
    } else {
        builder
    };
    builder.build().map_err(|error| ConnectError::Unreachable {
        address: address.to_string(),
        cause: chain(error),
    })
}

/// The headers that name a request.
fn names(attempt: &Attempt) -> HeaderMap {
    let value = |text: &str| HeaderValue::try_from(text).expect("names of requests are visible ASCII");
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-request-id"), value(&attempt.request_id));
    if let Some(key) = &attempt.idempotency_key {
        headers.insert(HeaderName::from_static("idempotency-key"), value(key));
    }
    if let Some(parent) = &attempt.trace_parent {
        headers.insert(HeaderName::from_static("traceparent"), value(parent));
    }
    headers
}

/// Whether hyper says that it never began to write the request: it calls such a request canceled.
fn is_unstarted(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The wait that a `Retry-After` among `headers` asks for now.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// What an error body says, and its code: `{"error": "..."}`, `{"error": {"message", "code"}}`,
/// `{"message": "..."}` or `{"detail": "..."}`, else all of it.
fn error_text(body: &[u8]) -> (String, String) {
    let whole = || String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return (whole(), String::new());
    };
    let text = |pointer: &str| value.pointer(pointer).and_then(|text| text.as_str()).map(str::to_owned);
    let message = ["/error", "/error/message", "/message", "/detail"]
        .into_iter()
        .find_map(text);
    let code = text("/error/code").or_else(|| text("/error/type"));
    (message.unwrap_or_else(whole), code.unwrap_or_default())
}

pub(super) fn malformed(expected: impl std::fmt::Display, found: impl std::fmt::Display) -> TeacherFailure {
    let message = format!("the teacher's answer is not usable: expected {expected}, found {found}");
    TeacherFailure::new(FailureKind::Malformed, message)
}

/// The error and what caused it, on one line, without the address.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
