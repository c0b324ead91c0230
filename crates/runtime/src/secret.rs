//! The job's shared secret, never printed.

use std::{env, fmt, io, path::PathBuf};

/// Environment variable that holds the secret as 64 hexadecimal digits.
pub const TOKEN: &str = "STILLHOUSE_TOKEN";
/// Environment variable that names a file with the same content.
pub const TOKEN_FILE: &str = "STILLHOUSE_TOKEN_FILE";

/// Length of a secret.
pub const SECRET_BYTES: usize = 32;
/// A token file holds 64 digits and a line end; more than this is some other file.
const MAX_FILE_BYTES: u64 = 1024;

/// 256 bits that every process of a job knows and nobody else.
///
/// ```
/// let secret = stillhouse_runtime::Secret::generate()?;
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// # Ok::<(), stillhouse_runtime::secret::SecretError>(())
/// ```
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

/// Why there is no secret. No message holds any part of one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Neither variable is set.
    #[error("expected the job's secret in {TOKEN} or a file named by {TOKEN_FILE}, found neither")]
    Missing,
    /// Both variables are set; only one can be meant.
    #[error("expected one of {TOKEN} and {TOKEN_FILE}, found both")]
    Both,
    /// What was given is not a secret.
    #[error("expected 64 hexadecimal digits as the job's secret, found {found_bytes} bytes that are not")]
    Malformed {
        /// Length of what was given, white space at the ends aside.
        found_bytes: usize,
    },
    /// The file cannot be read.
    #[error("failed to read the job's secret from {path}")]
    File {
        /// The file that [`TOKEN_FILE`] names.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("failed to draw a secret")]
    Random {
        /// What the system said.
        source: io::Error,
    },
}

impl Secret {
    /// Draws a new secret from the operating system.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn generate() -> Result<Secret, SecretError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| SecretError::Random { source: error.into() })?;
        Ok(Secret(bytes))
    }

    /// Takes the secret from [`TOKEN`] or the file that [`TOKEN_FILE`] names.
    ///
    /// # Errors
    /// Any but [`SecretError::Random`]; an empty variable counts as unset.
    pub fn from_env() -> Result<Secret, SecretError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        match (set(TOKEN), set(TOKEN_FILE)) {
            (None, None) => Err(SecretError::Missing),
            (Some(_), Some(_)) => Err(SecretError::Both),
            (Some(token), None) => Secret::from_hex(&token.to_string_lossy()),
            (None, Some(path)) => Secret::from_file(path.into()),
        }
    }

    /// Reads the secret from a file of 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`SecretError::File`] or [`SecretError::Malformed`].
    pub fn from_file(path: PathBuf) -> Result<Secret, SecretError> {
        use io::Read as _;
        let mut text = String::new();
        match std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text)) {
            Ok(_) => Secret::from_hex(&text),
            Err(source) => Err(SecretError::File { path, source }),
        }
    }

    /// Reads 64 hexadecimal digits; white space at the ends is ignored.
    ///
    /// # Errors
    /// [`SecretError::Malformed`].
    pub fn from_hex(text: &str) -> Result<Secret, SecretError> {
        let text = text.trim();
        let hash = blake3::Hash::from_hex(text).map_err(|_| SecretError::Malformed {
            found_bytes: text.len(),
        })?;
        Ok(Secret(*hash.as_bytes()))
    }

    /// Writes the 64 digits, for the environment of a child process and for nothing else.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Returns the bytes, for keying a hash and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_being_written_and_read() {
        let secret = Secret::generate().unwrap();
        let read = Secret::from_hex(&format!(" {}\n", secret.to_hex())).unwrap();
        assert_eq!(read.expose(), secret.expose());
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(
            Secret::generate().unwrap().expose(),
            Secret::generate().unwrap().expose()
        );
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_secret() {
        let digits = "ab".repeat(31) + "xy";
        let error = Secret::from_hex(&digits).unwrap_err();
        assert!(!error.to_string().contains("abab") && !format!("{error:?}").contains("abab"));
        assert_eq!(
            format!("{:?}", Secret::from_hex(&"ab".repeat(32)).unwrap()),
            "Secret(..)"
        );
    }

    #[test]
    fn what_is_not_a_secret_is_refused() {
        for text in ["", "ab", &"ab".repeat(33), &"é".repeat(32)] {
            assert!(
                matches!(Secret::from_hex(text), Err(SecretError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_holds_a_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "0f".repeat(32) + "\n").unwrap();
        assert_eq!(Secret::from_file(path).unwrap().expose(), &[15; 32]);
        assert!(matches!(
            Secret::from_file(directory.path().join("none")),
            Err(SecretError::File { .. })
        ));
    }
}
