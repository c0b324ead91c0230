//! Where a teacher is, and what must not be printed about it.

use reqwest::Url;
use stillhouse_core::job::TeacherSpec;

use super::ConnectError;

/// A secret sent as `Authorization: Bearer`; never printed.
#[derive(Clone)]
pub struct BearerToken(pub(super) String);

impl BearerToken {
    /// Takes the token as it is, without `Bearer`, trimmed of white space; `None` when it is
    /// empty or holds a character that a header cannot carry.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        sound.then(|| Self(token.to_owned()))
    }
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerToken(hidden)")
    }
}

/// The addresses of one model.
#[derive(Clone)]
pub(super) struct Address {
    base: Url,
    model: String,
    version: Option<String>,
    secrets: Vec<String>,
}

impl Address {
    pub(super) fn new(spec: &TeacherSpec, token: Option<&BearerToken>) -> Result<Self, ConnectError> {
        let wrong = |found: String| ConnectError::Mismatch {
            what: "the teacher's url",
            expected: "http:// or https://, a host, and no query".into(),
            found,
        };
        let base = Url::parse(&spec.url).map_err(|error| wrong(error.to_string()))?;
        let http = matches!(base.scheme(), "http" | "https");
        if !http || base.query().is_some() || base.fragment().is_some() {
            return Err(wrong(shown(&base)));
        }
        let secrets = [base.password(), token.map(|token| token.0.as_str())];
        let secrets = secrets.into_iter().flatten().filter(|secret| !secret.is_empty());
        Ok(Self {
            secrets: secrets.map(str::to_owned).collect(),
            base,
            model: spec.model.clone(),
            version: spec.version.clone(),
        })
    }

    /// `path` under `/v2`.
    pub(super) fn server(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .push("v2")
            .extend(path);
        url
    }

    /// `path` under the model, and under its version where the job names one.
    pub(super) fn model(&self, path: &[&str]) -> Url {
        let mut segments = vec!["models", &self.model];
        if let Some(version) = &self.version {
            segments.extend(["versions", version]);
        }
        segments.extend(path);
        self.server(&segments)
    }

    /// Whether the teacher is on this machine, where no proxy can be meant.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// `text` from the teacher, fit to be shown: one line, at most 300 characters, no secrets.
    pub(super) fn excerpt(&self, text: &str) -> String {
        let hidden = self
            .secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"));
        let line: String = hidden
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect();
        line.trim().to_owned()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.base))
    }
}

/// `url` without user, password and query.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path().trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::spec;

    fn address(url: &str, version: Option<&str>) -> Address {
        let mut spec = spec(url);
        spec.version = version.map(str::to_owned);
        Address::new(&spec, BearerToken::new("t0ken").as_ref()).expect("an address")
    }

    #[test]
    fn paths_go_under_the_base_address() {
        let plain = address("http://127.0.0.1:8080", None);
        assert_eq!(plain.server(&["health", "ready"]).path(), "/v2/health/ready");
        assert_eq!(plain.model(&["infer"]).path(), "/v2/models/lenet5/infer");
        let prefixed = address("https://host/prefix/", Some("3"));
        assert_eq!(
            prefixed.model(&["infer"]).as_str(),
            "https://host/prefix/v2/models/lenet5/versions/3/infer"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let address = address("http://user:hunter2@host:81/a", None);
        assert_eq!(address.to_string(), "http://host:81/a");
        assert_eq!(address.excerpt("hunter2\nand t0ken"), "*** and ***");
        assert_eq!(address.excerpt(&"x".repeat(9_000)).len(), 300);
        let error = Address::new(&spec("http://user:hunter2@host?key=hunter2"), None);
        let error = error.err().expect("a query is refused").to_string();
        assert!(!error.contains("hunter2") && error.contains("http://host"), "{error}");
        assert_eq!(format!("{:?}", BearerToken::new("t0ken")), "Some(BearerToken(hidden))");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:1"] {
            assert!(address(url, None).is_loopback(), "{url}");
        }
        assert!(!address("http://example.org", None).is_loopback());
    }
}
