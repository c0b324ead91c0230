//! How messages become bytes: bincode 2 with serde, the one place that knows it.
//!
//! bincode 2.0.1 is unmaintained (see `deny.toml`); the layout is its standard configuration with
//! fixed-width little-endian integers. Frames are made by the link, which bounds their length.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message: seed images and weights travel whole. 2 GiB less a page keeps lengths in i32.
pub const MAX_MESSAGE_BYTES: usize = (2 << 30) - 4096;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::Limit<MAX_MESSAGE_BYTES>,
> = bincode::config::standard()
    .with_fixed_int_encoding()
    .with_limit::<MAX_MESSAGE_BYTES>();

/// A message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not a message of this version.
    #[error("cannot decode a message of {length} bytes")]
    Decode {
        /// Length of what came.
        length: usize,
        /// Why.
        source: Box<bincode::error::DecodeError>,
    },
    /// Bytes were left over.
    #[error("a message of {length} bytes has {left} bytes too many")]
    Trailing {
        /// Length of what came.
        length: usize,
        /// Bytes after the message.
        left: usize,
    },
    /// Too long.
    #[error("cannot encode a message")]
    Encode(#[source] Box<bincode::error::EncodeError>),
}

/// The bytes of a message.
///
/// # Errors
/// When it is longer than [`MAX_MESSAGE_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(message, CONFIG).map_err(|error| CodecError::Encode(Box::new(error)))
}

/// The message in `bytes`, all of them. Lengths inside are checked against the limit before
/// anything is allocated.
///
/// # Errors
/// When `bytes` are not exactly one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let length = bytes.len();
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        Ok((message, used)) if used == length => Ok(message),
        Ok((_, used)) => Err(CodecError::Trailing {
            length,
            left: length - used,
        }),
        Err(error) => Err(CodecError::Decode {
            length,
            source: Box::new(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Fence, FromWorker, Report};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode::<FromWorker>(&bytes) {
                prop_assert_eq!(encode(&message).expect("short"), bytes);
            }
        }
    }

    #[test]
    fn a_message_comes_back_and_a_cut_one_does_not() {
        let report = Report::Failed {
            retry: true,
            cause: "peer lost".into(),
        };
        let message = FromWorker::Report {
            fence: Fence(7),
            report: report.clone(),
        };
        let bytes = encode(&message).expect("short");
        let back: FromWorker = decode(&bytes).expect("whole");
        assert!(matches!(back, FromWorker::Report { fence: Fence(7), report: r } if r == report));
        assert!(decode::<FromWorker>(&bytes[..bytes.len() - 1]).is_err());
        let long = [bytes, vec![0]].concat();
        assert!(matches!(
            decode::<FromWorker>(&long),
            Err(CodecError::Trailing { left: 1, .. })
        ));
    }
}
