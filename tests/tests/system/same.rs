//! The queries and the student do not depend on who computes, nor on how the images are stored.

use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::GrayImage;
use stillhouse_core::job::ImageFormat;
use stillhouse_tests::jobs;

use crate::world::{World, alone, undisturbed};

#[test]
fn same_job_with_one_worker_or_three_asks_the_same_queries_and_trains_the_same_student() {
    let _alone = alone();
    let reference = undisturbed();
    let batches = &reference.essence.batches;
    assert_eq!(batches["active"].len(), 4, "the seed images and three rounds");
    assert_ne!(
        batches["active"][1..],
        batches["control"][1..],
        "scores chose, not chance"
    );
    assert_eq!(
        reference.essence.students.len(),
        7,
        "one student of the seed images, three of each arm"
    );
    assert_eq!(reference.outcome.events_called("worker-joined"), 2);
    for workers in [1, 3] {
        let world = World::new();
        let mut job = jobs::three_rounds(&world.url());
        // As many must be there before anything begins.
        job.spec.workers.min = workers;
        let outcome = world.finish(&job, "job", workers);
        assert_eq!(outcome.events_called("worker-joined"), workers as usize);
        assert_eq!(outcome.events_called("worker-lost"), 0);
        assert_eq!(outcome.essence(), reference.essence, "{workers} workers");
        outcome.settle(&world.bill());
    }
}

#[test]
fn another_seed_asks_other_queries() {
    let _alone = alone();
    let world = World::new();
    let batches = [0, 1].map(|seed| {
        let mut job = jobs::one_round(&world.url());
        job.spec.training.seed = seed;
        world.finish(&job, &format!("seed-{seed}"), 1).batches("active")
    });
    assert_eq!(batches[0][0], batches[1][0], "round 0 chooses nothing");
    assert_ne!(batches[0][1], batches[1][1]);
}

const IMAGES: usize = 40;

/// The first digits of the training set, `IMAGES` times 64 bytes.
pub(crate) fn pixels() -> Vec<u8> {
    let file = File::open(jobs::digits("train-images-idx3-ubyte.gz")).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).unwrap();
    bytes[16..16 + IMAGES * jobs::SHAPE.len()].to_vec()
}

fn write_idx(path: &Path, pixels: &[u8]) {
    let header: Vec<u8> = [0x0803, IMAGES as u32, 8, 8]
        .into_iter()
        .flat_map(u32::to_be_bytes)
        .collect();
    std::fs::write(path, [&header, pixels].concat()).unwrap();
}

/// PNG files whose names sort as the images do, in two folders; their paths below `folder`.
pub(crate) fn write_folder(folder: &Path, pixels: &[u8]) -> Vec<PathBuf> {
    let images = pixels.chunks_exact(jobs::SHAPE.len()).enumerate();
    let write = |(at, pixels): (usize, &[u8])| {
        let name = PathBuf::from(format!(
            "{}/{at:03}.png",
            if at < IMAGES / 2 { "first" } else { "second" }
        ));
        std::fs::create_dir_all(folder.join(&name).parent().unwrap()).unwrap();
        GrayImage::from_raw(8, 8, pixels.to_vec())
            .unwrap()
            .save(folder.join(&name))
            .unwrap();
        name
    };
    images.map(write).collect()
}

fn write_tar(path: &Path, folder: &Path, names: &[PathBuf]) {
    let mut tar = tar::Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
    // The order of entries must not matter.
    for name in names.iter().rev() {
        tar.append_path_with_name(folder.join(name), name).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn the_same_images_as_idx_folder_and_tar_give_the_same_queries_and_students() {
    let _alone = alone();
    let world = World::new();
    let (idx, folder, tar) = (
        world.path().join("images.idx"),
        world.path().join("images"),
        world.path().join("images.tar.gz"),
    );
    let pixels = pixels();
    write_idx(&idx, &pixels);
    let names = write_folder(&folder, &pixels);
    write_tar(&tar, &folder, &names);
    let sources = [
        (ImageFormat::Idx, &idx),
        (ImageFormat::Folder, &folder),
        (ImageFormat::Tar, &tar),
    ];
    let essences = sources.map(|(format, path)| {
        let mut job = jobs::one_round(&world.url());
        job.spec.images.source = format;
        job.spec.images.path.clone_from(path);
        world.finish(&job, &format!("{format:?}"), 1).essence()
    });
    assert_eq!(essences[0].batches["active"].len(), 2);
    assert_eq!(essences[0], essences[1], "a folder of PNG");
    assert_eq!(essences[0], essences[2], "a tar.gz of PNG");
}
