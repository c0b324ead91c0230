//! Every error: what it says, and how it says to mend it.

use std::path::Path;

use crate::support::{cifar, colour, digits, encode, gzip, idx, jpeg, png, tar, write};
use image::ImageFormat as Encoding;
use stillhouse_core::job::{ImageFormat, ImagesSpec, Size};
use stillhouse_data::limits::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_IMAGES, MAX_SIDE};
use stillhouse_data::{DataError, Limit, load, load_seed_images};

fn refuse(format: ImageFormat, path: &Path) -> DataError {
    load(format, path, None, None).expect_err("a data set to refuse")
}

/// Reads `bytes` as `format` and compares the message (after the folder's name) and the hint.
#[track_caller]
fn expect(format: ImageFormat, bytes: &[u8], message: &str, hint: &str) -> DataError {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let error = refuse(format, &write(&folder, "file", bytes));
    let told = error.to_string().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(told, message);
    let found = error.hint().unwrap_or_default();
    assert!(found.contains(hint), "{found:?} should hold {hint:?}");
    error
}

#[test]
fn labels_given_as_images_are_recognised() {
    expect(
        ImageFormat::Idx,
        &gzip(&idx(&[3], &[1, 2, 3])),
        "file looks like a labels file: found idx1, expected idx3",
        "name the file with the images",
    );
}

