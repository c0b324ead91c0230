//! What unexpected bytes look like, so that an error can say more than "wrong magic".

use std::borrow::Cow;

/// What the first bytes of a file look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    what: Cow<'static, str>,
    hint: Option<&'static str>,
}

impl Found {
    /// How to go on with such a file.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Whether the bytes are of a format known here.
    pub(crate) fn is_known(&self) -> bool {
        self.hint.is_some()
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

const USE_FOLDER: &str = "put the images into a folder and set `spec.images.source` to `folder`";
const CONVERT: &str = "convert the images to PNG, keep them in a folder and set `spec.images.source` to `folder`";
const CONVERT_ARRAY: &str = "convert the array to IDX or PNG files";
const UNPACK: &str = "unpack it and set `spec.images.source` to `folder`";
const USE_TAR: &str = "set `spec.images.source` to `tar`";
const UNGZIP: &str = "gunzip it, or set `spec.images.source` to `tar` if it is a tar";
const NOT_DATA: &str = "the download may have failed: open the file in an editor";

/// Offset, magic bytes, name, hint.
const SIGNATURES: [(usize, &[u8], &str, &str); 18] = [
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", USE_FOLDER),
    (0, b"\xff\xd8\xff", "a JPEG image", USE_FOLDER),
    (8, b"WEBP", "a WebP image", CONVERT),
    (0, b"GIF8", "a GIF image", CONVERT),
    (0, b"BM", "a BMP image", CONVERT),
    (0, b"II*\0", "a TIFF image", CONVERT),
    (0, b"MM\0*", "a TIFF image", CONVERT),
    (257, b"ustar", "a tar", USE_TAR),
    (0, b"\x1f\x8b", "a gzip file", UNGZIP),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", UNPACK),
    (0, b"\x93NUMPY", "a NumPy array", CONVERT_ARRAY),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", CONVERT_ARRAY),
    (0, b"PAR1", "a Parquet file", CONVERT),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer",
        "fetch the file itself with `git lfs pull`",
    ),
    (0, b"<!DOCTYPE", "a web page", NOT_DATA),
    (0, b"<html", "a web page", NOT_DATA),
];

/// Names the format of a file by its first bytes (512 are enough for all).
pub(crate) fn looks_like(head: &[u8]) -> Found {
    if head.is_empty() {
        return known("an empty file".into(), "copy or download the file again");
    }
    for (offset, magic, what, hint) in SIGNATURES {
        if head.get(offset..).is_some_and(|tail| tail.starts_with(magic)) {
            return known(what.into(), hint);
        }
    }
    match head {
        [0, 0, 0x08..=0x0e, 1, ..] => known("an IDX labels file (idx1)".into(), "name the file with the images"),
        [0, 0, 0x08..=0x0e, dimensions @ 2..=8, ..] => known(
            format!("an IDX images file (idx{dimensions})").into(),
            "set `spec.images.source` to `idx`",
        ),
        [0x80, 2..=5, ..] => known(
            "a Python pickle".into(),
            "for CIFAR-10, use the binary version instead of the Python version",
        ),
        _ => Found {
            what: format!("data that starts with bytes {:02x?}", &head[..head.len().min(4)]).into(),
            hint: None,
        },
    }
}

fn known(what: Cow<'static, str>, hint: &'static str) -> Found {
    Found { what, hint: Some(hint) }
}
