//! One unary gRPC call: framing, status, and what a failure means for the bill.
//!
//! Over the same HTTP client as every other protocol, and not through a gRPC library's channel: a
//! channel makes statuses of its own (a lost connection, a message that it cannot read) which look
//! like the server's, and only the server's can prove that nothing was billed.
//!
//! Source: gRPC's `PROTOCOL-HTTP2.md`, and its proposal A6 for `grpc-retry-pushback-ms`.

use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http_body_util::BodyExt;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use tokio::time::{Instant, timeout_at};

use crate::client::http::{Endpoint, malformed, retry_after};
use crate::failure::{FailureKind, MAX_RETRY_AFTER, TeacherFailure};
use crate::proto::{RetryInfo, RpcStatus, SERVICE};
use crate::teacher::Attempt;

/// Bytes before a message: 0 (not compressed) and its length as `u32`, big-endian.
const PREFIX: usize = 5;

/// Codes that a failure is classified by; all others leave its fate unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
    Unauthenticated,
    Other(u16),
}

impl Code {
    fn of(number: u16) -> Self {
        match number {
            3 => Self::InvalidArgument,
            5 => Self::NotFound,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            12 => Self::Unimplemented,
            16 => Self::Unauthenticated,
            other => Self::Other(other),
        }
    }

    /// The HTTP status that means the same (as `google.rpc.Code` maps them).
    pub(super) fn status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            // DEADLINE_EXCEEDED and UNAVAILABLE, which a server or its proxy may say at any moment.
            Self::Other(4) => 504,
            Self::Other(14) => 503,
            Self::Other(_) => 500,
        }
    }

    /// The server's own word, after it had the request: a refusal only where it says what is wrong
    /// with the request, or that there is too much of it.
    fn kind(self) -> FailureKind {
        let status = self.status();
        match self {
            Self::ResourceExhausted => FailureKind::Busy { status },
            Self::InvalidArgument
            | Self::NotFound
            | Self::PermissionDenied
            | Self::Unimplemented
            | Self::Unauthenticated => FailureKind::Rejected { status },
            Self::Other(_) => FailureKind::Server { status },
        }
    }
}

/// Calls `method` once.
///
/// # Errors
/// As [`Teacher::infer`](crate::Teacher::infer).
pub(super) async fn unary<A: Message + Default>(
    endpoint: &Endpoint,
    method: &str,
    request: &impl Message,
    attempt: &Attempt,
    limit: usize,
) -> Result<A, TeacherFailure> {
    let until = endpoint.until();
    let url = endpoint.address.join(&[SERVICE, method]);
    let response = endpoint
        .post(&url, headers(until), frame(request), attempt, until)
        .await?;
    let (parts, mut body) = reqwest_parts(response);
    let (mut message, mut trailers) = (vec![], parts.headers);
    loop {
        let frame = timeout_at(until, body.frame()).await.map_err(|_| endpoint.late())?;
        let Some(frame) = frame else { break };
        match frame.map_err(|error| endpoint.lost(error))?.into_data() {
            Ok(data) if message.len() + data.len() > limit + PREFIX => {
                return Err(malformed(format!("at most {limit} bytes"), "more"));
            }
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    check_status(endpoint, &trailers)?;
    unframe(&message)
}

fn reqwest_parts(response: reqwest::Response) -> (http::response::Parts, reqwest::Body) {
    http::Response::<reqwest::Body>::from(response).into_parts()
}

fn headers(until: Instant) -> HeaderMap {
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // At most eight digits; a deadline is an hour at most.
    let timeout = HeaderValue::try_from(format!("{}m", left.max(1))).expect("digits");
    headers.insert(HeaderName::from_static("grpc-timeout"), timeout);
    headers
}

fn frame(request: &impl Message) -> Vec<u8> {
    let length = request.encoded_len();
    let mut body = Vec::with_capacity(PREFIX + length);
    body.push(0);
    body.extend_from_slice(&(length as u32).to_be_bytes());
    request.encode(&mut body).expect("the buffer grows");
    body
}

/// The message of a call that went well.
fn unframe<A: Message + Default>(body: &[u8]) -> Result<A, TeacherFailure> {
    let framed = || malformed("one gRPC message, not compressed", format!("{} bytes", body.len()));
    let (prefix, message) = body.split_first_chunk::<PREFIX>().ok_or_else(framed)?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(framed());
    }
    A::decode(message).map_err(|error| malformed("a message of the protocol", error))
}

/// `trailers` are those of the answer, or its headers where it has nothing else.
fn check_status(endpoint: &Endpoint, trailers: &HeaderMap) -> Result<(), TeacherFailure> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let Some(status) = text("grpc-status").and_then(|status| status.parse::<u16>().ok()) else {
        let message = "the connection to the teacher was lost after the request began: no status at its end";
        return Err(TeacherFailure::new(FailureKind::Lost, message));
    };
    if status == 0 {
        return Ok(());
    }
    let said = text("grpc-message").unwrap_or_default();
    let cause = endpoint.address.excerpt(&percent_decoded(said));
    let message = format!("the teacher answered gRPC status {status}: {cause}");
    Err(TeacherFailure {
        retry_after: wait(trailers),
        ..TeacherFailure::new(Code::of(status).kind(), message.trim_end_matches(": "))
    })
}

