//! One data set in any format: count first, then read what was picked.

use std::path::Path;

use stillhouse_core::ImageSet;
use stillhouse_core::job::{ImageFormat, Size};

use crate::archive::TarSource;
use crate::assemble::Picks;
use crate::cifar::CifarSource;
use crate::error::DataError;
use crate::folder::FolderSource;
use crate::idx::IdxSource;
use crate::limits::{Limit, MAX_IMAGES};
use crate::names::{self, Classes, classes};

/// A data set that holds at least one image and not too many.
pub(crate) enum Source {
    Idx(IdxSource),
    Cifar(CifarSource),
    Folder(FolderSource),
    Tar(TarSource),
}

impl Source {
    pub(crate) fn open(format: ImageFormat, path: &Path) -> Result<Self, DataError> {
        let source = match format {
            ImageFormat::Idx => Self::Idx(IdxSource::open(path)?),
            ImageFormat::CifarBinary => Self::Cifar(CifarSource::open(path)?),
            ImageFormat::Folder => Self::Folder(FolderSource::open(path)?),
            ImageFormat::Tar => Self::Tar(TarSource::open(path)?),
        };
        let (found, expected, skipped) = source.census();
        if found > MAX_IMAGES {
            return Err(DataError::TooLarge {
                place: path.display().to_string(),
                limit: Limit::Images,
                found,
            });
        }
        if found == 0 {
            return Err(DataError::NoImages {
                path: path.to_owned(),
                expected,
                skipped,
            });
        }
        Ok(source)
    }

    /// Number of images.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.census().0).expect("open refuses more than MAX_IMAGES")
    }

    /// Reads the picked images, and the labels that CIFAR-10 keeps beside them.
    pub(crate) fn read(&self, picks: &Picks, size: Option<Size>) -> Result<(ImageSet, Option<Vec<u16>>), DataError> {
        match self {
            Self::Idx(source) => Ok((source.read(picks, size)?, None)),
            Self::Cifar(source) => source.read(picks, size).map(|(images, labels)| (images, Some(labels))),
            Self::Folder(source) => Ok((source.read(picks, size)?, None)),
            Self::Tar(source) => Ok((source.read(picks, size)?, None)),
        }
    }

    /// The classes that folders spell, for all images.
    pub(crate) fn classes(&self, path: &Path) -> Result<Option<Classes>, DataError> {
        match self {
            Self::Idx(_) | Self::Cifar(_) => Ok(None),
            Self::Folder(source) => classes(source.names(), path),
            Self::Tar(source) => classes(source.names(), path),
        }
    }

    /// Path of each image below the folder or in the tar.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        match self {
            Self::Idx(_) | Self::Cifar(_) => None,
            Self::Folder(source) => Some(source.names().map(text).collect()),
            Self::Tar(source) => Some(source.names().map(text).collect()),
        }
    }

    /// Images, what counts as one, and files that were passed over.
    fn census(&self) -> (u64, &'static str, u64) {
        match self {
            Self::Idx(source) => (u64::from(source.len()), "a first dimension of at least 1", 0),
            Self::Cifar(source) => (source.len(), "files that end in .bin", source.skipped()),
            Self::Folder(source) => (source.len(), names::EXPECTED, source.skipped()),
            Self::Tar(source) => (source.len(), names::EXPECTED, source.skipped()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tar(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_data(&mut header, name, &[][..])
            .expect("memory can be written");
        builder.into_inner().expect("memory can be written")
    }

    #[test]
    fn files_that_change_between_counting_and_reading_are_refused() {
        let idx = |images| [&[0, 0, 8, 3, 0, 0, 0, images, 0, 0, 0, 1, 0, 0, 0, 1][..], &[7; 2]].concat();
        let cases = [
            (ImageFormat::Idx, idx(2), idx(1)),
            (ImageFormat::CifarBinary, vec![0; 2 * 3073], vec![0; 3073]),
            (ImageFormat::Tar, tar("a.png"), tar("b.png")),
            (ImageFormat::Tar, tar("a.png"), vec![0; 1024]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (format, before, after) in cases {
            fs::write(&path, before).unwrap();
            let source = Source::open(format, &path).unwrap();
            fs::write(&path, after).unwrap();
            let error = source.read(&Picks::All, None).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} changed while it was read", path.display())
            );
        }
    }
}
