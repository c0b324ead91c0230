//! Ring connections under TLS 1.3, for networks that may be listened to.
//!
//! Nobody vouches for the certificates: a process makes one of its own, and its neighbour checks that it holds
//! the key and no more. Who it is, the handshake of the ring proves inside the session and for that session alone
//! (its `tls-exporter`, RFC 9266): whoever stands between two ranks has a session of his own with each, and can
//! pass no proof on.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, PeerIncompatible, ServerConfig,
    ServerConnection, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::TLS13,
};

/// Every rank's name in certificates, which nobody looks at.
const NAME: &str = "rank";
/// RFC 9266, section 2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// What both ends of one session alone know of it.
pub(super) type Binding = [u8; 32];

/// Why a process cannot seal its connections.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No certificate could be made.
    #[error("failed to make a certificate for the ring")]
    Certificate(#[from] rcgen::Error),
    /// It is of no use.
    #[error("cannot use the certificate that was made for the ring")]
    Unusable(#[from] Error),
}

/// What a process seals its ring connections with: a key that lives as long as the process. Clones share it.
#[derive(Clone, Debug)]
pub struct Seal {
    connecting: Arc<ClientConfig>,
    accepting: Arc<ServerConfig>,
}

impl Seal {
    /// Draws a key and signs a certificate for it with itself.
    ///
    /// # Errors
    /// [`SealError`], when the system gives no random bytes.
    pub fn new() -> Result<Seal, SealError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = AnyCertificate(provider.signature_verification_algorithms);
        let mut connecting = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        connecting.resumption = Resumption::disabled();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut accepting = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        // Whoever sends is the connector: nothing may come against the direction of the ring.
        accepting.send_tls13_tickets = 0;
        Ok(Seal {
            connecting: Arc::new(connecting),
            accepting: Arc::new(accepting),
        })
    }

    pub(super) fn connector(&self) -> Result<Connection, Error> {
        let name = ServerName::try_from(NAME).expect("a name of letters");
        ClientConnection::new(self.connecting.clone(), name).map(Connection::from)
    }

    pub(super) fn acceptor(&self) -> Result<Connection, Error> {
        ServerConnection::new(self.accepting.clone()).map(Connection::from)
    }
}

/// What the two ends of a session, and nobody else, can compute.
pub(super) fn binding(session: &Connection) -> Result<Binding, Error> {
    session.export_keying_material(Binding::default(), EXPORTER, None)
}

/// Believes every certificate whose key the other end has.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
