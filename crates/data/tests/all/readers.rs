//! Every format, read as it should be.

use std::fs;
use std::path::Path;

use crate::support::{cifar, digits, encode, gzip, idx, jpeg, planes, png, shape, tar, write};
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat as Encoding, Luma, LumaA, Rgba, RgbaImage};
use stillhouse_core::job::{EvaluationSpec, ImageFormat, ImagesSpec, Size};
use stillhouse_data::{LabelledImages, load, load_evaluation, load_seed_images};

fn read(format: ImageFormat, path: &Path) -> LabelledImages {
    load(format, path, None, None).expect("a valid data set")
}

fn images_spec(source: ImageFormat, path: &str, take: Option<u32>, seed: u64) -> ImagesSpec {
    ImagesSpec {
        source,
        path: path.into(),
        take,
        seed,
        size: None,
    }
}

#[test]
fn the_digits_are_read_with_their_labels() {
    let labels = digits("train-labels-idx1-ubyte.gz");
    let train = load(
        ImageFormat::Idx,
        &digits("train-images-idx3-ubyte.gz"),
        None,
        Some(&labels),
    )
    .unwrap();
    assert_eq!((train.images.len(), train.images.shape()), (1297, shape(1, 8, 8)));
    let mut histogram = [0; 10];
    train
        .labels
        .unwrap()
        .iter()
        .for_each(|&label| histogram[usize::from(label)] += 1);
    assert_eq!(histogram, [128, 131, 128, 132, 131, 131, 131, 129, 126, 130]);
    let mean = train.images.bytes().iter().map(|&byte| f64::from(byte)).sum::<f64>() / 255.0 / (1297.0 * 64.0);
    assert!((mean - 0.3053).abs() < 5e-5, "mean {mean}");
    assert_eq!(train.names, None);
}

#[test]
fn gzip_is_known_by_its_bytes_and_not_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let plain = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let named_plain = write(&folder, "plain", &gzip(&plain));
    let named_gzip = write(&folder, "gzip.gz", &plain);
    let members = write(&folder, "members", &[gzip(&plain[..9]), gzip(&plain[9..])].concat());
    for path in [named_plain, named_gzip, members] {
        let set = read(ImageFormat::Idx, &path).images;
        assert_eq!((set.shape(), set.bytes()), (shape(1, 1, 3), &[1, 2, 3, 4, 5, 6][..]));
    }
}

#[test]
fn colour_idx_is_read_in_both_layouts() {
    let folder = tempfile::tempdir().unwrap();
    let planar: Vec<u8> = (0..24).collect();
    let first = write(&folder, "first", &idx(&[1, 3, 2, 4], &planar));
    let interleaved: Vec<u8> = (0..8).flat_map(|pixel| [pixel, pixel + 8, pixel + 16]).collect();
    let last = write(&folder, "last", &idx(&[1, 2, 4, 3], &interleaved));
    for path in [first, last] {
        let set = read(ImageFormat::Idx, &path).images;
        assert_eq!((set.shape(), set.bytes()), (shape(3, 2, 4), planar.as_slice()));
    }
}

#[test]
fn cifar_files_of_a_folder_follow_each_other_in_name_order() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "data_batch_2.bin", &cifar(&[(3, 30), (4, 40)]));
    write(&folder, "data_batch_1.bin", &cifar(&[(9, 90)]));
    write(&folder, "readme.html", b"<html>");
    let set = read(ImageFormat::CifarBinary, folder.path());
    assert_eq!(set.labels, Some(vec![9, 3, 4]));
    assert_eq!(set.images.shape(), shape(3, 32, 32));
    let first_bytes: Vec<u8> = (0..3).map(|at| set.images.get(at).unwrap()[0]).collect();
    assert_eq!(first_bytes, [90, 30, 40]);
    let one = read(ImageFormat::CifarBinary, &folder.path().join("data_batch_2.bin"));
    assert_eq!(one.labels, Some(vec![3, 4]));
}

