//! From a connection to a link: TLS where it is wanted, then the proof of the secret.

use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{
    Identity, Purpose, Trust,
    handshake::{self, Failure, Proof},
    tls,
};
use crate::secret::Secret;

/// A connection whose two ends know each other.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connector's part, under TLS when it trusts somebody.
pub(super) async fn greet(
    mut stream: TcpStream,
    secret: &Secret,
    trust: Option<&Trust>,
    purpose: Purpose,
) -> Result<Stream, Failure> {
    let Some(trust) = trust else {
        let proof = Proof { secret, binding: None };
        handshake::greet(&mut stream, proof, purpose).await?;
        return Ok(Stream::Plain(stream));
    };
    let (mut stream, binding) = tls::connect(stream, trust).await?;
    let binding = Some(binding);
    handshake::greet(&mut stream, Proof { secret, binding }, purpose).await?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// The acceptor's part, under TLS when it has a certificate; returns what the link is for.
pub(super) async fn admit(
    mut stream: TcpStream,
    secret: &Secret,
    identity: Option<&Identity>,
) -> Result<(Stream, Purpose), Failure> {
    let Some(identity) = identity else {
        let proof = Proof { secret, binding: None };
        let purpose = handshake::admit(&mut stream, proof).await?;
        return Ok((Stream::Plain(stream), purpose));
    };
    let (mut stream, binding) = tls::accept(stream, identity).await?;
    let binding = Some(binding);
    let purpose = handshake::admit(&mut stream, Proof { secret, binding }).await?;
    Ok((Stream::Tls(Box::new(stream)), purpose))
}
