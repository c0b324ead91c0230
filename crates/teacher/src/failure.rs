//! What a failed request means for the bill.
//!
//! The classification rests on two assumptions about paid endpoints, both the industry's custom:
//! a server that *refuses* (4xx, or 503) did no work and does not bill, and a request of which no
//! byte left (no connection) cannot be billed. Everything else after the first byte is unknown.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Whether the queries of a failed request were spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// Nothing was billed: no connection was made.
    NotSent,
    /// Nothing was billed: the teacher refused.
    Refused,
    /// Billed: the teacher answered, uselessly.
    Billed,
    /// Unknown.
    Ambiguous,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No connection: refused, unknown host, no TLS.
    Unreachable,
    /// 429 or 503: asked to come back later.
    Busy {
        /// HTTP status.
        status: u16,
    },
    /// Another 4xx, or a redirect: this request will never succeed.
    Rejected {
        /// HTTP status.
        status: u16,
    },
    /// 5xx other than 503: the teacher failed while it worked.
    Server {
        /// HTTP status.
        status: u16,
    },
    /// No whole answer before the deadline.
    Deadline,
    /// The connection was lost after the request began.
    Lost,
    /// An answer that is not one: wrong shape, wrong count, too long, not JSON.
    Malformed,
}

/// One failed request. Gateways report it to their coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct TeacherFailure {
    /// What happened.
    pub kind: FailureKind,
    /// How long the teacher asked us to wait, at most [`MAX_RETRY_AFTER`].
    pub retry_after: Option<Duration>,
    /// Cause, for people: what was expected and found, without secrets.
    pub message: String,
}

/// Longest wait that a teacher may ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

impl FailureKind {
    /// One word, for what is counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Busy { .. } => "busy",
            Self::Rejected { .. } => "rejected",
            Self::Server { .. } => "server",
            Self::Deadline => "deadline",
            Self::Lost => "lost",
            Self::Malformed => "malformed",
        }
    }

    /// The kind of an answer with HTTP `status`, or `None` for 200.
    #[must_use]
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            200 => None,
            429 | 503 => Some(Self::Busy { status }),
            300..=499 => Some(Self::Rejected { status }),
            500.. => Some(Self::Server { status }),
            _ => Some(Self::Malformed),
        }
    }
}

impl TeacherFailure {
    /// A failure without a wait.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            retry_after: None,
            message: message.into(),
        }
    }

    /// Whether the queries of the request were spent.
    #[must_use]
    pub fn billing(&self) -> Billing {
        match self.kind {
            FailureKind::Unreachable => Billing::NotSent,
            FailureKind::Busy { .. } | FailureKind::Rejected { .. } => Billing::Refused,
            FailureKind::Server { .. } | FailureKind::Deadline | FailureKind::Lost => Billing::Ambiguous,
            FailureKind::Malformed => Billing::Billed,
        }
    }

    /// Whether the same request would fail again: somebody has to mend the job or the teacher.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.kind, FailureKind::Rejected { .. } | FailureKind::Malformed)
    }
}

/// The wait that a `Retry-After` header asks for at `now`: seconds or an HTTP date (a past one is
/// no wait), at most [`MAX_RETRY_AFTER`]; `None` when it is neither.
///
/// Source: RFC 9110, section 10.2.3.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let wait = if digits {
        // Digits alone fail to parse only by overflow: longer than any cap.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_or_a_missing_connection_proves_that_nothing_was_billed() {
        let billing = |status| FailureKind::of_status(status).map(|kind| TeacherFailure::new(kind, "").billing());
        assert_eq!(billing(200), None);
        for status in [301, 307, 400, 401, 404, 413, 429, 499, 503] {
            assert_eq!(billing(status), Some(Billing::Refused), "{status}");
        }
        for status in [500, 501, 502, 504, 599] {
            assert_eq!(billing(status), Some(Billing::Ambiguous), "{status}");
        }
        for status in [202, 204, 206] {
            assert_eq!(billing(status), Some(Billing::Billed), "{status}");
        }
        let unreachable = TeacherFailure::new(FailureKind::Unreachable, "");
        assert_eq!(unreachable.billing(), Billing::NotSent);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_never_above_the_cap() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |value| parse_retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(wait("0"), Some(0));
        assert_eq!(wait(" 17 "), Some(17));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(wait("7200"), Some(3600));
        assert_eq!(wait("99999999999999999999999"), Some(3600));
        for bad in ["", "-1", "1.5", "soon", "+3"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }
}
