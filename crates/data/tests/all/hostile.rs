//! Whatever the bytes, a reader answers: it neither panics nor hangs, and what it accepts is sound.

use crate::support::{cifar, gzip, idx, jpeg, png, tar, write};
use proptest::prelude::*;
use stillhouse_core::job::{ImageFormat, Size};
use stillhouse_data::load;

/// One way to damage a file.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => any::<(prop::sample::Index, u8)>().prop_map(|(at, value)| Damage::Set(at, value)),
        3 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn apply(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        match damage {
            Damage::Set(at, value) => bytes[at.index(length)] = value,
            Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more);
            }
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(part);
            }
        }
    }
    bytes
}

/// Damaged files: the header, where damage matters most, is damaged half of the time.
fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let anywhere = prop::collection::vec(damage(), 1..6);
    let header = prop::collection::vec((0..64_usize, any::<u8>()), 1..4);
    (anywhere, header, any::<bool>()).prop_map(move |(anywhere, header, in_header)| {
        let mut bytes = whole.clone();
        if !in_header {
            return apply(bytes, anywhere);
        }
        let length = bytes.len();
        header.into_iter().for_each(|(at, value)| bytes[at % length] = value);
        bytes
    })
}

/// Reads one file as `format`; `name` matters to folders only.
fn read(format: ImageFormat, name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = write(&folder, name, bytes);
    let path = if format == ImageFormat::Folder {
        folder.path()
    } else {
        &file
    };
    for size in [None, Some(Size { height: 3, width: 5 })] {
        match load(format, path, size, None) {
            Ok(set) => {
                assert!(!set.images.is_empty());
                assert!(set.labels.is_none_or(|labels| labels.len() == set.images.len()));
            }
            Err(error) => assert!(!error.to_string().is_empty() && error.hint() != Some(String::new())),
        }
    }
    let _: Result<_, _> = load(
        ImageFormat::Idx,
        &crate::support::digits("test-images-idx3-ubyte.gz"),
        None,
        Some(&file),
    );
}

fn two_pngs() -> Vec<u8> {
    tar(&[
        ("cat/1.png", &png(5, 7, 1)),
        (&format!("{}/2.png", "d".repeat(120)), &png(5, 7, 2)),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_answered_by_every_reader(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        for format in [ImageFormat::Idx, ImageFormat::CifarBinary, ImageFormat::Tar] {
            read(format, "file", &bytes);
            read(format, "file", &gzip(&bytes));
        }
        read(ImageFormat::Folder, "a.png", &bytes);
    }

    #[test]
    fn damaged_idx_is_answered(bytes in damaged(idx(&[4, 3, 5], &[9; 60]))) {
        read(ImageFormat::Idx, "file", &bytes);
        read(ImageFormat::Idx, "file", &gzip(&bytes));
    }

    #[test]
    fn damaged_colour_idx_is_answered(bytes in damaged(idx(&[2, 3, 4, 5], &[9; 120]))) {
        read(ImageFormat::Idx, "file", &bytes);
    }

    #[test]
    fn damaged_gzip_is_answered(bytes in damaged(gzip(&idx(&[4, 3, 5], &[9; 60])))) {
        read(ImageFormat::Idx, "file", &bytes);
    }

    #[test]
    fn damaged_cifar_is_answered(bytes in damaged(cifar(&[(1, 10), (2, 20)]))) {
        read(ImageFormat::CifarBinary, "file", &bytes);
    }

    #[test]
    fn damaged_png_is_answered(bytes in damaged(png(9, 6, 3))) {
        read(ImageFormat::Folder, "a.png", &bytes);
    }

    #[test]
    fn damaged_jpeg_is_answered(bytes in damaged(jpeg(17, 19, 3))) {
        read(ImageFormat::Folder, "a.jpg", &bytes);
    }

    #[test]
    fn damaged_tar_is_answered(bytes in damaged(two_pngs())) {
        read(ImageFormat::Tar, "file", &bytes);
        read(ImageFormat::Tar, "file", &gzip(&bytes));
    }

    #[test]
    fn damaged_tar_gz_is_answered(bytes in damaged(gzip(&two_pngs()))) {
        read(ImageFormat::Tar, "file", &bytes);
    }
}
