//! What nodes serve to the API server: logs of containers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::network::Network;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A log file, and whether it may still grow.
pub type Log = (PathBuf, bool);

/// Serves `GET /containerLogs/NAMESPACE/POD/CONTAINER` over TLS; `find` knows the pods. Answers with the port.
///
/// # Errors
/// When no port can be had.
pub async fn serve(find: impl Fn(&str) -> Option<Log> + Send + Sync + 'static) -> anyhow::Result<u16> {
    let made = rcgen::generate_simple_self_signed(vec![Network::host().to_string()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(SocketAddr::from((Network::host(), 0))).await?;
    let port = listener.local_addr()?.port();
    let find = Arc::new(find);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, find) = (acceptor.clone(), find.clone());
            tokio::spawn(async move {
                // Whoever asked may be gone.
                let _served = answer(&acceptor, stream, &*find).await;
            });
        }
    });
    Ok(port)
}

async fn answer(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    find: &(dyn Fn(&str) -> Option<Log> + Send + Sync),
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let target = first.split(' ').nth(1).context("a request line")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pod = path.split('/').nth(3).unwrap_or_default();
    let mut stream = stream.into_inner();
    if find(pod).is_none() {
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await?;
        return Ok(stream.shutdown().await?);
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        .await?;
    let setting = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let tail = setting("tailLines").and_then(|lines| lines.parse().ok());
    copy(&mut stream, || find(pod), tail, setting("follow") == Some("true")).await?;
    Ok(stream.shutdown().await?)
}

async fn copy(
    stream: &mut TlsStream<TcpStream>,
    log: impl Fn() -> Option<Log>,
    tail: Option<usize>,
    follows: bool,
) -> anyhow::Result<()> {
    let (path, _) = log().context("a log")?;
    let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(tail.unwrap_or(usize::MAX))..] {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    let mut at = text.len() as u64;
    let mut may_grow = follows;
    while may_grow {
        may_grow = log().is_some_and(|(_, may_grow)| may_grow);
        let mut file = tokio::fs::File::open(&path).await?;
        tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(at)).await?;
        let mut more = Vec::new();
        at += file.read_to_end(&mut more).await? as u64;
        stream.write_all(&more).await?;
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
