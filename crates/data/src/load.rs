//! The three ways in: a labelled set, seed images, evaluation images.

use std::path::Path;

use stillhouse_core::ImageSet;
use stillhouse_core::job::{EvaluationSpec, ImageFormat, ImagesSpec, Size};
use stillhouse_core::sampler::{Purpose, Stream};

use crate::assemble::Picks;
use crate::error::DataError;
use crate::idx::read_labels;
use crate::source::Source;

/// A whole data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImages {
    /// Every image.
    pub images: ImageSet,
    /// True class of each image, `[n]`, if known.
    pub labels: Option<Vec<u16>>,
    /// Name of each class where folders spell them: label `i` is the `i`-th of the folders that
    /// hold images, ascending by bytes.
    pub class_names: Option<Vec<String>>,
    /// Path of each image below the folder or in the tar, `[n]`.
    pub names: Option<Vec<String>>,
}

/// The few real images that a job starts from, without labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedImages {
    /// The images drawn.
    pub images: ImageSet,
    /// Position in the data set of each image drawn, `[n]`, ascending.
    pub indices: Vec<u32>,
    /// [`ImageSet::digest`] of the images.
    pub digest: [u8; 32],
}

/// The images on which a student is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationImages {
    /// The images.
    pub images: ImageSet,
    /// True class of each image, `[n]`; without them agreement can be measured, accuracy cannot.
    pub labels: Option<Vec<u16>>,
}

/// Reads all images at `path`, resized to `size` if there is one. Labels are those of the IDX file
/// `labels` if there is one; else those that the format brings: the label bytes of CIFAR-10, or the
/// folders when every image lies in exactly one (`CLASS/FILE`).
///
/// ```
/// use std::path::Path;
/// use stillhouse_core::job::ImageFormat;
///
/// let digits = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/digits"));
/// let test = stillhouse_data::load(
///     ImageFormat::Idx,
///     &digits.join("test-images-idx3-ubyte.gz"),
///     None,
///     Some(&digits.join("test-labels-idx1-ubyte.gz")),
/// )?;
/// assert_eq!(format!("{:?}", test.images), "ImageSet(500 images of 1x8x8)");
/// assert_eq!(test.labels.map(|labels| labels.len()), Some(500));
/// # Ok::<(), stillhouse_data::DataError>(())
/// ```
///
/// # Errors
/// When the files are missing, damaged, of another format, too large, without images, or with images
/// of several sizes and no `size`; or when there is not one label for each image.
pub fn load(
    format: ImageFormat,
    path: &Path,
    size: Option<Size>,
    labels: Option<&Path>,
) -> Result<LabelledImages, DataError> {
    let source = Source::open(format, path)?;
    let given = labels.map(|labels| labels_for(&source, path, labels)).transpose()?;
    let classes = match given {
        Some(_) => None,
        None => source.classes(path)?,
    };
    let (images, stored) = source.read(&Picks::All, size)?;
    let (spelt, class_names) = classes.map(|classes| (classes.labels, classes.names)).unzip();
    Ok(LabelledImages {
        images,
        labels: given.or(stored).or(spelt),
        class_names,
        names: source.names(),
    })
}

/// Draws the seed images of a job: `take` of the data set uniformly and without repeats, by `seed`
/// alone; all of them without `take`. `base_dir` is the folder of the job file. Of a folder or tar
/// only the images drawn are decoded.
///
/// # Errors
/// As for [`load`], and when `take` exceeds what there is or is zero.
pub fn load_seed_images(spec: &ImagesSpec, base_dir: &Path) -> Result<SeedImages, DataError> {
    let path = base_dir.join(&spec.path);
    let source = Source::open(spec.source, &path)?;
    let available = source.len();
    let take = spec.take.unwrap_or(available);
    if take == 0 || take > available {
        return Err(DataError::BadTake { path, take, available });
    }
    let indices = Stream::new(spec.seed, Purpose::SeedImages, 0).choose(available, take);
    let (images, _) = source.read(&Picks::Some(indices.clone()), spec.size)?;
    Ok(SeedImages {
        digest: images.digest(),
        images,
        indices,
    })
}

/// Reads the evaluation images of a job, in the format and at the size of its seed images.
/// `base_dir` is the folder of the job file. Labels are as for [`load`].
///
/// # Errors
/// As for [`load`].
pub fn load_evaluation(
    evaluation: &EvaluationSpec,
    images: &ImagesSpec,
    base_dir: &Path,
) -> Result<EvaluationImages, DataError> {
    let labels = evaluation.labels.as_ref().map(|labels| base_dir.join(labels));
    let path = base_dir.join(&evaluation.images);
    let loaded = load(images.source, &path, images.size, labels.as_deref())?;
    Ok(EvaluationImages {
        images: loaded.images,
        labels: loaded.labels,
    })
}

fn labels_for(source: &Source, images_path: &Path, labels_path: &Path) -> Result<Vec<u16>, DataError> {
    let labels = read_labels(labels_path)?;
    if labels.len() != source.len() as usize {
        return Err(DataError::LabelCount {
            labels_path: labels_path.to_owned(),
            labels: labels.len() as u64,
            images_path: images_path.to_owned(),
            images: u64::from(source.len()),
        });
    }
    Ok(labels)
}
