//! How to reach the server, and under which names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

use crate::QueueError;

/// Room of a queue when nothing else is said, references: 56 MiB in Redis.
const CAPACITY: usize = 1 << 20;
/// References a block when nothing else is said.
const BLOCK: usize = 64;
/// More than this in a block gains nothing, and makes one entry hold up the server: 230 kB.
const LARGEST_BLOCK: usize = 4_096;
/// Longer names only cost memory and bandwidth.
const LONGEST_PREFIX: usize = 100;
/// Patience with one answer: longer than a busy server takes, shorter than a user's.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a secret is read, each time a connection is made, so that it may change meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A file; white space at its end does not count.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl Credential {
    fn read(&self) -> Result<String, QueueError> {
        match self {
            Self::File(path) => Ok(text(path)?.trim_end().to_owned()),
            Self::Variable(name) => std::env::var(name)
                .map_err(|_| refused(format!("the environment variable {name} is not set or is not text"))),
        }
    }
}

/// Certificates, PEM files, for a server that is reached by `rediss://`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Authorities that may vouch for the server, instead of the machine's own list.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key, for a server that asks who calls.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How to reach a Redis queue. `Debug` shows no secret.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://HOST:PORT/DATABASE`, or `rediss://` for TLS. User and password may stand in it, and
    /// are never printed, but other programs see them: better name where they are kept.
    pub url: String,
    /// User, instead of the one in `url`.
    pub username: Option<Credential>,
    /// Password, instead of the one in `url`.
    pub password: Option<Credential>,
    /// Certificates of a `rediss://` connection.
    pub certificates: Certificates,
    /// Part of the name of every key, so that jobs do not meet: 1 to 100 characters, no braces,
    /// white space or control characters.
    pub prefix: String,
    /// References that may be in the queue, delivered or not, before whoever pushes has to wait.
    pub capacity: usize,
    /// References that travel, and are delivered, together: best what a gateway asks for at once.
    pub block: usize,
    /// An answer that takes longer counts as none.
    pub response_timeout: Duration,
}

impl RedisConfig {
    /// The queue of the job with `prefix` on the server at `url`, all else as usual.
    #[must_use]
    pub fn new(url: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            certificates: Certificates::default(),
            prefix: prefix.into(),
            capacity: CAPACITY,
            block: BLOCK,
            response_timeout: RESPONSE_TIMEOUT,
        }
    }

    /// References a block, within reason and never more than there is room for.
    pub(super) fn block(&self) -> usize {
        self.block.min(self.capacity).clamp(1, LARGEST_BLOCK)
    }

    /// Names of the keys, all in one slot of a cluster.
    pub(super) fn keys(&self) -> Result<Keys, QueueError> {
        let prefix = &self.prefix;
        let is_odd = |c: char| c == '{' || c == '}' || c.is_whitespace() || c.is_control();
        if prefix.is_empty() || prefix.len() > LONGEST_PREFIX || prefix.contains(is_odd) {
            let expected = format!("1 to {LONGEST_PREFIX} bytes without braces, white space and control characters");
            return Err(refused(format!("the key prefix must be {expected}, found {prefix:?}")));
        }
        Ok(Keys {
            stream: format!("stillhouse:{{{prefix}}}:queue"),
            marker: format!("stillhouse:{{{prefix}}}:life"),
        })
    }

    /// What connects, with the secrets as they are now.
    pub(super) fn client(&self) -> Result<Access, QueueError> {
        let info = self.connection_info()?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username.read()?);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.read()?);
        }
        let password = settings.password().map(str::to_owned);
        let address = info.addr().to_string();
        // Commands are small and somebody waits for each.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = if self.url.starts_with("rediss:") {
            use_a_crypto_provider();
            Client::build_with_tls(info, self.certificates()?)
        } else {
            Client::open(info)
        };
        let access = |client| Access {
            client,
            address: address.clone(),
            password: password.clone(),
        };
        client
            .map(access)
            .map_err(|e| refused(format!("cannot connect to {address} as configured: {e}")))
    }

    fn connection_info(&self) -> Result<ConnectionInfo, QueueError> {
        // The text is not repeated in errors: it may hold a password.
        let expected = "expected redis://HOST:PORT/DATABASE or rediss://HOST:PORT/DATABASE";
        let plain = self.url.starts_with("redis://") || self.url.starts_with("rediss://");
        if !plain || self.url.contains('#') {
            return Err(refused(format!("the queue's address is not usable: {expected}")));
        }
        let info = self.url.as_str().into_connection_info();
        info.map_err(|e| {
            refused(format!(
                "the queue's address is not usable: {expected} ({})",
                e.category()
            ))
        })
    }

    fn certificates(&self) -> Result<TlsCertificates, QueueError> {
        let read = |path: &PathBuf| text(path).map(String::into_bytes);
        let client = self.certificates.client.as_ref();
        let client = client.map(|(certificate, key)| {
            Ok(ClientTlsConfig {
                client_cert: read(certificate)?,
                client_key: read(key)?,
            })
        });
        Ok(TlsCertificates {
            client_tls: client.transpose()?,
            root_cert: self.certificates.authority.as_ref().map(read).transpose()?,
        })
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.connection_info().map(|info| info.addr().to_string());
        f.debug_struct("RedisConfig")
            .field("address", &address.as_deref().unwrap_or("unusable"))
            .field("tls", &self.url.starts_with("rediss:"))
            .field("username", &self.username)
            .field("password", &self.password)
            .field("certificates", &self.certificates)
            .field("prefix", &self.prefix)
            .field("capacity", &self.capacity)
            .field("block", &self.block)
            .field("response_timeout", &self.response_timeout)
            .finish()
    }
}

