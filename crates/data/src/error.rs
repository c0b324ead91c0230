//! What went wrong, and how to mend it.

use std::io;
use std::path::PathBuf;

use stillhouse_core::job::Size;

use crate::limits::Limit;
use crate::sniff::Found;

/// Why files could not be turned into pixels. Fields named `place` say which image, for example
/// `images/cat/7.png`, `images.tar: cat/7.png` or `images.gz: image 7`.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder where a file is needed, or the other way round, or neither.
    #[error("{path} is {found}, expected {expected}", path = path.display())]
    WrongKind {
        /// What was named.
        path: PathBuf,
        /// What the format needs.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The bytes are of another format.
    #[error("{path} is not {expected}: it looks like {found}", path = path.display())]
    WrongFormat {
        /// File that was read.
        path: PathBuf,
        /// What the format needs.
        expected: &'static str,
        /// What the first bytes look like.
        found: Found,
    },
    /// A gzip stream or a tar archive is damaged or ends early.
    #[error("the {what} {path} is damaged or incomplete", path = path.display())]
    Corrupt {
        /// File that was read.
        path: PathBuf,
        /// Which layer failed: `gzip file` or `tar`.
        what: &'static str,
        /// What the decoder said.
        source: io::Error,
    },
    /// The file ends before what its header declares.
    #[error("{path} ends early: expected {expected} bytes of {what}, found {found}", path = path.display())]
    Truncated {
        /// File that was read.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Bytes that should be there.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The file goes on after what its header declares.
    #[error("{path} has bytes left over: expected it to end after {expected} bytes of {what}", path = path.display())]
    Trailing {
        /// File that was read.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Bytes that should be there.
        expected: u64,
    },
    /// An IDX file of another element type than `u8`.
    #[error("{path} holds {kind} (IDX type 0x{found:02x}), expected u8 (IDX type 0x08)", path = path.display(), kind = idx_type(*found))]
    IdxType {
        /// File that was read.
        path: PathBuf,
        /// Third byte of the file.
        found: u8,
    },
    /// Labels given as images, or images as labels.
    #[error("{path} looks like {} file: found idx{found}, expected {}", idx_guess(*found), if *labels { "idx1" } else { "idx3" }, path = path.display())]
    IdxDimensions {
        /// File that was read.
        path: PathBuf,
        /// Whether labels were wanted.
        labels: bool,
        /// Number of dimensions in the file.
        found: u8,
    },
    /// IDX dimensions that are no images.
    #[error("{path} has dimensions {dims:?}: {problem}", path = path.display())]
    IdxLayout {
        /// File that was read.
        path: PathBuf,
        /// Dimensions in the file.
        dims: Vec<u32>,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// A CIFAR-10 file that is not a whole number of records.
    #[error("{path} has {found} bytes, expected a multiple of 3073 (1 label and 3072 pixels)", path = path.display())]
    CifarLength {
        /// File that was read.
        path: PathBuf,
        /// Bytes in the file.
        found: u64,
    },
    /// A CIFAR-10 record whose label is no class.
    #[error("{path}: record {record} has label {found}, expected 0 to 9", path = path.display())]
    CifarLabel {
        /// File that was read.
        path: PathBuf,
        /// Record, from 0.
        record: u64,
        /// Its first byte.
        found: u8,
    },
    /// The official CIFAR-10 folder, which holds training and test images side by side.
    #[error("{path} holds both training batches and test_batch.bin, expected one or the other", path = path.display())]
    CifarMixed {
        /// Folder that was read.
        path: PathBuf,
    },
    /// A file named like an image that is none.
    #[error("{place} is not a PNG or JPEG: it looks like {found}")]
    NotAnImage {
        /// Which image.
        place: String,
        /// What the first bytes look like.
        found: Found,
    },
    /// A PNG or JPEG that cannot be decoded.
    #[error("cannot decode {place}")]
    BadImage {
        /// Which image.
        place: String,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A JPEG without its end.
    #[error("{place} ends early: expected an end-of-image marker, found none")]
    TruncatedJpeg {
        /// Which image.
        place: String,
    },
    /// More than a reader accepts.
    #[error("{place}: found {found} {limit}, expected at most {}", limit.max())]
    TooLarge {
        /// File, folder or image.
        place: String,
        /// Which bound.
        limit: Limit,
        /// Amount found, or the first amount known to be too large.
        found: u64,
    },
    /// Images of more than one size, and no size to bring them to.
    #[error("images differ in size: {first} is {}, {second} is {}", rows_by_columns(*first_size), rows_by_columns(*second_size))]
    SizesDiffer {
        /// First image read.
        first: String,
        /// Its size.
        first_size: Size,
        /// First image of another size.
        second: String,
        /// Its size.
        second_size: Size,
    },
    /// A size to resize to that has no pixel or too many.
    #[error("cannot resize to {}: expected 1 to {} rows and columns", rows_by_columns(*size), Limit::Side.max())]
    BadSize {
        /// Size that was asked for.
        size: Size,
    },
    /// Nothing to read.
    #[error("{path} holds no images: expected {expected}, found {skipped} other files", path = path.display())]
    NoImages {
        /// File or folder.
        path: PathBuf,
        /// What counts as an image.
        expected: &'static str,
        /// Files that were passed over.
        skipped: u64,
    },
    /// No images wanted, or more than there are.
    #[error("cannot draw {take} seed images: {path} holds {available}, expected 1 to {available}", path = path.display())]
    BadTake {
        /// File or folder.
        path: PathBuf,
        /// Images wanted.
        take: u32,
        /// Images there.
        available: u32,
    },
    /// Not one label for each image.
    #[error("{labels_path} holds {labels} labels, expected {images}, one for each image of {images_path}",
        labels_path = labels_path.display(), images_path = images_path.display())]
    LabelCount {
        /// File with the labels.
        labels_path: PathBuf,
        /// Labels there.
        labels: u64,
        /// File or folder with the images.
        images_path: PathBuf,
        /// Images there.
        images: u64,
    },
    /// More class folders than labels can number.
    #[error("{path} has {found} class folders, expected at most 65536", path = path.display())]
    TooManyClasses {
        /// Folder or tar.
        path: PathBuf,
        /// Class folders there.
        found: u64,
    },
    /// The files are not the same as a moment ago.
    #[error("{path} changed while it was read", path = path.display())]
    Changed {
        /// File or folder.
        path: PathBuf,
    },
}

impl DataError {
    /// How to mend it, in one sentence, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; a relative one starts at the folder of the job file"
            }
            Self::WrongKind { found: "a folder", .. } => {
                "name one file, or set `spec.images.source` to `folder` for a folder of PNG and JPEG files"
            }
            Self::WrongKind {
                expected: "a folder", ..
            } => {
                "name the folder, or set `spec.images.source` to the format of the file: `idx`, `cifar-binary` or `tar`"
            }
            Self::WrongFormat { found, .. } | Self::NotAnImage { found, .. } => return found.hint().map(String::from),
            Self::Corrupt { .. } | Self::Truncated { .. } | Self::TruncatedJpeg { .. } | Self::BadImage { .. } => {
                "copy or download the file again"
            }
            Self::Trailing { .. } => "the header and the data disagree: copy or download the file again",
            Self::IdxType { .. } => "convert the values to whole numbers from 0 to 255 stored as u8",
            Self::IdxDimensions { labels: false, .. } => {
                "name the file with the images, for example `train-images-idx3-ubyte.gz`"
            }
            Self::IdxDimensions { labels: true, .. } => {
                "name the file with the labels, for example `train-labels-idx1-ubyte.gz`"
            }
            Self::IdxLayout { .. } => {
                "store grey images as [n, h, w], and colour ones as [n, 3, h, w] or [n, h, w, 3] with h and w other than 1 and 3"
            }
            Self::CifarLength { found, .. } if found % 3074 == 0 => {
                "this may be CIFAR-100 (3074 bytes a record), which is not read: convert it to IDX"
            }
            Self::CifarLength { .. } | Self::CifarLabel { .. } => {
                "use the binary version of CIFAR-10, unpacked: `data_batch_1.bin` to `data_batch_5.bin`"
            }
            Self::CifarMixed { .. } => {
                "name one file, or keep the training batches in a folder of their own, so that no test image becomes a seed image"
            }
            Self::TooLarge { limit, .. } => limit.hint(),
            Self::SizesDiffer { .. } => "set `spec.images.size` to bring all images to one size",
            Self::BadSize { .. } => "set `spec.images.size` to the height and width that the teacher expects",
            Self::NoImages { .. } => "check `spec.images.path` and `spec.images.source`",
            Self::BadTake { available, .. } => {
                return Some(format!(
                    "set `spec.images.take` to at most {available}, or leave it out to use all"
                ));
            }
            Self::LabelCount { .. } => "check that images and labels are of the same split: both train or both test",
            Self::TooManyClasses { .. } => "name the folder above the class folders",
            Self::Changed { .. } => "try again when nothing writes to it",
            Self::Io { .. } | Self::WrongKind { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn rows_by_columns(size: Size) -> String {
    format!("{} x {} (height x width)", size.height, size.width)
}

/// Element types of the format, from <http://yann.lecun.com/exdb/mnist/>.
fn idx_type(byte: u8) -> &'static str {
    match byte {
        0x09 => "i8",
        0x0b => "i16",
        0x0c => "i32",
        0x0d => "f32",
        0x0e => "f64",
        _ => "an unknown type",
    }
}

fn idx_guess(dimensions: u8) -> &'static str {
    match dimensions {
        1 => "a labels",
        3 | 4 => "an images",
        _ => "another IDX",
    }
}
