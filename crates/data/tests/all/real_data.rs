//! MNIST and CIFAR-10 as published. They are looked for in the folder that `STILLHOUSE_DATA` names,
//! else in `shared/data` beside the workspace; without them the tests say that they are skipped.

use std::path::{Path, PathBuf};

use crate::support::{digits, shape};
use stillhouse_core::ImageSet;
use stillhouse_core::job::{ImageFormat, ImagesSpec};
use stillhouse_core::key::hex;
use stillhouse_data::{load, load_seed_images};

fn data_set(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("STILLHOUSE_DATA").map_or(beside, PathBuf::from);
    let path = root.join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no data set {name}; set STILLHOUSE_DATA to the folder that holds it");
    None
}

/// Mean and standard deviation of each channel, in units of 255.
fn moments(sets: &[ImageSet]) -> Vec<(f64, f64)> {
    let shape = sets[0].shape();
    let plane = shape.height as usize * shape.width as usize;
    let mut sums = vec![(0_u64, 0_u64); shape.channels as usize];
    for (at, pixels) in sets.iter().flat_map(|set| set.bytes().chunks_exact(plane)).enumerate() {
        let (sum, squares) = &mut sums[at % shape.channels as usize];
        for &pixel in pixels {
            *sum += u64::from(pixel);
            *squares += u64::from(pixel) * u64::from(pixel);
        }
    }
    let count = (sets.iter().map(ImageSet::len).sum::<usize>() * plane) as f64;
    let of = |(sum, squares): (u64, u64)| {
        let mean = sum as f64 / count / 255.0;
        (mean, (squares as f64 / count / 255.0 / 255.0 - mean * mean).sqrt())
    };
    sums.into_iter().map(of).collect()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "found {found}, expected {expected}"
    );
}

#[test]
fn the_digits_have_the_published_moments_and_digest() {
    let set = load(ImageFormat::Idx, &digits("train-images-idx3-ubyte.gz"), None, None)
        .unwrap()
        .images;
    let (mean, deviation) = moments(std::slice::from_ref(&set))[0];
    assert_close(mean, 0.3053, 5e-5);
    assert_close(deviation, 0.3758, 5e-5);
    assert_eq!(
        hex(&set.digest()),
        "a8af73abbd46c692119dfafb4267cc536bd0a659ef15dc5317200b471d15b231"
    );
}

#[test]
fn mnist_has_the_published_counts_and_moments() {
    let Some(mnist) = data_set("mnist") else { return };
    let labels = mnist.join("train-labels-idx1-ubyte.gz");
    let train = load(
        ImageFormat::Idx,
        &mnist.join("train-images-idx3-ubyte.gz"),
        None,
        Some(&labels),
    )
    .unwrap();
    assert_eq!((train.images.len(), train.images.shape()), (60_000, shape(1, 28, 28)));
    // The first labels of MNIST.
    assert_eq!(train.labels.unwrap()[..5], [5, 0, 4, 1, 9]);
    let (mean, deviation) = moments(std::slice::from_ref(&train.images))[0];
    assert_close(mean, 0.1307, 5e-5);
    assert_close(deviation, 0.3081, 5e-5);
    assert_eq!(
        hex(&train.images.digest()),
        "2657fb896527f0a98e8586194c3f9e8703c3f8d16e06d752766c253d334a62cd"
    );
}

#[test]
fn the_jpeg_edition_of_cifar10_has_the_published_counts_and_moments() {
    let Some(cifar) = data_set("cifar10") else { return };
    let mut sets = Vec::new();
    for shard in 0..5 {
        let path = cifar.join(format!("train-{shard:02}.tar.gz"));
        let set = load(ImageFormat::Tar, &path, None, None).unwrap();
        assert_eq!((set.images.len(), set.images.shape()), (10_000, shape(3, 32, 32)));
        assert_eq!(set.class_names.unwrap()[..3], ["airplane", "automobile", "bird"]);
        let labels = set.labels.unwrap();
        assert!((0..10).all(|class| labels.iter().filter(|&&label| label == class).count() == 1000));
        sets.push(set.images);
    }
    // The published moments come from another decoder. Ours rounds upsampled chroma up, which shifts
    // Cb and Cr by a fifth of a level and the means by up to 0.0014; so no digest, and this tolerance.
    let expected = [(0.4913, 0.2452), (0.4821, 0.2428), (0.4465, 0.2606)];
    for (found, expected) in moments(&sets).into_iter().zip(expected) {
        assert_close(found.0, expected.0, 1.5e-3);
        assert_close(found.1, expected.1, 5e-4);
    }
}

#[test]
fn a_draw_from_a_tar_of_cifar10_matches_the_whole() {
    let Some(cifar) = data_set("cifar10") else { return };
    let spec = ImagesSpec {
        source: ImageFormat::Tar,
        path: "test-00.tar.gz".into(),
        take: Some(100),
        seed: 5,
        size: None,
    };
    let seeds = load_seed_images(&spec, &cifar).unwrap();
    let whole = load(ImageFormat::Tar, &cifar.join("test-00.tar.gz"), None, None).unwrap();
    assert_eq!(seeds.images, whole.images.subset(&seeds.indices));
}