#[test]
fn images_given_as_labels_are_recognised() {
    let images = digits("test-images-idx3-ubyte.gz");
    let error = load(ImageFormat::Idx, &images, None, Some(&images)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("looks like an images file: found idx3, expected idx1"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("name the file with the labels"));
}

#[test]
fn other_formats_given_as_idx_are_named() {
    let cases: [(&[u8], &str, &str); 7] = [
        (&png(1, 1, 1), "a PNG image", "`folder`"),
        (&jpeg(1, 1, 1), "a JPEG image", "`folder`"),
        (&gzip(&tar(&[("a.png", b"")])), "a tar", "`tar`"),
        (b"PK\x03\x04 and so on", "a zip archive", "unpack"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (b"\x80\x02}q\x01", "a Python pickle", "binary version"),
        (b"", "an empty file", "again"),
    ];
    for (bytes, what, hint) in cases {
        let message = format!("file is not an IDX images file: it looks like {what}");
        expect(ImageFormat::Idx, bytes, &message, hint);
    }
    let unknown = "file is not an IDX images file: it looks like data that starts with bytes [68, 65, 6c, 6c]";
    expect(ImageFormat::Idx, b"hello", unknown, "");
}

#[test]
fn idx_given_as_another_format_is_named() {
    let bytes = idx(&[2, 1, 3], &[0; 6]);
    let what = "it looks like an IDX images file (idx3)";
    expect(ImageFormat::Tar, &bytes, &format!("file is not a tar: {what}"), "`idx`");
    expect(
        ImageFormat::CifarBinary,
        &bytes,
        &format!("file is not CIFAR-10 binary: {what}"),
        "`idx`",
    );
}

#[test]
fn a_truncated_idx_says_how_much_is_missing() {
    let whole = idx(&[2, 2, 2], &[7; 8]);
    let again = "copy or download the file again";
    let message = "file ends early: expected 8 bytes of pixels, found 7";
    expect(ImageFormat::Idx, &whole[..whole.len() - 1], message, again);
    let message = "file ends early: expected 12 bytes of dimensions, found 8";
    expect(ImageFormat::Idx, &whole[..12], message, again);
    let zipped = gzip(&whole);
    let message = "the gzip file file is damaged or incomplete";
    expect(ImageFormat::Idx, &zipped[..zipped.len() - 9], message, again);
    let mut flipped = zipped.clone();
    flipped[zipped.len() - 6] ^= 1;
    expect(ImageFormat::Idx, &flipped, message, again);
}

#[test]
fn bytes_after_an_idx_are_refused() {
    let message = "file has bytes left over: expected it to end after 2 bytes of pixels";
    expect(ImageFormat::Idx, &idx(&[1, 1, 2], &[0; 3]), message, "disagree");
    expect(
        ImageFormat::Idx,
        &gzip(&idx(&[1, 1, 2], &[0; 1 << 20])),
        message,
        "disagree",
    );
}

#[test]
fn idx_elements_other_than_bytes_are_refused() {
    let mut floats = idx(&[1, 1, 1], &[0; 4]);
    floats[2] = 0x0d;
    let message = "file holds f32 (IDX type 0x0d), expected u8 (IDX type 0x08)";
    expect(ImageFormat::Idx, &floats, message, "0 to 255");
}

#[test]
fn ambiguous_idx_layouts_are_refused() {
    let cases: [(&[u32], &str); 3] = [
        (&[1, 3, 2, 3], "either the second or the last may count channels"),
        (&[1, 2, 2, 2], "expected 1 or 3 channels in the second or the last"),
        (&[1, 0, 2], "expected at least one row and one column"),
    ];
    for (dims, problem) in cases {
        let message = format!("file has dimensions {dims:?}: {problem}");
        expect(ImageFormat::Idx, &idx(dims, &[]), &message, "[n, h, w]");
    }
    let message = "file looks like another IDX file: found idx2, expected idx3";
    expect(ImageFormat::Idx, &idx(&[1, 1], &[0]), message, "");
}

#[test]
fn idx_headers_that_claim_too_much_are_refused_before_anything_is_read() {
    let claims = [
        (vec![1, MAX_SIDE as u32 + 1, 1], Limit::Side, MAX_SIDE + 1),
        (vec![u32::MAX, 1, 1], Limit::Images, u64::from(u32::MAX)),
        (vec![1024, 4096, 4096], Limit::DecodedBytes, MAX_DECODED_BYTES * 2),
    ];
    for (dims, expected, amount) in claims {
        let message = format!("file: found {amount} {expected}, expected at most {}", expected.max());
        expect(ImageFormat::Idx, &idx(&dims, &[]), &message, "");
    }
    let folder = tempfile::tempdir().unwrap();
    let labels = write(&folder, "labels", &idx(&[MAX_IMAGES as u32 + 1], &[]));
    let error = load(
        ImageFormat::Idx,
        &digits("test-images-idx3-ubyte.gz"),
        None,
        Some(&labels),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            DataError::TooLarge {
                limit: Limit::Images,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn every_format_refuses_to_be_without_images() {
    let check = "check `spec.images.path`";
    let message = "file holds no images: expected a first dimension of at least 1, found 0 other files";
    expect(ImageFormat::Idx, &idx(&[0, 2, 2], &[]), message, check);
    let names = "files that end in .png, .jpg or .jpeg";
    let message = format!("file holds no images: expected {names}, found 1 other files");
    expect(ImageFormat::Tar, &tar(&[("a.txt", b"")]), &message, check);
    expect(ImageFormat::Tar, &[0; 1024], &message.replace('1', "0"), check);
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.webp", b"");
    for (format, expected) in [
        (ImageFormat::Folder, names),
        (ImageFormat::CifarBinary, "files that end in .bin"),
    ] {
        let error = refuse(format, folder.path()).to_string();
        assert!(
            error.ends_with(&format!("holds no images: expected {expected}, found 1 other files")),
            "{error}"
        );
    }
}

#[test]
fn cifar_files_that_are_no_whole_records_are_refused() {
    let short = &cifar(&[(1, 1), (2, 2)])[..6000];
    let message = "file has 6000 bytes, expected a multiple of 3073 (1 label and 3072 pixels)";
    expect(ImageFormat::CifarBinary, short, message, "data_batch_1.bin");
    let message = "file has 3074 bytes, expected a multiple of 3073 (1 label and 3072 pixels)";
    expect(ImageFormat::CifarBinary, &[1; 3074], message, "CIFAR-100");
    let message = "file: record 1 has label 10, expected 0 to 9";
    expect(
        ImageFormat::CifarBinary,
        &cifar(&[(9, 1), (10, 2)]),
        message,
        "binary version",
    );
    let message = "file is not CIFAR-10 binary: it looks like a gzip file";
    expect(ImageFormat::CifarBinary, &gzip(&cifar(&[(1, 1)])), message, "gunzip");
    expect(
        ImageFormat::CifarBinary,
        b"",
        "file is not CIFAR-10 binary: it looks like an empty file",
        "again",
    );
}

#[test]
fn training_and_test_batches_of_cifar_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "data_batch_1.bin", &cifar(&[(1, 1)]));
    write(&folder, "test_batch.bin", &cifar(&[(1, 1)]));
    let error = refuse(ImageFormat::CifarBinary, folder.path());
    assert!(matches!(error, DataError::CifarMixed { .. }), "{error}");
    assert!(error.hint().unwrap().contains("no test image becomes a seed image"));
}

#[test]
fn the_first_two_images_that_differ_in_size_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, height) in [("a.png", 28), ("b.png", 28), ("c.png", 32), ("d.png", 40)] {
        write(&folder, name, &png(height, 28, 0));
    }
    let error = refuse(ImageFormat::Folder, folder.path());
    let told = error.to_string().replace(&format!("{}/", folder.path().display()), "");
    let sizes = "a.png is 28 x 28 (height x width), c.png is 32 x 28 (height x width)";
    assert_eq!(told, format!("images differ in size: {sizes}"));
    assert!(error.hint().unwrap().contains("spec.images.size"));
}

#[test]
fn files_that_only_are_called_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.png", b"GIF89a and so on");
    let error = refuse(ImageFormat::Folder, folder.path());
    assert_eq!(
        error.to_string(),
        format!("{} is not a PNG or JPEG: it looks like a GIF image", path.display())
    );
    assert!(error.hint().unwrap().contains("convert"));
}

