//! Turns files into pixels: seed images and evaluation sets from IDX, CIFAR-10 binary, and folders
//! or tars of PNG and JPEG.
//!
//! Every reader yields canonical pixels: `u8`, channel-major, all images of one shape. What a reader
//! cannot turn into that, it refuses with a [`DataError`] that says what was expected, what was
//! found, in which file, and (in [`DataError::hint`]) how to mend it. Nothing is guessed in silence,
//! nothing is extracted to disk, and no input, however hostile, makes a reader panic or allocate
//! more than [`limits`] allow.
//!
//! # What happens to pixels
//! - Grey and colour: when every image read is stored as grey, the set has one channel; as soon as
//!   one is stored in colour, all become RGB, grey ones with three equal channels. A PNG with a
//!   palette and a JPEG of three components count as colour whatever their colours are. Only the
//!   images read decide: with `take`, those drawn.
//! - One decoder reads JPEG on every machine, so that all see the same pixels. Other decoders differ
//!   from it by a level or so.
//! - Transparency is composited on black; 16-bit samples are reduced to 8, rounded to nearest.
//! - EXIF orientation, gamma and colour profiles are not applied, as in the usual training
//!   pipelines.
//! - Resizing happens only when a size is asked for: triangle filter, each channel for itself,
//!   aspect ratio not kept.
//!
//! # Order
//! IDX and CIFAR-10 keep the order of the file (files of a folder in name order); folders and tars
//! are in byte order of the path, so that a folder and a tar of it are the same data set.
//!
//! Modules in reading order:
//!
//! | module | does |
//! |---|---|
//! | `load` | the three ways in: a labelled set, seed images, evaluation images |
//! | `source` | one data set in any format: count first, then read what was picked |
//! | `idx`, `cifar`, `folder`, `archive` | the formats |
//! | `names` | which paths are images, and the classes that folders spell |
//! | `picture` | one image: decode, deinterleave, resize |
//! | `assemble` | many pictures of one shape |
//! | `stream` | a file, gunzipped when it is gzip |
//! | `sniff` | what unexpected bytes look like |
//! | [`limits`] | how much is too much |
//! | `error` | what went wrong, and how to mend it |

mod archive;
mod assemble;
mod cifar;
mod error;
mod folder;
mod idx;
pub mod limits;
mod load;
mod names;
mod picture;
mod sniff;
mod source;
mod stream;

pub use error::DataError;
pub use limits::Limit;
pub use load::{EvaluationImages, LabelledImages, SeedImages, load, load_evaluation, load_seed_images};
pub use names::{is_hidden, is_picture};
pub use sniff::Found;