#[test]
fn a_folder_and_a_tar_of_it_are_the_same_data_set() {
    let files = [
        ("dog/2.PNG", png(3, 2, 7)),
        ("./cat/1.png", png(3, 2, 8)),
        ("cat/.hidden.png", b"not read".to_vec()),
        ("cat/readme.txt", b"not read".to_vec()),
    ];
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| drop(write(&folder, name, bytes)));
    let entries: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let elsewhere = tempfile::tempdir().unwrap();
    let plain = write(&elsewhere, "plain.tar", &tar(&entries));
    let zipped = write(&elsewhere, "zipped", &gzip(&tar(&entries)));
    let expected = read(ImageFormat::Folder, folder.path());
    assert_eq!(expected.images.bytes(), [planes(3, 2, 8), planes(3, 2, 7)].concat());
    assert_eq!(expected.labels, Some(vec![0, 1]));
    assert_eq!(expected.class_names, Some(vec!["cat".into(), "dog".into()]));
    assert_eq!(expected.names, Some(vec!["cat/1.png".into(), "dog/2.PNG".into()]));
    assert_eq!(read(ImageFormat::Tar, &plain), expected);
    assert_eq!(read(ImageFormat::Tar, &zipped), expected);
}

#[test]
fn folders_spell_classes_only_when_every_image_lies_in_exactly_one() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "cat/1.png", &png(1, 1, 1));
    assert!(read(ImageFormat::Folder, folder.path()).labels.is_some());
    write(&folder, "2.png", &png(1, 1, 2));
    let set = read(ImageFormat::Folder, folder.path());
    assert_eq!((set.labels, set.class_names), (None, None));
    let deeper = tempfile::tempdir().unwrap();
    write(&deeper, "cat/tabby/1.png", &png(1, 1, 1));
    assert_eq!(read(ImageFormat::Folder, deeper.path()).labels, None);
}

#[test]
fn the_last_of_two_tar_entries_with_one_path_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (png(1, 1, 1), png(1, 1, 2));
    let path = write(
        &folder,
        "twice.tar",
        &tar(&[("a.png", &old), ("b.png", &old), ("a.png", &new)]),
    );
    let set = read(ImageFormat::Tar, &path);
    assert_eq!(set.images.bytes(), [planes(1, 1, 2), planes(1, 1, 1)].concat());
}

#[test]
fn long_tar_names_are_read_from_gnu_and_pax_headers() {
    let folder = tempfile::tempdir().unwrap();
    let image = png(1, 1, 5);
    let long = format!("{}/1.png", "c".repeat(150));
    let gnu = write(&folder, "gnu.tar", &tar(&[(&long, &image), ("d/2.png", &image)]));
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.user.x", &b"any\n=\0bytes"[..]),
            ("path", long.as_bytes()),
        ])
        .unwrap();
    for name in ["short.png", "d/2.png"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(image.len() as u64);
        builder.append_data(&mut header, name, image.as_slice()).unwrap();
    }
    let pax = write(&folder, "pax.tar", &builder.into_inner().unwrap());
    for path in [gnu, pax] {
        assert_eq!(
            read(ImageFormat::Tar, &path).names,
            Some(vec![long.clone(), "d/2.png".into()])
        );
    }
}

#[test]
fn linked_folders_are_read_once_and_loops_end() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a/1.png", &png(1, 1, 1));
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("z")).unwrap();
    std::os::unix::fs::symlink("self", folder.path().join("self")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("a/1.png"), folder.path().join("b.png")).unwrap();
    let set = read(ImageFormat::Folder, folder.path());
    assert_eq!(set.images.len(), 2);
    assert!(set.names.unwrap().contains(&"b.png".to_owned()));
}

