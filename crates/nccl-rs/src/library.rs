//! The library, opened at run time.

use std::ffi::{OsStr, OsString, c_int};
use std::fmt;

use crate::error::{Cause, NcclError, OpenError};
use crate::ffi::{NcclApi, RawUniqueId, UNIQUE_ID_BYTES};

/// Names the library's file; without it the loader looks for `libnccl.so.2`.
pub const PATH_VARIABLE: &str = "STILLHOUSE_NCCL";

/// NCCL, open until the process ends. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Nccl {
    pub(crate) api: &'static NcclApi,
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").finish_non_exhaustive()
    }
}

/// NCCL's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As in 2.32.3: 2.
    pub major: u32,
    /// As in 2.32.3: 32.
    pub minor: u32,
    /// As in 2.32.3: 3.
    pub patch: u32,
}

impl Version {
    /// Reads `NCCL_VERSION_CODE`, which had fewer digits up to 2.8.
    fn from_code(code: u32) -> Self {
        let base = if code < 10_000 { 1_000 } else { 10_000 };
        Self {
            major: code / base,
            minor: code % base / 100,
            patch: code % 100,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the ranks of one communicator find each other by. One rank gets it and gives it to the others
/// by a way of its own; that rank's process must live until all have joined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; UNIQUE_ID_BYTES]);

impl UniqueId {
    /// From the bytes that another rank sent.
    pub fn from_bytes(bytes: [u8; UNIQUE_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to send to other ranks. They hold an address and a secret number.
    pub fn as_bytes(&self) -> &[u8; UNIQUE_ID_BYTES] {
        &self.0
    }

    pub(crate) fn raw(self) -> RawUniqueId {
        RawUniqueId { internal: self.0 }
    }
}

/// Whoever has the bytes can join, so they are not shown.
impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(..)")
    }
}

impl Nccl {
    /// Opens the library that [`PATH_VARIABLE`] names, else `libnccl.so.2` where the loader finds it.
    ///
    /// # Errors
    /// There is no such library, or it is not NCCL 2.18 or later.
    pub fn open() -> Result<Self, OpenError> {
        let named = std::env::var_os(PATH_VARIABLE).filter(|path| !path.is_empty());
        Self::open_at(&named.unwrap_or_else(|| OsString::from("libnccl.so.2")))
    }

    /// Opens the library in a file, or by a name that the loader looks for.
    ///
    /// # Errors
    /// As [`Nccl::open`].
    pub fn open_at(path: &(impl AsRef<OsStr> + ?Sized)) -> Result<Self, OpenError> {
        NcclApi::open(path.as_ref()).map(|api| Self { api })
    }

    /// The library's version.
    ///
    /// # Errors
    /// The library's.
    pub fn version(self) -> Result<Version, NcclError> {
        let code = self
            .api
            .version()
            .map_err(|code| self.refused("reading the version", code))?;
        Ok(Version::from_code(code.unsigned_abs()))
    }

    /// Whether communicators can be shrunk: NCCL 2.27 and later.
    pub fn can_shrink(self) -> bool {
        self.api.has_shrink()
    }

    /// A new id for one communicator. Needs a network interface, but no card.
    ///
    /// # Errors
    /// The library's, for example without a network interface.
    pub fn unique_id(self) -> Result<UniqueId, NcclError> {
        match self.api.unique_id() {
            Ok(id) => Ok(UniqueId(id.internal)),
            Err(code) => Err(self.refused("getting a unique id", code)),
        }
    }

    /// The library's text for a result code.
    pub fn error_text(self, code: i32) -> String {
        self.api.error_text(code)
    }

    pub(crate) fn cause(self, code: c_int) -> Cause {
        Cause {
            code,
            text: self.api.error_text(code),
            last_message: self.api.last_error(),
        }
    }

    fn refused(self, operation: &'static str, code: c_int) -> NcclError {
        NcclError::Library {
            operation,
            cause: self.cause(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_codes_are_read_in_both_forms() {
        assert_eq!(Version::from_code(23_203).to_string(), "2.32.3");
        assert_eq!(Version::from_code(21_805).to_string(), "2.18.5");
        assert_eq!(Version::from_code(2_708).to_string(), "2.7.8");
    }

    #[test]
    fn the_secret_in_a_unique_id_is_not_shown() {
        let id = UniqueId::from_bytes([0x5a; UNIQUE_ID_BYTES]);
        assert_eq!(format!("{id:?}"), "UniqueId(..)");
    }
}
