//! One HTTP exchange: no retry, no redirect, no reused connection, bounded in time and size.

use std::error::Error;
use std::time::Duration;

use reqwest::{Client, Response};
use tokio::time::Instant;

use super::address::Address;

/// Longest time to make a connection, and never more than half of the request's deadline: so a
/// deadline that passes before a connection exists is always seen as *not sent*.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A client whose requests are sent exactly once.
///
/// Each request has a connection of its own. A kept connection that the server closes just as the
/// next request goes out fails in a way that cannot be told from a lost answer, so reuse would turn
/// idle time into queries in doubt. HTTP/2 is off for the same reason.
pub(super) fn client(address: &Address, deadline: Duration) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .http1_only()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_DEADLINE.min(deadline / 2))
        .user_agent(concat!("stillhouse/", env!("CARGO_PKG_VERSION")));
    if address.is_loopback() {
        return builder.no_proxy().build();
    }
    builder.build()
}

/// Why a body could not be read.
pub(super) enum BodyError {
    TooLong { limit: usize },
    Late,
    Lost(reqwest::Error),
}

/// The whole body of `response`, at most `limit` bytes, before `until`.
pub(super) async fn body(mut response: Response, limit: usize, until: Instant) -> Result<Vec<u8>, BodyError> {
    let too_long = BodyError::TooLong { limit };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_long);
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout_at(until, response.chunk()).await;
        match chunk.map_err(|_| BodyError::Late)?.map_err(BodyError::Lost)? {
            Some(chunk) if bytes.len() + chunk.len() > limit => return Err(too_long),
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => return Ok(bytes),
        }
    }
}

/// The error and what caused it, on one line, without the address.
pub(super) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
