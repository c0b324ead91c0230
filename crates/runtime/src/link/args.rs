//! Options of the programs whose links may run under TLS.

use std::path::PathBuf;

use super::{Identity, Target, TlsError, Trust};
use crate::secret::Secret;

/// Environment variable in place of `--tls-ca`.
pub const TLS_CA: &str = "STILLHOUSE_TLS_CA";
/// Environment variable in place of `--tls-server-name`.
pub const TLS_SERVER_NAME: &str = "STILLHOUSE_TLS_SERVER_NAME";
/// Environment variable in place of `--tls-cert`.
pub const TLS_CERT: &str = "STILLHOUSE_TLS_CERT";
/// Environment variable in place of `--tls-key`.
pub const TLS_KEY: &str = "STILLHOUSE_TLS_KEY";

/// Options of who listens.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ListenArgs {
    /// Speak TLS where others join, with this certificate in PEM (its chain behind it). It may be replaced at any time.
    #[arg(long, env = TLS_CERT, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, env = TLS_KEY, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl ListenArgs {
    /// The certificate, where links are to run under TLS.
    ///
    /// # Errors
    /// When certificate or key are of no use.
    pub fn identity(&self) -> Result<Option<Identity>, TlsError> {
        let files = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        files.map(|(cert, key)| Identity::load(cert, key)).transpose()
    }
}

/// Options of who connects.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConnectArgs {
    /// Reach the coordinator under TLS, and believe the certificates of this authority, in PEM, alone.
    #[arg(long, env = TLS_CA, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name in the coordinator's certificate [default: the host of its address].
    #[arg(long, env = TLS_SERVER_NAME, value_name = "NAME", requires = "tls_ca")]
    pub tls_server_name: Option<String>,
}

impl ConnectArgs {
    /// The listener at `address`, which is `HOST:PORT`.
    ///
    /// # Errors
    /// When the authority or the name are of no use.
    pub fn target(&self, address: &str, secret: Secret) -> Result<Target, TlsError> {
        let name = self.tls_server_name.as_deref().unwrap_or_else(|| host(address));
        let trust = self.tls_ca.as_ref().map(|authority| Trust::load(authority, name));
        Ok(Target {
            address: address.to_owned(),
            secret,
            trust: trust.transpose()?,
        })
    }
}

/// The host of `HOST:PORT`; one of IPv6 stands in brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_certificate_is_the_host_of_the_address() {
        for (address, name) in [
            ("example.org:7700", "example.org"),
            ("10.0.0.1:7700", "10.0.0.1"),
            ("[::1]:7700", "::1"),
            ("example.org", "example.org"),
        ] {
            assert_eq!(host(address), name);
        }
    }
}