#[test]
fn truncated_images_are_refused_in_every_format() {
    for (name, whole) in [("a.png", png(40, 40, 1)), ("a.jpg", jpeg(40, 40, 1))] {
        let cut = &whole[..whole.len() * 3 / 4];
        let folder = tempfile::tempdir().unwrap();
        write(&folder, name, cut);
        let path = write(&folder, "images.tar", &tar(&[(name, cut)]));
        for error in [
            refuse(ImageFormat::Folder, folder.path()),
            refuse(ImageFormat::Tar, &path),
        ] {
            let is_right = match name {
                "a.png" => matches!(error, DataError::BadImage { .. }),
                _ => matches!(error, DataError::TruncatedJpeg { .. }),
            };
            assert!(is_right, "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.hint().unwrap().contains("again"));
        }
    }
}

#[test]
fn images_with_too_many_rows_are_refused_before_they_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    for (name, encoding) in [("a.png", Encoding::Png), ("a.jpg", Encoding::Jpeg)] {
        let path = write(&folder, name, &encode(&colour(MAX_SIDE as u32 + 1, 1, 0), encoding));
        let error = refuse(ImageFormat::Folder, folder.path());
        let message = "found 4097 rows or columns in one image, expected at most 4096";
        assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn image_files_larger_than_any_image_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.png", &png(1, 1, 1));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MAX_ENCODED_BYTES + 1).unwrap();
    let error = refuse(ImageFormat::Folder, folder.path());
    let message = "found 135266305 bytes in one image file, expected at most 135266304";
    assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
}

#[test]
fn sets_that_would_not_fit_in_memory_are_refused_at_the_first_image() {
    let folder = tempfile::tempdir().unwrap();
    (0..200).for_each(|at| drop(write(&folder, &format!("{at:03}.png"), &png(1, 1, 1))));
    let size = Size {
        height: 4096,
        width: 4096,
    };
    let error = load(ImageFormat::Folder, folder.path(), Some(size), None).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::TooLarge {
                limit: Limit::DecodedBytes,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("200 images of 3x4096x4096, the first of them "),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("spec.images.take"));
}

#[test]
fn damaged_tars_are_refused() {
    let image = png(1, 1, 1);
    let whole = tar(&[("a.png", &image), ("b.png", &image)]);
    let damaged = "the tar file is damaged or incomplete";
    expect(ImageFormat::Tar, &whole[..1300], damaged, "again");
    let mut flipped = whole.clone();
    flipped[1024 + 3] ^= 1;
    expect(ImageFormat::Tar, &flipped, damaged, "again");
    let zipped = gzip(&whole);
    expect(ImageFormat::Tar, &zipped[..zipped.len() - 4], damaged, "again");
}

#[test]
fn tar_headers_that_claim_too_much_are_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_path("a.png").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let huge = [header.as_bytes().as_slice(), &[0; 1024]].concat();
    expect(
        ImageFormat::Tar,
        &huge,
        "the tar file is damaged or incomplete",
        "again",
    );
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_cksum();
    let name = [header.as_bytes().as_slice(), &[b'x'; 4096]].concat();
    let error = expect(
        ImageFormat::Tar,
        &name,
        "the tar file is damaged or incomplete",
        "again",
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "found a header of more than 1 MiB");
}

