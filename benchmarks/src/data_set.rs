//! Labelled images as files: MNIST's four, CIFAR-10's binary six.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cli::DataArgs;
use crate::places::{Places, quoted};

const MNIST: [&str; 4] = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
];
const CIFAR10: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// Images to train and to test on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataSet {
    /// As `spec.images.source` and `--format` name it.
    format: &'static str,
    train_images: PathBuf,
    test_images: PathBuf,
    /// Files of their own, of those to train and to test on; `None` where the images' files hold them.
    labels: Option<[PathBuf; 2]>,
}

impl DataSet {
    /// Finds MNIST, 60,000 images and 10,000 for tests, where `args` says, or else in `shared/data` beside the repository.
    ///
    /// # Errors
    /// When one of its files is missing; the message names what is needed.
    pub(crate) fn mnist(places: &Places, args: &DataArgs) -> anyhow::Result<Self> {
        Ok(Self::mnist_in(&folder(places, args, "mnist", &MNIST)?))
    }

    /// Finds CIFAR-10's binary version, 50,000 images and 10,000 for tests, in the same way. The five files to train on
    /// become one, which is kept.
    ///
    /// # Errors
    /// When one of its files is missing, or the one cannot be written.
    pub(crate) fn cifar10(places: &Places, args: &DataArgs) -> anyhow::Result<Self> {
        let folder = folder(places, args, "cifar-10-batches-bin", &CIFAR10)?;
        let one = places.work()?.join("cifar10-train.bin");
        if !one.exists() {
            let part = one.with_extension("part");
            join(&folder, &part).with_context(|| format!("cannot write {}", part.display()))?;
            fs::rename(&part, &one).with_context(|| format!("cannot write {}", one.display()))?;
        }
        Ok(Self {
            format: "cifar-binary",
            train_images: one,
            test_images: folder.join(CIFAR10[5]),
            labels: None,
        })
    }

    /// MNIST's files in `folder`, there or not.
    #[cfg(test)]
    pub(crate) fn unchecked(folder: &str) -> Self {
        Self::mnist_in(Path::new(folder))
    }

    fn mnist_in(folder: &Path) -> Self {
        let [train_images, train_labels, test_images, test_labels] = MNIST.map(|name| folder.join(name));
        Self {
            format: "idx",
            train_images,
            test_images,
            labels: Some([train_labels, test_labels]),
        }
    }

    /// The images to train on.
    pub(crate) fn train_images(&self) -> &Path {
        &self.train_images
    }

    /// `spec.images` of a job: so many of the images to train on, drawn by `seed`.
    pub(crate) fn seed_images(&self, take: u32, seed: u64) -> String {
        let (format, path) = (self.format, quoted(&self.train_images));
        format!("{{ source: {format}, path: {path}, take: {take}, seed: {seed} }}")
    }

    /// What `spec.evaluation` says of the images to test on.
    pub(crate) fn evaluation(&self) -> String {
        let images = format!("images: {}", quoted(&self.test_images));
        match &self.labels {
            Some([_, labels]) => format!("{images}, labels: {}", quoted(labels)),
            None => images,
        }
    }

    /// Tells the training of a teacher where its images are.
    pub(crate) fn teach(&self, command: &mut Command) {
        command.args(["--format", self.format]);
        command.arg("--images").arg(&self.train_images);
        command.arg("--test-images").arg(&self.test_images);
        if let Some([train, test]) = &self.labels {
            command.arg("--labels").arg(train).arg("--test-labels").arg(test);
        }
    }
}

/// The folder that `args` names, or one called `below` in it, whichever has all `files`.
fn folder(places: &Places, args: &DataArgs, below: &str, files: &[&str]) -> anyhow::Result<PathBuf> {
    let wanted = format!(
        "a folder (or one with a folder `{below}`) that holds {}",
        files.join(", ")
    );
    let beside = places.root().parent().map(|folder| folder.join("shared/data"));
    let Some(folder) = args.data.clone().or(beside.filter(|folder| folder.is_dir())) else {
        bail!("expected --data DIR or STILLHOUSE_DATA: {wanted}");
    };
    let whole = |folder: &PathBuf| files.iter().all(|name| folder.join(name).is_file());
    let Some(found) = [folder.join(below), folder.clone()].into_iter().find(whole) else {
        bail!("{} lacks the data: {wanted}", folder.display());
    };
    found
        .canonicalize()
        .with_context(|| format!("cannot read {}", found.display()))
}

/// The files to train on, one after another.
fn join(folder: &Path, out: &Path) -> io::Result<()> {
    let mut out = File::create(out)?;
    for name in &CIFAR10[..5] {
        io::copy(&mut File::open(folder.join(name))?, &mut out)?;
    }
    out.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnist_is_found_directly_or_one_folder_down_and_named_when_missing() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::find().unwrap();
        let args = DataArgs {
            data: Some(folder.path().to_owned()),
        };
        let error = DataSet::mnist(&places, &args).unwrap_err().to_string();
        assert!(
            error.contains("lacks the data") && error.contains("t10k-labels-idx1-ubyte.gz"),
            "{error}"
        );

        let below = folder.path().join("mnist");
        fs::create_dir(&below).unwrap();
        for name in MNIST {
            fs::write(below.join(name), "").unwrap();
        }
        let found = DataSet::mnist(&places, &args).unwrap();
        assert_eq!(found, DataSet::mnist(&places, &DataArgs { data: Some(below) }).unwrap());
        assert!(found.evaluation().contains("t10k-labels-idx1-ubyte.gz"));
    }

    #[test]
    fn the_files_of_cifar10_become_one_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for (at, name) in CIFAR10.iter().enumerate() {
            fs::write(folder.path().join(name), [at as u8; 2]).unwrap();
        }
        let out = folder.path().join("one");
        join(folder.path(), &out).unwrap();
        assert_eq!(fs::read(out).unwrap(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }
}
