//! Ports of this machine that programs keep over many lives.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which systems take the ports of outgoing connections (Linux: 32768 on): a
/// port that nobody listens on for a moment is not taken by one of those.
const FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;

/// An address of this machine on which nobody listens, a different one with each call.
///
/// # Panics
/// When every port is taken.
#[must_use]
pub fn free_address() -> SocketAddr {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    // Programs that run side by side begin at different ports.
    let begin = (std::process::id() % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let step = ASKED.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + (begin + step) % PORTS));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port of {FIRST} to {} is free", FIRST + PORTS - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_can_be_listened_on() {
        let (one, other) = (free_address(), free_address());
        assert_ne!(one, other);
        let _first = TcpListener::bind(one).unwrap();
        let _second = TcpListener::bind(other).unwrap();
    }
}
