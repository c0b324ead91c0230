//! The queue between the coordinator and its gateways, as a job file names it.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::check::{JobError, require};

/// A Redis server, as `queue: redis://HOST:PORT/DB` or as a map. Without one, the queue is in the
/// coordinator's memory and the only gateway is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// `redis://[USER@]HOST:PORT/DB` or, under TLS, `rediss://...`.
    pub url: String,
    /// What the job's keys begin with; the job's name when absent.
    pub prefix: Option<String>,
    /// Where the password is.
    pub password: Option<SecretSource>,
    /// Certificates of the authorities that are trusted beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Where a secret is. Job files never hold one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SecretSource {
    /// A file that holds it, white space at the ends aside.
    File(PathBuf),
    /// An environment variable of each process that needs it.
    Environment(String),
}

/// The map form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Map {
    url: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    password: Option<SecretSource>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
}

impl From<Map> for QueueSpec {
    fn from(map: Map) -> Self {
        let Map {
            url,
            prefix,
            password,
            ca_file,
        } = map;
        Self {
            url,
            prefix,
            password,
            ca_file,
        }
    }
}

impl<'de> Deserialize<'de> for QueueSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrMap;
        impl<'de> Visitor<'de> for UrlOrMap {
            type Value = QueueSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("redis://HOST:PORT or a map with `url`")
            }

            fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<QueueSpec, E> {
                Ok(QueueSpec {
                    url: url.to_owned(),
                    prefix: None,
                    password: None,
                    ca_file: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<QueueSpec, A::Error> {
                Map::deserialize(MapAccessDeserializer::new(map)).map(QueueSpec::from)
            }
        }
        deserializer.deserialize_any(UrlOrMap)
    }
}

impl QueueSpec {
    /// What can be checked without a connection.
    pub(super) fn check(&self) -> Result<(), JobError> {
        let scheme = self.url.starts_with("redis://") || self.url.starts_with("rediss://");
        let expected = "an address that begins with redis:// or rediss://";
        require(scheme, "spec.queue.url", expected, self.shown())?;
        let prefix = self.prefix.as_deref().unwrap_or("job");
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let expected = "1 to 100 letters, digits, '.', '_' and '-'";
        require(
            (1..=100).contains(&prefix.len()) && prefix.chars().all(plain),
            "spec.queue.prefix",
            expected,
            prefix,
        )
    }

    /// The address with nothing secret in it, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.url.split_once("://") {
            Some((scheme, rest)) => {
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                format!("{scheme}://{host}")
            }
            None => "(not an address)".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<QueueSpec, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_or_a_map_names_a_server() {
        let short = parse("redis://127.0.0.1:6379/2").unwrap();
        assert_eq!(short.url, "redis://127.0.0.1:6379/2");
        let long = parse("{ url: 'rediss://r:6380', prefix: mnist, password: { environment: PW } }").unwrap();
        assert_eq!(long.password, Some(SecretSource::Environment("PW".into())));
        assert_eq!(long.prefix.as_deref(), Some("mnist"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        let error = parse("{ url: 'redis://r', prefx: a }").unwrap_err();
        assert!(error.contains("prefx") && error.contains("prefix"), "{error}");
    }

    #[test]
    fn a_password_in_the_address_is_not_shown() {
        let spec = parse("redis://me:secret@host:6379/1").unwrap();
        assert_eq!(spec.shown(), "redis://host:6379/1");
    }
}