#[test]
fn grey_images_stay_grey_until_one_is_in_colour() {
    let folder = tempfile::tempdir().unwrap();
    let grey: DynamicImage = GrayImage::from_fn(2, 1, |x, _| Luma([10 + x as u8])).into();
    write(&folder, "a.png", &encode(&grey, Encoding::Png));
    write(&folder, "c.png", &encode(&grey, Encoding::Png));
    let set = read(ImageFormat::Folder, folder.path()).images;
    assert_eq!((set.shape(), set.bytes()), (shape(1, 1, 2), &[10, 11, 10, 11][..]));
    write(&folder, "b.png", &png(1, 2, 9));
    let set = read(ImageFormat::Folder, folder.path()).images;
    assert_eq!(set.shape(), shape(3, 1, 2));
    let widened = vec![10, 11, 10, 11, 10, 11];
    assert_eq!(set.bytes(), [widened.clone(), planes(1, 2, 9), widened].concat());
}

#[test]
fn transparency_is_composited_on_black() {
    let folder = tempfile::tempdir().unwrap();
    let image: DynamicImage = RgbaImage::from_pixel(1, 1, Rgba([200, 100, 255, 128])).into();
    let path = write(&folder, "colour/a.png", &encode(&image, Encoding::Png));
    let set = read(ImageFormat::Folder, path.parent().unwrap()).images;
    assert_eq!((set.shape(), set.bytes()), (shape(3, 1, 1), &[100, 50, 128][..]));
    let image: DynamicImage = GrayAlphaImage::from_pixel(1, 1, LumaA([200, 51])).into();
    let path = write(&folder, "grey/a.png", &encode(&image, Encoding::Png));
    let set = read(ImageFormat::Folder, path.parent().unwrap()).images;
    assert_eq!((set.shape(), set.bytes()), (shape(1, 1, 1), &[40][..]));
}

#[test]
fn sixteen_bits_are_rounded_to_eight() {
    let folder = tempfile::tempdir().unwrap();
    let values = [0_u16, 128, 129, 65535];
    let image = image::ImageBuffer::<Luma<u16>, _>::from_fn(4, 1, |x, _| Luma([values[x as usize]]));
    write(&folder, "a.png", &encode(&image.into(), Encoding::Png));
    assert_eq!(read(ImageFormat::Folder, folder.path()).images.bytes(), [0, 0, 1, 255]);
}

#[test]
fn jpegs_come_close_to_what_was_encoded() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.jpeg", &jpeg(16, 16, 100));
    let set = read(ImageFormat::Folder, folder.path()).images;
    let worst = set
        .bytes()
        .iter()
        .zip(planes(16, 16, 100))
        .map(|(a, b)| a.abs_diff(b))
        .max();
    assert!(worst.unwrap() < 32, "largest difference {worst:?}");
}

#[test]
fn images_of_several_sizes_are_brought_to_the_size_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.png", &png(4, 4, 50));
    write(&folder, "b.png", &png(8, 2, 60));
    let size = Size { height: 2, width: 3 };
    let set = load(ImageFormat::Folder, folder.path(), Some(size), None)
        .unwrap()
        .images;
    assert_eq!((set.len(), set.shape()), (2, shape(3, 2, 3)));
    // The third channel is constant, and stays so under any sound resampling.
    assert_eq!(set.get(0).unwrap()[12..], [50; 6]);
    assert_eq!(set.get(1).unwrap()[12..], [60; 6]);
    let path = write(&folder, "idx", &idx(&[1, 2, 2], &[0, 100, 0, 100]));
    let size = Size { height: 1, width: 1 };
    let set = load(ImageFormat::Idx, &path, Some(size), None).unwrap().images;
    assert_eq!((set.shape(), set.bytes()), (shape(1, 1, 1), &[50][..]));
}

#[test]
fn a_draw_is_decided_by_its_seed_and_read_from_the_right_places() {
    let base = digits("");
    let all = read(ImageFormat::Idx, &digits("train-images-idx3-ubyte.gz")).images;
    let draw = |seed| {
        let spec = images_spec(ImageFormat::Idx, "train-images-idx3-ubyte.gz", Some(200), seed);
        load_seed_images(&spec, &base).unwrap()
    };
    let first = draw(1);
    assert_eq!(first.images, all.subset(&first.indices));
    assert!(first.indices.is_sorted_by(|a, b| a < b), "ascending without repeats");
    assert_eq!(first, draw(1));
    assert_ne!(first.indices, draw(2).indices);
    assert_eq!(first.digest, first.images.digest());
    assert_ne!(first.digest, draw(2).digest);
}

