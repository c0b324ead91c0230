//! The name of a query: equal keys are the same question to the same teacher.

use serde::{Deserialize, Serialize};

use crate::image::ImageShape;

/// BLAKE3 over the exact bytes of an image, its shape and the teacher's fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

/// What makes a teacher's answers this teacher's answers: BLAKE3 over protocol, model, version,
/// response kind and input encoding. Not its address: a teacher may move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Hashes the parts, each preceded by its length so that no two lists collide.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse teacher fingerprint v1");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl Key {
    /// The key of `pixels` (one image of `shape`) asked of the teacher with `fingerprint`.
    #[must_use]
    pub fn of(fingerprint: Fingerprint, shape: ImageShape, pixels: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse query key v1");
        hasher.update(&fingerprint.0);
        for side in [shape.channels, shape.height, shape.width] {
            hasher.update(&side.to_le_bytes());
        }
        hasher.update(pixels);
        Self(*hasher.finalize().as_bytes())
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", hex(&self.0[..6]))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({})", hex(&self.0[..6]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 2,
        width: 2,
    };

    #[test]
    fn a_key_depends_on_bytes_shape_and_teacher() {
        let teacher = Fingerprint::of(&["open-inference", "lenet5"]);
        let key = Key::of(teacher, SHAPE, &[1, 2, 3, 4]);
        assert_eq!(key, Key::of(teacher, SHAPE, &[1, 2, 3, 4]));
        assert_ne!(key, Key::of(teacher, SHAPE, &[1, 2, 3, 5]));
        let row = ImageShape {
            height: 1,
            width: 4,
            ..SHAPE
        };
        assert_ne!(key, Key::of(teacher, row, &[1, 2, 3, 4]));
        let other = Fingerprint::of(&["open-inferencelenet5"]);
        assert_ne!(key, Key::of(other, SHAPE, &[1, 2, 3, 4]));
    }
}
