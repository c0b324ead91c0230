//! The secret and the other headers of every request, and whom to trust.

use std::path::Path;

use reqwest::Certificate;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use stillhouse_core::job::{AuthSpec, TeacherSpec};

use super::ConnectError;
use super::error::mismatch;

/// More than this is no secret but some other file.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A secret that travels in a header; never printed.
pub(super) struct Credential {
    header: HeaderName,
    value: HeaderValue,
    secret: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}: hidden)", self.header)
    }
}

impl Credential {
    /// Reads the secret that `auth` names. The message of an error holds no part of it.
    pub(super) fn read(auth: &AuthSpec) -> Result<Self, ConnectError> {
        let (place, text) = match (&auth.file, &auth.environment) {
            (Some(file), _) => (file.display().to_string(), read_file(file)),
            (None, Some(name)) => {
                let text = std::env::var(name).map_err(|error| error.to_string());
                (format!("environment variable {name}"), text)
            }
            (None, None) => (String::new(), Err("neither a file nor a variable".to_owned())),
        };
        let wrong = |found: String| mismatch("spec.teacher.auth", format!("a secret in {place}"), found);
        let secret = text.map_err(wrong)?.trim().to_owned();
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            let bytes = secret.len();
            return Err(wrong(format!("{bytes} bytes that a header cannot carry")));
        }
        let header = HeaderName::try_from(&auth.header).map_err(|error| wrong(error.to_string()))?;
        let value = format!("{} {secret}", auth.scheme());
        let mut value = HeaderValue::try_from(value.trim()).map_err(|error| wrong(error.to_string()))?;
        value.set_sensitive(true);
        Ok(Self { header, value, secret })
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_SECRET_BYTES {
        return Err(format!("{length} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The headers that every request to the teacher of `spec` carries.
pub(super) fn headers(spec: &TeacherSpec, credential: Option<&Credential>) -> Result<HeaderMap, ConnectError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &spec.headers {
        let wrong = |error: String| mismatch("spec.teacher.headers", "names and values of headers", error);
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.to_string()))?;
        headers.insert(name, value);
    }
    if let Some(credential) = credential {
        headers.insert(credential.header.clone(), credential.value.clone());
    }
    Ok(headers)
}

/// The certificates in the PEM file at `path`.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>, ConnectError> {
    let expected = format!("certificates in PEM in {}", path.display());
    let wrong = |found: String| mismatch("spec.teacher.caFile", expected.clone(), found);
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("none".into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(header: &str, scheme: Option<&str>, file: &Path) -> AuthSpec {
        AuthSpec {
            header: header.into(),
            scheme: scheme.map(str::to_owned),
            file: Some(file.to_owned()),
            environment: None,
        }
    }

    #[test]
    fn a_secret_is_read_from_its_file_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " s3cret\n").unwrap();
        for (header, scheme, value) in [
            ("Authorization", None, "Bearer s3cret"),
            ("Authorization", Some("Basic"), "Basic s3cret"),
            ("X-Api-Key", None, "s3cret"),
        ] {
            let credential = Credential::read(&auth(header, scheme, &path)).unwrap();
            assert_eq!(credential.value, value);
            let shown = format!("{credential:?} {:?}", credential.value);
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        for bad in ["", "s3cret two", "s3cret\u{e9}"] {
            std::fs::write(&path, bad).unwrap();
            let error = Credential::read(&auth("a", None, &path)).unwrap_err();
            assert!(error.is_fatal() && !error.to_string().contains("s3cret"), "{error}");
        }
        let missing = Credential::read(&auth("a", None, &folder.path().join("none"))).unwrap_err();
        assert!(missing.to_string().contains("No such file"), "{missing}");
    }
}