#[test]
fn a_draw_of_everything_is_the_data_set() {
    let spec = images_spec(ImageFormat::Idx, "test-images-idx3-ubyte.gz", None, 0);
    let seeds = load_seed_images(&spec, &digits("")).unwrap();
    assert_eq!(seeds.indices, (0..500).collect::<Vec<_>>());
    assert_eq!(
        seeds.images,
        read(ImageFormat::Idx, &digits("test-images-idx3-ubyte.gz")).images
    );
}

#[test]
fn folders_tars_and_cifar_files_draw_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<(String, Vec<u8>)> = (0..40).map(|at| (format!("x/{at:02}.png"), png(2, 2, at))).collect();
    files.iter().for_each(|(name, bytes)| drop(write(&folder, name, bytes)));
    // Out of order, so that slots are filled out of order.
    let entries: Vec<(&str, &[u8])> = files
        .iter()
        .rev()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    write(&folder, "all.tar", &tar(&entries));
    write(
        &folder,
        "all.bin",
        &cifar(&(0..40).map(|at| (at % 10, at)).collect::<Vec<_>>()),
    );
    let draw = |source, path| load_seed_images(&images_spec(source, path, Some(7), 3), folder.path()).unwrap();
    let from_folder = draw(ImageFormat::Folder, "x");
    let from_tar = draw(ImageFormat::Tar, "all.tar");
    let from_cifar = draw(ImageFormat::CifarBinary, "all.bin");
    assert_eq!(from_folder, from_tar);
    assert_eq!(from_folder.indices, from_cifar.indices);
    for (slot, &index) in from_folder.indices.iter().enumerate() {
        assert_eq!(from_folder.images.get(slot).unwrap(), planes(2, 2, index as u8));
        assert_eq!(from_cifar.images.get(slot).unwrap(), [index as u8; 3072]);
    }
}

#[test]
fn images_that_are_not_drawn_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    (0..20).for_each(|at| drop(write(&folder, &format!("{at:02}.png"), &png(2, 2, at))));
    let spec = images_spec(ImageFormat::Folder, "", Some(5), 0);
    let before = load_seed_images(&spec, folder.path()).unwrap();
    let undrawn = (0..20).filter(|at| !before.indices.contains(at));
    undrawn.for_each(|at| fs::write(folder.path().join(format!("{at:02}.png")), b"broken").unwrap());
    assert_eq!(load_seed_images(&spec, folder.path()).unwrap(), before);
    assert!(load(ImageFormat::Folder, folder.path(), None, None).is_err());
}

#[test]
fn evaluation_images_take_format_and_size_from_the_seed_images() {
    let evaluation = EvaluationSpec {
        images: "test-images-idx3-ubyte.gz".into(),
        labels: Some("test-labels-idx1-ubyte.gz".into()),
        agreement_queries: 0,
        every_epochs: 1,
    };
    let mut seeds = images_spec(ImageFormat::Idx, "train-images-idx3-ubyte.gz", None, 0);
    let set = load_evaluation(&evaluation, &seeds, &digits("")).unwrap();
    assert_eq!((set.images.len(), set.images.shape()), (500, shape(1, 8, 8)));
    assert_eq!(set.labels.map(|labels| labels.len()), Some(500));
    seeds.size = Some(Size { height: 4, width: 4 });
    let unlabelled = EvaluationSpec {
        labels: None,
        ..evaluation
    };
    let set = load_evaluation(&unlabelled, &seeds, &digits("")).unwrap();
    assert_eq!((set.images.shape(), set.labels), (shape(1, 4, 4), None));
}
