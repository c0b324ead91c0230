//! Both ends prove that they know the secret before any other frame is read.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    time::timeout,
};

use super::{LinkError, Purpose, tls::TlsError};
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
const SPEAKS_TLS: &str = "speaks TLS: name its certificate authority with --tls-ca";
pub(super) const NO_TLS: &str =
    "does not speak TLS: leave --tls-ca away, or start the coordinator with --tls-cert and --tls-key";
/// How records of TLS begin: an alert, and the handshake.
const ALERT_RECORD: [u8; 2] = [0x15, 3];
const HANDSHAKE_RECORD: [u8; 2] = [0x16, 3];
/// How long a peer that is turned away may take to hear why, and what it may have said meanwhile: the longest
/// record of TLS.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 16 << 10;

/// What both ends of one TLS session alone know of it.
pub(super) type Binding = [u8; 32];

/// What both ends must know: the secret, and the session that the link runs in, if it runs in one.
#[derive(Clone, Copy)]
pub(super) struct Proof<'a> {
    pub(super) secret: &'a Secret,
    pub(super) binding: Option<Binding>,
}

/// Who opened the connection.
#[derive(Clone, Copy)]
enum Role {
    Connector,
    Acceptor,
}

/// Why a handshake ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The peer is not one of ours.
    Refused(&'static str),
    /// One end is under TLS and the other is not.
    Protection(&'static str),
    /// The authority is of no use any more.
    Trust(TlsError),
    /// The listener's certificate is not believed.
    Untrusted(io::Error),
    /// TLS ended the session.
    Tls(io::Error),
    /// The network.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// The connector's part.
pub(super) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proof: Proof<'_>,
    purpose: Purpose,
) -> Result<(), Failure> {
    let mine = nonce()?;
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(&MAGIC);
    hello[8] = purpose.letter();
    hello[9..].copy_from_slice(&mine);
    send(stream, &hello).await?;
    let challenge: [u8; 64] = match receive(stream).await? {
        Message::Ours(challenge) => challenge,
        Message::Foreign(ALERT_RECORD) => return Err(Failure::Protection(SPEAKS_TLS)),
        Message::Foreign(_) => return Err(Failure::Refused(NOT_OURS)),
    };
    let (theirs, proved) = halves(&challenge);
    if proof.of(Role::Acceptor, purpose, &mine, &theirs) != blake3::Hash::from_bytes(proved) {
        return Err(Failure::Refused(NO_SECRET));
    }
    send(stream, proof.of(Role::Connector, purpose, &mine, &theirs).as_bytes()).await?;
    // A listener that does not believe the proof closes the connection.
    match receive(stream).await? {
        Message::Ours(WELCOME) => Ok(()),
        Message::Ours(_) | Message::Foreign(_) => Err(Failure::Refused(NOT_OURS)),
    }
}

/// The acceptor's part; returns what the link is for.
pub(super) async fn admit(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proof: Proof<'_>,
) -> Result<Purpose, Failure> {
    let hello: [u8; HELLO_BYTES] = match receive(stream).await? {
        Message::Ours(hello) => hello,
        Message::Foreign(HANDSHAKE_RECORD) => {
            turn_away(stream, &framed(&MAGIC)).await;
            return Err(Failure::Protection("speaks TLS, and this listener does not"));
        }
        Message::Foreign(_) => return Err(Failure::Refused(NOT_OURS)),
    };
    let Some([letter, theirs @ ..]) = hello.strip_prefix(&MAGIC) else {
        return Err(Failure::Refused(NOT_OURS));
    };
    let purpose = Purpose::of_letter(*letter).ok_or(Failure::Refused(NO_PURPOSE))?;
    let theirs: [u8; 32] = theirs.try_into().expect("41 bytes less 9 are 32");
    let mine = nonce()?;
    let mut challenge = [0; 64];
    challenge[..32].copy_from_slice(&mine);
    challenge[32..].copy_from_slice(proof.of(Role::Acceptor, purpose, &theirs, &mine).as_bytes());
    send(stream, &challenge).await?;
    let Message::Ours(proved) = receive::<32>(stream).await? else {
        return Err(Failure::Refused(NOT_OURS));
    };
    if proof.of(Role::Connector, purpose, &theirs, &mine) != blake3::Hash::from_bytes(proved) {
        return Err(Failure::Refused(NO_SECRET));
    }
    send(stream, &WELCOME).await?;
    Ok(purpose)
}

/// Bounds all that comes before a link.
pub(super) async fn within<T>(
    deadline: Duration,
    peer: SocketAddr,
    exchange: impl Future<Output = Result<T, Failure>>,
) -> Result<T, LinkError> {
    let failure = match timeout(deadline, exchange).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(failure)) => failure,
        Err(_) => return Err(LinkError::HandshakeDeadline { peer, deadline }),
    };
    Err(match failure {
        Failure::Refused(reason) => LinkError::Refused { peer, reason },
        Failure::Protection(reason) => LinkError::Protection { peer, reason },
        Failure::Trust(source) => LinkError::Trust { source },
        Failure::Untrusted(source) => LinkError::Untrusted { peer, source },
        Failure::Tls(source) => LinkError::Tls { peer, source },
        Failure::Io(source) => LinkError::Lost { peer, source },
    })
}

/// Says a last word in the peer's own language, and waits a moment for it to hear: what was sent is lost with
/// a connection that is closed over unread bytes.
pub(super) async fn turn_away(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), word: &[u8]) {
    let told = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        copy(&mut stream.take(FAREWELL_BYTES), &mut sink()).await
    };
    // Whoever does not listen learns it from the closed connection.
    let _ = timeout(FAREWELL, told).await;
}

impl Proof<'_> {
    /// What `role` sends to prove itself. Comparing two hashes takes the same time wherever they differ.
    fn of(&self, role: Role, purpose: Purpose, connector: &[u8; 32], acceptor: &[u8; 32]) -> blake3::Hash {
        let key = blake3::derive_key(KEY_CONTEXT, self.secret.expose());
        let letter = match role {
            Role::Connector => b"C",
            Role::Acceptor => b"A",
        };
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(letter).update(&[purpose.letter()]);
        hasher.update(connector).update(acceptor);
        if let Some(binding) = &self.binding {
            hasher.update(binding);
        }
        hasher.finalize()
    }
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

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4 + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), payload: &[u8]) -> Result<(), Failure> {
    stream.write_all(&framed(payload)).await?;
    Ok(stream.flush().await?)
}

/// What was heard.
enum Message<const N: usize> {
    Ours([u8; N]),
    /// How something else begins.
    Foreign([u8; 2]),
}

/// Reads a frame that can only be `N` bytes long; another length is read no further.
async fn receive<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Message<N>, Failure> {
    const {
        assert!(
            N <= MAX_UNPROVED_BYTES,
            "a message before the welcome is over the bound"
        )
    };
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    if u32::from_le_bytes(length) as usize != N {
        return Ok(Message::Foreign([length[0], length[1]]));
    }
    let mut payload = [0; N];
    stream.read_exact(&mut payload).await?;
    Ok(Message::Ours(payload))
}
