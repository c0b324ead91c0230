//! Both ends of a new connection prove that they know the job's secret, and agree on the ring.
//!
//! | message | from | bytes | content (little endian) |
//! |---|---|---|---|
//! | hello | connector | 64 | `SHRING02`, group `u64`, sender's rank `u32`, receiver's rank `u32`, world size `u32`, zero `u32`, nonce `[32]` |
//! | answer | acceptor | 64 | nonce `[32]`, proof `[32]` of `A`, hello and nonce |
//! | proof | connector | 32 | proof `[32]` of `C`, hello and answer's nonce |
//! | welcome | acceptor | 1 | `1` |
//!
//! A proof is BLAKE3 keyed with a key derived from the secret for this use alone, over the letter
//! of the role and both fresh nonces: neither replay nor reflection of what was seen elsewhere
//! fits. Hashes are compared in constant time. Over a sealed connection (see `seal`) all of this runs inside the
//! session, and each proof goes over 32 bytes more that are this session's alone. Otherwise the frames that
//! follow are not encrypted or signed: the network between workers is trusted with content, not with membership.

use std::{io, time::Instant};

use super::{GroupId, wire::Wire};

const MAGIC: &[u8; 8] = b"SHRING02";
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
pub(super) fn greet(wire: &mut Wire, terms: &Terms, secret: &[u8; 32], until: Instant) -> Result<(), Refusal> {
    let hasher = hasher(wire, secret)?;
    let mut hello = [0; HELLO_BYTES];
    hello[..HELLO_BYTES - NONCE_BYTES].copy_from_slice(&terms.encode());
    hello[HELLO_BYTES - NONCE_BYTES..].copy_from_slice(&nonce()?);
    wire.say(&hello)?;
    let answered: [u8; NONCE_BYTES] = wire.hear(until)?;
    let proved: [u8; 32] = wire.hear(until)?;
    if proof(&hasher, b"A", &hello, &answered) != blake3::Hash::from_bytes(proved) {
        return Err(Refusal::Wrong("it does not know the job's secret"));
    }
    wire.say(proof(&hasher, b"C", &hello, &answered).as_bytes())?;
    let welcome: [u8; 1] = wire.hear(until)?;
    if welcome == WELCOME {
        Ok(())
    } else {
        Err(Refusal::Wrong("it did not welcome this rank"))
    }
}

/// The acceptor's part, which ends at `until`.
pub(super) fn receive(wire: &mut Wire, terms: &Terms, secret: &[u8; 32], until: Instant) -> Result<(), Refusal> {
    let hasher = hasher(wire, secret)?;
    let hello: [u8; HELLO_BYTES] = wire.hear(until)?;
    terms.check(&hello)?;
    let mine = nonce()?;
    wire.say(&mine)?;
    wire.say(proof(&hasher, b"A", &hello, &mine).as_bytes())?;
    let proved: [u8; 32] = wire.hear(until)?;
    if proof(&hasher, b"C", &hello, &mine) != blake3::Hash::from_bytes(proved) {
        return Err(Refusal::Wrong("it does not know the job's secret"));
    }
    wire.say(&WELCOME)?;
    Ok(())
}

/// What makes the proofs of one connection. Only who knows the secret, and is an end of this session if there is
/// one, has the same.
fn hasher(wire: &Wire, secret: &[u8; 32]) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(KEY_CONTEXT, secret));
    if let Some(binding) = wire.binding()? {
        hasher.update(&binding);
    }
    Ok(hasher)
}

fn proof(
    hasher: &blake3::Hasher,
    role: &[u8; 1],
    hello: &[u8; HELLO_BYTES],
    nonce: &[u8; NONCE_BYTES],
) -> blake3::Hash {
    hasher.clone().update(role).update(hello).update(nonce).finalize()
}

fn nonce() -> Result<[u8; NONCE_BYTES], Refusal> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::from)?;
    Ok(nonce)
}