/// Names of the keys of a queue.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) stream: String,
    pub(super) marker: String,
}

/// A client, and what its errors must not say.
pub(super) struct Access {
    pub(super) client: Client,
    /// Host and port.
    pub(super) address: String,
    password: Option<String>,
}

impl Access {
    /// `text` without the password, should a server ever repeat it.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.password.as_deref() {
            Some(password) if !password.is_empty() => text.replace(password, "***"),
            _ => text.to_owned(),
        }
    }
}

pub(super) fn refused(reason: String) -> QueueError {
    QueueError::Refused { reason }
}

fn text(path: &Path) -> Result<String, QueueError> {
    std::fs::read_to_string(path).map_err(|e| refused(format!("{} cannot be read: {e}", path.display())))
}

/// TLS needs one for the process; whoever was first decides.
fn use_a_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race against another thread that does the same is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_job_share_a_slot() {
        let keys = RedisConfig::new("redis://localhost", "mnist-3").keys().unwrap();
        assert_eq!(keys.stream, "stillhouse:{mnist-3}:queue");
        assert_eq!(keys.marker, "stillhouse:{mnist-3}:life");
    }

    #[test]
    fn odd_prefixes_are_refused() {
        for prefix in ["", "a{b", "a}b", "a b", "a\nb", &"x".repeat(101)] {
            let refusal = RedisConfig::new("redis://localhost", prefix).keys().unwrap_err();
            assert!(matches!(refusal, QueueError::Refused { .. }), "{prefix:?}");
        }
    }

    #[test]
    fn no_password_is_ever_printed() {
        for url in [
            "redis://me:hunter2@host/0",
            "http://me:hunter2@host",
            "redis://me:hunter2@host/0#insecure",
            "redis://me:hunter2@host/zero",
            "redis://me:hunter2@",
        ] {
            let config = RedisConfig::new(url, "p");
            let shown = format!("{config:?} {:?}", config.client().map(|access| access.address));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_password_comes_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let mut config = RedisConfig::new("redis://old:wrong@host:7/2", "p");
        config.password = Some(Credential::File(path.clone()));
        let access = config.client().unwrap();
        let settings = access.client.get_connection_info().redis_settings();
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("old"), Some("s3cret"))
        );
        assert_eq!(access.address, "host:7");
        assert_eq!(access.redact("no s3cret here"), "no *** here");
        std::fs::remove_file(path).unwrap();
        assert!(matches!(config.client(), Err(QueueError::Refused { .. })));
    }
}
