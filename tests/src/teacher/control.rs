//! Faults of a teacher in another process, switched while it serves: `PUT /fault` with the fault's
//! name. Nothing is billed by that.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::put;

use super::{Fault, locked};

/// A teacher that serves answers at once; one that is stopped does not.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) fn with_control(router: Router, fault: Arc<Mutex<Fault>>) -> Router {
    router.route(
        "/fault",
        put(async move |name: String| match name.parse::<Fault>() {
            Ok(chosen) => {
                *locked(&fault) = chosen;
                StatusCode::NO_CONTENT
            }
            Err(_) => StatusCode::BAD_REQUEST,
        }),
    )
}

/// Switches the fault of the teacher that serves at `teacher`; names as [`Fault`] parses them.
///
/// # Errors
/// When nobody answers, or there is no such fault.
pub fn set_fault(teacher: SocketAddr, fault: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&teacher, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let length = fault.len();
    write!(
        stream,
        "PUT /fault HTTP/1.1\r\nhost: {teacher}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{fault}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split(' ').nth(1) {
        Some("204") => Ok(()),
        _ => Err(io::Error::other(format!("the teacher does not take {fault}: {answer}"))),
    }
}
