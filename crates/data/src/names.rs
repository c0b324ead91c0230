//! Which paths are images, and the classes that folders spell.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::DataError;
use crate::limits::Limit;

/// What counts as an image in a folder or a tar.
pub(crate) const EXPECTED: &str = "files that end in .png, .jpg or .jpeg";

/// Whether a path (components separated by `/`) has a component that starts with a dot.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/')
        .any(|component| component.starts_with(b"."))
}

/// Whether a path ends like a PNG or JPEG, in any case.
pub(crate) fn has_image_extension(name: &[u8]) -> bool {
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