/// The wait that a server asks for, in whichever way it says it.
fn wait(trailers: &HeaderMap) -> Option<Duration> {
    let pushback = trailers.get("grpc-retry-pushback-ms");
    let pushback = pushback
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_millis);
    let wait = pushback
        .or_else(|| retry_info(trailers))
        .or_else(|| retry_after(trailers));
    wait.map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// `RetryInfo` among the details of the status.
fn retry_info(trailers: &HeaderMap) -> Option<Duration> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let details = base64.decode(trailers.get("grpc-status-details-bin")?).ok()?;
    let status = RpcStatus::decode(&details[..]).ok()?;
    let info = status
        .details
        .into_iter()
        .find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay?;
    Some(Duration::new(
        u64::try_from(delay.seconds).ok()?,
        u32::try_from(delay.nanos).ok()?,
    ))
}

/// `grpc-message` without its percent encoding; what is not encoded soundly stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Billing;
    use crate::proto::{Any, Delay, ServerReadyResponse};

    #[test]
    fn only_a_servers_word_about_the_request_proves_that_nothing_was_billed() {
        let billing = |code| TeacherFailure::new(Code::of(code).kind(), "").billing();
        for refused in [3, 5, 7, 8, 12, 16] {
            assert_eq!(billing(refused), Billing::Refused, "{refused}");
        }
        for unknown in [1, 2, 4, 6, 9, 10, 11, 13, 14, 15, 17, 999] {
            assert_eq!(billing(unknown), Billing::Ambiguous, "{unknown}");
        }
        assert!(!TeacherFailure::new(Code::of(8).kind(), "").is_fatal());
        assert!(TeacherFailure::new(Code::of(3).kind(), "").is_fatal());
    }

    #[test]
    fn a_message_is_framed_and_comes_back() {
        let ready = ServerReadyResponse { ready: true };
        let body = frame(&ready);
        assert_eq!(unframe::<ServerReadyResponse>(&body), Ok(ready));
        let mut compressed = body.clone();
        compressed[0] = 1;
        for bad in [&body[..4], &body[..6], &[body.clone(), vec![0]].concat(), &compressed] {
            let failure = unframe::<ServerReadyResponse>(bad).unwrap_err();
            assert_eq!(failure.billing(), Billing::Billed, "{bad:?}");
        }
    }

    #[test]
    fn a_wait_is_read_in_every_way_that_servers_say_it() {
        let of = |name: &'static str, value: &str| {
            let mut trailers = HeaderMap::new();
            trailers.insert(name, value.parse().unwrap());
            wait(&trailers)
        };
        assert_eq!(of("grpc-retry-pushback-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(of("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(of("grpc-retry-pushback-ms", "-1"), None);
        let info = RetryInfo {
            retry_delay: Some(Delay {
                seconds: 7_200,
                nanos: 0,
            }),
        };
        let status = RpcStatus {
            code: 8,
            message: String::new(),
            details: vec![Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
                value: info.encode_to_vec(),
            }],
        };
        let details = base64::engine::general_purpose::STANDARD.encode(status.encode_to_vec());
        assert_eq!(of("grpc-status-details-bin", &details), Some(MAX_RETRY_AFTER));
        assert_eq!(of("grpc-status-details-bin", "!"), None);
    }

    #[test]
    fn a_message_of_a_status_may_be_percent_encoded() {
        assert_eq!(percent_decoded("a%20b%C3%A9 100%"), "a b\u{e9} 100%");
        assert_eq!(percent_decoded("%zz%"), "%zz%");
    }
}
