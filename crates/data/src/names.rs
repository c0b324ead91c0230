//! Which paths are images, and the classes that folders spell.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::DataError;
use crate::limits::Limit;

/// What counts as an image in a folder or a tar.
pub(crate) const EXPECTED: &str = "files that end in .png, .jpg or .jpeg";

/// Whether a path (components separated by `/`) has a component that starts with a dot.
#[must_use]
pub fn is_hidden(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/')
        .any(|component| component.starts_with(b"."))
}

/// Whether a path ends like a PNG or JPEG, in any case.
#[must_use]
pub fn is_picture(name: &[u8]) -> bool {
    [".png", ".jpg", ".jpeg"].iter().any(|extension| {
        let start = name.len().checked_sub(extension.len());
        start.is_some_and(|start| name[start..].eq_ignore_ascii_case(extension.as_bytes()))
    })
}

/// Adds up the bytes of paths and of images, and refuses too many.
#[derive(Default)]
pub(crate) struct Tally {
    images: u64,
    name_bytes: u64,
}

impl Tally {
    /// Counts one more image.
    pub(crate) fn add(&mut self, name: &[u8], path: &Path) -> Result<(), DataError> {
        self.images += 1;
        self.name_bytes += name.len() as u64;
        let bounds = [(Limit::Images, self.images), (Limit::NameBytes, self.name_bytes)];
        for (limit, found) in bounds {
            if found > limit.max() {
                return Err(DataError::TooLarge {
                    place: path.display().to_string(),
                    limit,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Classes spelt by folders.
pub(crate) struct Classes {
    /// Label of each image.
    pub(crate) labels: Vec<u16>,
    /// Name of each class, ascending by bytes.
    pub(crate) names: Vec<String>,
}

/// The classes of the images `names` if each lies in exactly one folder, `CLASS/FILE`.
pub(crate) fn classes<'a>(
    names: impl Iterator<Item = &'a [u8]> + Clone,
    path: &Path,
) -> Result<Option<Classes>, DataError> {
    let Some(folders) = names.clone().map(only_folder).collect::<Option<BTreeSet<_>>>() else {
        return Ok(None);
    };
    let folders: Vec<&[u8]> = folders.into_iter().collect();
    if folders.len() > 1 + usize::from(u16::MAX) {
        return Err(DataError::TooManyClasses {
            path: path.to_owned(),
            found: folders.len() as u64,
        });
    }
    let labels = names
        .filter_map(only_folder)
        .filter_map(|folder| folders.binary_search(&folder).ok())
        .map(|label| label as u16)
        .collect();
    let names = folders
        .iter()
        .map(|folder| String::from_utf8_lossy(folder).into_owned())
        .collect();
    Ok(Some(Classes { labels, names }))
}

fn only_folder(name: &[u8]) -> Option<&[u8]> {
    let mut components = name.split(|&byte| byte == b'/');
    match (components.next(), components.next(), components.next()) {
        (Some(folder), Some(_), None) => Some(folder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_IMAGES, MAX_NAME_BYTES};

    #[test]
    fn hidden_paths_and_other_extensions_are_told_apart() {
        assert!(is_hidden(b".a.png") && is_hidden(b"b/.c/a.png") && !is_hidden(b"b.c/a.png"));
        for name in ["a.png", "b/A.JPG", "c.Jpeg"] {
            assert!(is_picture(name.as_bytes()), "{name}");
        }
        for name in ["png", "a.webp", "a.png.txt", ""] {
            assert!(!is_picture(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn classes_are_numbered_by_the_bytes_of_their_names() {
        let names = ["b/1", "a/2", "B/3", "a/4"].map(str::as_bytes);
        let classes = classes(names.into_iter(), Path::new("x")).unwrap().unwrap();
        assert_eq!(classes.names, ["B", "a", "b"]);
        assert_eq!(classes.labels, [2, 1, 0, 1]);
    }

    #[test]
    fn more_classes_than_labels_can_number_are_refused() {
        let names: Vec<String> = (0..=65_536).map(|folder| format!("{folder}/a.png")).collect();
        let read = |count| classes(names[..count].iter().map(String::as_bytes), Path::new("x"));
        assert_eq!(read(65_536).unwrap().unwrap().names.len(), 65_536);
        let error = read(65_537).err().unwrap();
        assert_eq!(error.to_string(), "x has 65537 class folders, expected at most 65536");
        assert!(error.hint().is_some());
    }

    #[test]
    fn paths_and_images_are_counted_before_memory_runs_out() {
        let name = vec![b'x'; 1 << 20];
        let mut tally = Tally::default();
        (0..MAX_NAME_BYTES >> 20).for_each(|_| tally.add(&name, Path::new("x")).unwrap());
        let error = tally.add(b"y", Path::new("x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x: found 1073741825 bytes of paths, expected at most 1073741824"
        );
        let mut tally = Tally {
            images: MAX_IMAGES,
            name_bytes: 0,
        };
        let error = tally.add(b"y", Path::new("x")).unwrap_err();
        assert_eq!(error.to_string(), "x: found 16777217 images, expected at most 16777216");
    }
}
