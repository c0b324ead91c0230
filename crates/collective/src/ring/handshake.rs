//! Both ends of a new connection prove that they know the job's secret, and agree on the ring.
//!
//! | message | from | bytes | content (little endian) |
//! |---|---|---|---|
//! | hello | connector | 64 | `SHRING01`, group `u64`, sender's rank `u32`, receiver's rank `u32`, world size `u32`, zero `u32`, nonce `[32]` |
//! | answer | acceptor | 64 | nonce `[32]`, proof `[32]` of `A`, hello and nonce |
//! | proof | connector | 32 | proof `[32]` of `C`, hello and answer's nonce |
//! | welcome | acceptor | 1 | `1` |
//!
//! A proof is BLAKE3 keyed with a key derived from the secret for this use alone, over the letter
//! of the role and both fresh nonces: neither replay nor reflection of what was seen elsewhere
//! fits. Hashes are compared in constant time. The frames that follow are not encrypted or signed:
//! the network between workers is trusted with content, not with membership.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::GroupId;

const MAGIC: &[u8; 8] = b"SHRING01";
const NONCE_BYTES: usize = 32;
const HELLO_BYTES: usize = 32 + NONCE_BYTES;
const WELCOME: [u8; 1] = [1];
const KEY_CONTEXT: &str = "stillhouse.dev 2025-01 ring handshake";

/// Why a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Wrong(&'static str),
    #[error("connection failed")]
    Io(#[from] io::Error),
}

/// What both ends must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) group: GroupId,
    pub(super) sender: usize,
    pub(super) receiver: usize,
    pub(super) world_size: usize,
}

impl Terms {
    /// The first half of a hello.
    fn encode(&self) -> [u8; HELLO_BYTES - NONCE_BYTES] {
        let mut bytes = [0; HELLO_BYTES - NONCE_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.sender as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.receiver as u32).to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.world_size as u32).to_le_bytes());
        bytes
    }

    /// Compares the first half of a hello that came with the only one that is welcome.
    fn check(&self, hello: &[u8; HELLO_BYTES]) -> Result<(), Refusal> {
        let expected = self.encode();
        let differs = |from: usize, to: usize| hello[from..to] != expected[from..to];
        let wrong = |reason| Err(Refusal::Wrong(reason));
        if differs(0, 8) {
            return wrong("not the ring protocol");
        }
        if differs(8, 16) {
            return wrong("another group");
        }
        if differs(16, 32) {
            return wrong("another rank or world size");
        }
        Ok(())
    }
}

/// The connector's part. Waits for the acceptor until `until`.
pub(super) fn greet(mut stream: &TcpStream, terms: &Terms, secret: &[u8; 32], until: Instant) -> Result<(), Refusal> {
    let key = blake3::derive_key(KEY_CONTEXT, secret);
    let mut hello = [0; HELLO_BYTES];
    hello[..HELLO_BYTES - NONCE_BYTES].copy_from_slice(&terms.encode());
    hello[HELLO_BYTES - NONCE_BYTES..].copy_from_slice(&nonce()?);
    stream.write_all(&hello)?;
    let answered: [u8; NONCE_BYTES] = read(stream, until)?;
    let proved: [u8; 32] = read(stream, until)?;
    if proof(&key, b"A", &hello, &answered) != blake3::Hash::from_bytes(proved) {
        return Err(Refusal::Wrong("it does not know the job's secret"));
    }
    stream.write_all(proof(&key, b"C", &hello, &answered).as_bytes())?;
    let welcome: [u8; 1] = read(stream, until)?;
    if welcome == WELCOME {
        Ok(())
    } else {
        Err(Refusal::Wrong("it did not welcome this rank"))
    }
}

/// The acceptor's part, which ends at `until`.
pub(super) fn receive(mut stream: &TcpStream, terms: &Terms, secret: &[u8; 32], until: Instant) -> Result<(), Refusal> {
    let key = blake3::derive_key(KEY_CONTEXT, secret);
    let hello: [u8; HELLO_BYTES] = read(stream, until)?;
    terms.check(&hello)?;
    let mine = nonce()?;
    stream.write_all(&mine)?;
    stream.write_all(proof(&key, b"A", &hello, &mine).as_bytes())?;
    let proved: [u8; 32] = read(stream, until)?;
    if proof(&key, b"C", &hello, &mine) != blake3::Hash::from_bytes(proved) {
        return Err(Refusal::Wrong("it does not know the job's secret"));
    }
    stream.write_all(&WELCOME)?;
    Ok(())
}

fn proof(key: &[u8; 32], role: &[u8; 1], hello: &[u8; HELLO_BYTES], nonce: &[u8; NONCE_BYTES]) -> blake3::Hash {
    blake3::Hasher::new_keyed(key)
        .update(role)
        .update(hello)
        .update(nonce)
        .finalize()
}

fn nonce() -> Result<[u8; NONCE_BYTES], Refusal> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::from)?;
    Ok(nonce)
}

/// Reads exactly `N` bytes before `until`, however slowly they trickle.
fn read<const N: usize>(mut stream: &TcpStream, until: Instant) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refusal::Io(io::ErrorKind::TimedOut.into()));
        }
        // Rounded up to a unit that the system accepts: a timeout of zero means none.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(Refusal::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(Refusal::Io(error)),
        }
    }
    Ok(bytes)
}
