//! Makes valid files of every format.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use stillhouse_core::ImageShape;

pub(crate) fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/data/digits")
        .join(name)
}

pub(crate) fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder can be made");
    fs::write(&path, bytes).expect("a file can be written");
    path
}

pub(crate) fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    bytes.extend_from_slice(data);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

pub(crate) fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("the image can be encoded");
    bytes.into_inner()
}

/// A colour image whose pixel at (x, y) is (x, y, `seed`).
pub(crate) fn colour(height: u32, width: u32, seed: u8) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, seed])).into()
}

pub(crate) fn png(height: u32, width: u32, seed: u8) -> Vec<u8> {
    encode(&colour(height, width, seed), ImageFormat::Png)
}

pub(crate) fn jpeg(height: u32, width: u32, seed: u8) -> Vec<u8> {
    encode(&colour(height, width, seed), ImageFormat::Jpeg)
}

/// What `png` decodes to, channel-major.
pub(crate) fn planes(height: u32, width: u32, seed: u8) -> Vec<u8> {
    let at = |pixel: fn(u32, u32, u8) -> u8| (0..height).flat_map(move |y| (0..width).map(move |x| pixel(x, y, seed)));
    let channels: [fn(u32, u32, u8) -> u8; 3] = [|x, _, _| x as u8, |_, y, _| y as u8, |_, _, seed| seed];
    channels.into_iter().flat_map(at).collect()
}

pub(crate) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, *bytes)
            .expect("memory can be written");
    }
    builder.into_inner().expect("memory can be written")
}

pub(crate) fn cifar(records: &[(u8, u8)]) -> Vec<u8> {
    let record = |&(label, value): &(u8, u8)| std::iter::once(label).chain([value; 3072]);
    records.iter().flat_map(record).collect()
}

pub(crate) fn shape(channels: u32, height: u32, width: u32) -> ImageShape {
    ImageShape {
        channels,
        height,
        width,
    }
}
