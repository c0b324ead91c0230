//! Links under TLS 1.3: the certificate that a listener shows, and the authority that a connector believes.
//!
//! Certificates prove nobody's right to be here: that is the job's secret, inside the session. The proof of
//! it is bound to the session by its exporter (RFC 9266), so that whoever stands between two ends, with a
//! certificate that is just as good, has a session of his own with each and can pass no proof on.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        ClientConfig, ConnectionCommon, Error, InconsistentKeys, InvalidMessage, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
        version::TLS13,
    },
};

use super::handshake::{Binding, Failure, NO_TLS, turn_away};

/// Chains and bundles have some tens of certificates of some kilobytes; more is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The first byte of every session: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 0x16;
/// What a peer that speaks no TLS hears: the fatal alert `protocol_version`, as a record.
const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 70];
/// RFC 9266, section 2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// Why a certificate, a key or an authority is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("expected {expected} in PEM in {path}, found none")]
    Pem {
        /// What it should hold.
        expected: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate are not of one pair.
    #[error("expected the key of the certificate in {certificate}, found another key in {key}")]
    OtherKey {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// What is in a file is no certificate or key that can be used here.
    #[error("cannot use what is in {path}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Error,
    },
    /// No certificate can have this name.
    #[error("expected a host name or an IP address as the name in the certificate, found {found:?}")]
    Name {
        /// What was given.
        found: String,
    },
}

/// The certificate and key of a listener. Clones share them.
///
/// The files are looked at again for every link: one that was replaced counts from the next link on, and
/// while what is there cannot be used, the last pair that could stays.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Reads a certificate, with its chain behind it, and its key, both PEM.
    ///
    /// # Errors
    /// Any of [`TlsError`] but `Name`. Whether it has expired is for the connectors to say.
    pub fn load(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        let pair = Rotating::open(Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has cipher suites of TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(pair));
        // Links are few and long: nothing is resumed.
        config.send_tls13_tickets = 0;
        Ok(Identity {
            config: Arc::new(config),
        })
    }
}

/// Where certificate and key are.
#[derive(Debug)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// When a file was written, which it is, and its length; `None` while it is not there.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Pair {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|path| {
            let of = fs::metadata(path).ok()?;
            Some((of.modified().ok()?, of.ino(), of.len()))
        })
    }

    fn read(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|_| TlsError::Pem {
            expected: "a private key that is not encrypted",
            path: self.key.clone(),
        })?;
        let usable = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Unusable { path, source }
        };
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(usable(&self.key))?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(Error::InconsistentKeys(_)) => Err(TlsError::OtherKey {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            Err(error) => Err(usable(&self.certificate)(error)),
        }
    }
}

/// The newest pair that could be used.
#[derive(Debug)]
struct Rotating {
    files: Pair,
    seen: Mutex<([Stamp; 2], Arc<CertifiedKey>)>,
}

impl Rotating {
    fn open(files: Pair) -> Result<Rotating, TlsError> {
        // Stamps first: what is replaced while it is read is read again.
        let stamps = files.stamps();
        let pair = Arc::new(files.read()?);
        Ok(Rotating {
            files,
            seen: Mutex::new((stamps, pair)),
        })
    }

    /// Two files of some kilobytes at most, and only when they have changed: short enough to wait for.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if seen.0 != stamps {
            let certificate = self.files.certificate.display();
            match self.files.read() {
                Ok(pair) => {
                    tracing::info!(%certificate, "took a new certificate");
                    seen.1 = Arc::new(pair);
                }
                Err(error) => tracing::warn!(%certificate, %error, "kept the last certificate"),
            }
            // One line a change, whatever came of it.
            seen.0 = stamps;
        }
        seen.1.clone()
    }
}

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// The authority that a connector believes, and the name that it expects in the certificate.
#[derive(Clone, Debug)]
pub struct Trust {
    authority: PathBuf,
    name: ServerName<'static>,
}

impl Trust {
    /// Takes certificates of authorities in PEM, and the name of the listener: a host name or an IP address.
    /// The file is read again for every link, as it may be replaced meanwhile.
    ///
    /// # Errors
    /// [`TlsError::Name`], and those of a file.
    pub fn load(authority: &Path, name: &str) -> Result<Trust, TlsError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name { found: name.to_owned() })?;
        let trust = Trust {
            authority: authority.to_owned(),
            name,
        };
        trust.roots().map(|_| trust)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(|source| TlsError::Unusable {
                path: self.authority.clone(),
                source,
            })?;
        }
        Ok(roots)
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has cipher suites of TLS 1.3")
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The connector's part, before anything else is said.
pub(super) async fn connect(stream: TcpStream, trust: &Trust) -> Result<(TlsStream<TcpStream>, Binding), Failure> {
    let config = trust.config().map_err(Failure::Trust)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(trust.name.clone(), stream);
    let stream = connected.await.map_err(|error| match reason(&error) {
        Some(Error::InvalidCertificate(_)) => Failure::Untrusted(error),
        // What a listener without TLS says is no record.
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Failure::Protection(NO_TLS),
        Some(_) => Failure::Tls(error),
        None => Failure::Io(error),
    })?;
    let binding = binding(stream.get_ref().1)?;
    Ok((stream.into(), binding))
}

/// The acceptor's part, before anything else is heard.
pub(super) async fn accept(
    mut stream: TcpStream,
    identity: &Identity,
) -> Result<(TlsStream<TcpStream>, Binding), Failure> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    if first != [HANDSHAKE_RECORD] {
        turn_away(&mut stream, &ALERT).await;
        return Err(Failure::Protection("does not speak TLS, which this listener expects"));
    }
    let accepted = TlsAcceptor::from(identity.config.clone()).accept(stream);
    let stream = accepted.await.map_err(|error| match reason(&error) {
        Some(_) => Failure::Tls(error),
        None => Failure::Io(error),
    })?;
    let binding = binding(stream.get_ref().1)?;
    Ok((stream.into(), binding))
}

/// What TLS has against the peer, where it is not the network that failed.
fn reason(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What both ends of this session, and nobody else, can compute.
fn binding<Side>(session: &ConnectionCommon<Side>) -> Result<Binding, Failure> {
    session
        .export_keying_material(Binding::default(), EXPORTER, None)
        .map_err(|error| Failure::Tls(io::Error::other(error)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| TlsError::Pem {
            expected: "certificates",
            path: path.to_owned(),
        })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::File {
            path: path.to_owned(),
            source,
        }),
    }
}
