//! Both ends prove that they know the secret before any other frame is read.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{LinkError, Purpose};
use crate::secret::Secret;

pub(super) const MAGIC: [u8; 8] = *b"SHLINK02";
/// No frame before the welcome is longer.
pub(super) const MAX_UNPROVED_BYTES: usize = 128;
const KEY_CONTEXT: &str = "stillhouse.dev 2025-01 link handshake";
const WELCOME: [u8; 1] = [1];
const NOT_OURS: &str = "it does not speak this protocol";
const NO_PURPOSE: &str = "it does not say what the link is for";
const HELLO_BYTES: usize = 8 + 1 + 32;
const NO_SECRET: &str = "it does not know the job's secret";

/// Who opened the connection.
#[derive(Clone, Copy)]
enum Role {
    Connector,
    Acceptor,
}

/// Why a handshake ended early.
enum Failure {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// The connector's part.
pub(super) async fn greet(
    stream: &mut TcpStream,
    peer: SocketAddr,
    secret: &Secret,
    purpose: Purpose,
    deadline: Duration,
) -> Result<(), LinkError> {
    let exchange = async {
        let mine = nonce()?;
        let mut hello = [0; HELLO_BYTES];
        hello[..8].copy_from_slice(&MAGIC);
        hello[8] = purpose.letter();
        hello[9..].copy_from_slice(&mine);
        let proof = |role, theirs: &[u8; 32]| proof(secret, role, purpose, &mine, theirs);
        send(stream, &hello).await?;
        let challenge: [u8; 64] = receive(stream).await?;
        let (theirs, proved) = halves(&challenge);
        if proof(Role::Acceptor, &theirs) != blake3::Hash::from_bytes(proved) {
            return Err(Failure::Refused(NO_SECRET));
        }
        send(stream, proof(Role::Connector, &theirs).as_bytes()).await?;
        // A listener that does not believe the proof closes the connection.
        match receive::<1>(stream).await {
            Ok(WELCOME) => Ok(()),
            Ok(_) => Err(Failure::Refused(NOT_OURS)),
            Err(failure) => Err(failure),
        }
    };
    finish(exchange, peer, deadline).await
}

/// The acceptor's part; returns what the link is for.
pub(super) async fn admit(
    stream: &mut TcpStream,
    peer: SocketAddr,
    secret: &Secret,
    deadline: Duration,
) -> Result<Purpose, LinkError> {
    let exchange = async {
        let hello: [u8; HELLO_BYTES] = receive(stream).await?;
        let Some([letter, theirs @ ..]) = hello.strip_prefix(&MAGIC) else {
            return Err(Failure::Refused(NOT_OURS));
        };
        let purpose = Purpose::of_letter(*letter).ok_or(Failure::Refused(NO_PURPOSE))?;
        let theirs: [u8; 32] = theirs.try_into().expect("41 bytes less 9 are 32");
        let mine = nonce()?;
        let proof = |role| proof(secret, role, purpose, &theirs, &mine);
        let mut challenge = [0; 64];
        challenge[..32].copy_from_slice(&mine);
        challenge[32..].copy_from_slice(proof(Role::Acceptor).as_bytes());
        send(stream, &challenge).await?;
        let proved: [u8; 32] = receive(stream).await?;
        if proof(Role::Connector) != blake3::Hash::from_bytes(proved) {
            return Err(Failure::Refused(NO_SECRET));
        }
        send(stream, &WELCOME).await?;
        Ok(purpose)
    };
    finish(exchange, peer, deadline).await
}

async fn finish<T>(
    exchange: impl Future<Output = Result<T, Failure>>,
    peer: SocketAddr,
    deadline: Duration,
) -> Result<T, LinkError> {
    match timeout(deadline, exchange).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::Refused(reason))) => Err(LinkError::Refused { peer, reason }),
        Ok(Err(Failure::Io(source))) => Err(LinkError::Lost { peer, source }),
        Err(_) => Err(LinkError::HandshakeDeadline { peer, deadline }),
    }
}

/// What `role` sends to prove itself. Comparing two hashes takes the same time wherever they differ.
fn proof(secret: &Secret, role: Role, purpose: Purpose, connector: &[u8; 32], acceptor: &[u8; 32]) -> blake3::Hash {
    let key = blake3::derive_key(KEY_CONTEXT, secret.expose());
    let letter = match role {
        Role::Connector => b"C",
        Role::Acceptor => b"A",
    };
    blake3::Hasher::new_keyed(&key)
        .update(letter)
        .update(&[purpose.letter()])
        .update(connector)
        .update(acceptor)
        .finalize()
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

fn halves(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut first, mut second) = ([0; 32], [0; 32]);
    first.copy_from_slice(&bytes[..32]);
    second.copy_from_slice(&bytes[32..]);
    (first, second)
}

async fn send(stream: &mut TcpStream, payload: &[u8]) -> Result<(), Failure> {
    let mut frame = Vec::with_capacity(4 + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(stream.write_all(&frame).await?)
}

/// Reads a frame that can only be `N` bytes long; another length is read no further.
async fn receive<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N], Failure> {
    const {
        assert!(
            N <= MAX_UNPROVED_BYTES,
            "a message before the welcome is over the bound"
        )
    };
    if stream.read_u32_le().await? as usize != N {
        return Err(Failure::Refused(NOT_OURS));
    }
    let mut payload = [0; N];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}