#[test]
fn tar_entries_with_unsound_pax_headers_are_refused() {
    let with_header = |contents: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), contents].concat();
        bytes.resize(1024, 0);
        [bytes, tar(&[("a.png", &png(1, 1, 1))])].concat()
    };
    let cases: [(&[u8], &str); 5] = [
        (
            b"13 size=1234\n",
            "found an entry with its size in a PAX header, expected below 8 GiB",
        ),
        (b"99 path=a\n", "found a malformed PAX header"),
        (b"1 path=a\n", "found a malformed PAX header"),
        (b"10 patha.p", "found a malformed PAX header"),
        (b"path=a\n", "found a malformed PAX header"),
    ];
    for (contents, problem) in cases {
        let message = "the tar file is damaged or incomplete";
        let error = expect(ImageFormat::Tar, &with_header(contents), message, "again");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), problem);
    }
}

#[test]
fn files_folders_and_devices_are_not_confused() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "file", b"");
    for format in [ImageFormat::Idx, ImageFormat::Tar] {
        let error = refuse(format, folder.path());
        assert!(error.to_string().ends_with("is a folder, expected a file"), "{error}");
        assert!(error.hint().unwrap().contains("`folder`"));
    }
    let error = refuse(ImageFormat::Folder, &file);
    assert!(error.to_string().ends_with("is a file, expected a folder"), "{error}");
    let error = refuse(ImageFormat::Idx, Path::new("/dev/zero"));
    assert_eq!(error.to_string(), "/dev/zero is a device or socket, expected a file");
    let error = refuse(ImageFormat::Idx, &folder.path().join("absent"));
    assert!(error.to_string().starts_with("cannot read "), "{error}");
    assert!(error.hint().unwrap().contains("folder of the job file"));
}

#[test]
fn there_is_one_label_for_each_image() {
    let images = digits("test-images-idx3-ubyte.gz");
    let labels = digits("train-labels-idx1-ubyte.gz");
    let error = load(ImageFormat::Idx, &images, None, Some(&labels)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("holds 1297 labels, expected 500, one for each image of"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("same split"));
}

#[test]
fn draws_of_nothing_or_of_more_than_there_is_are_refused() {
    for take in [0, 501] {
        let spec = ImagesSpec {
            source: ImageFormat::Idx,
            path: "test-images-idx3-ubyte.gz".into(),
            take: Some(take),
            seed: 0,
            size: None,
        };
        let error = load_seed_images(&spec, &digits("")).unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with(&format!("cannot draw {take} seed images: ")), "{told}");
        assert!(told.ends_with("holds 500, expected 1 to 500"), "{told}");
        assert!(error.hint().unwrap().contains("at most 500"));
    }
}

#[test]
fn sizes_without_pixels_are_refused() {
    let size = Size { height: 0, width: 8 };
    let error = load(ImageFormat::Idx, &digits("test-images-idx3-ubyte.gz"), Some(size), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot resize to 0 x 8 (height x width): expected 1 to 4096 rows and columns"
    );
    assert!(error.hint().unwrap().contains("spec.images.size"));
}
