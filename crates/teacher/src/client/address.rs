//! Where a teacher is, and what must not be printed about it.

use reqwest::Url;

use super::ConnectError;
use super::error::mismatch;

/// The address of a teacher.
#[derive(Clone)]
pub(super) struct Address {
    base: Url,
    secrets: Vec<String>,
}

impl Address {
    /// `url` as the job has it; `secret` is what else must not be shown.
    pub(super) fn new(url: &str, secret: Option<&str>) -> Result<Self, ConnectError> {
        const WHAT: &str = "the teacher's url";
        const EXPECTED: &str = "http:// or https://, a host, and no query";
        let base = Url::parse(url).map_err(|error| mismatch(WHAT, EXPECTED, error))?;
        let http = matches!(base.scheme(), "http" | "https");
        if !http || base.query().is_some() || base.fragment().is_some() {
            return Err(mismatch(WHAT, EXPECTED, shown(&base)));
        }
        let secrets = [base.password(), secret].into_iter().flatten();
        Ok(Self {
            secrets: secrets.filter(|secret| !secret.is_empty()).map(str::to_owned).collect(),
            base,
        })
    }

    /// `path` under the address.
    pub(super) fn join(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(path);
        url
    }

    /// The address as it is.
    pub(super) fn url(&self) -> &Url {
        &self.base
    }

    /// Whether the teacher is on this machine, where no proxy can be meant.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether what is sent can be read on the way.
    pub(super) fn is_in_the_open(&self) -> bool {
        self.base.scheme() == "http" && !self.is_loopback()
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

    fn address(url: &str) -> Address {
        Address::new(url, Some("t0ken")).expect("an address")
    }

    #[test]
    fn paths_go_under_the_base_address() {
        let plain = address("http://127.0.0.1:8080");
        assert_eq!(plain.join(&["v2", "health", "ready"]).path(), "/v2/health/ready");
        let prefixed = address("https://host/prefix/");
        assert_eq!(prefixed.join(&["v2", "a b"]).as_str(), "https://host/prefix/v2/a%20b");
    }

    #[test]
    fn secrets_are_not_shown() {
        let address = address("http://user:hunter2@host:81/a");
        assert_eq!(address.to_string(), "http://host:81/a");
        assert_eq!(address.excerpt("hunter2\nand t0ken"), "*** and ***");
        assert_eq!(address.excerpt(&"x".repeat(9_000)).len(), 300);
        let error = Address::new("http://user:hunter2@host?key=hunter2", None);
        let error = error.err().expect("a query is refused").to_string();
        assert!(!error.contains("hunter2") && error.contains("http://host"), "{error}");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:1"] {
            assert!(address(url).is_loopback() && !address(url).is_in_the_open(), "{url}");
        }
        assert!(address("http://example.org").is_in_the_open());
        assert!(!address("https://example.org").is_in_the_open());
    }
}
