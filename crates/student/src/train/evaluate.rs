//! Measures a student: accuracy against true classes, agreement with the teacher.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use stillhouse_core::ImageShape;
use tch::{Device, Kind, Tensor};

use super::crew::SingleThreaded;
use crate::error::StudentError;
use crate::ffi::{InferenceMode, compute_alone};
use crate::network::{Mode, Network, unit_pixels};

/// Images a forward pass.
const BATCH: usize = 256;
/// The same on a card.
const CARD_BATCH: usize = 1_024;

/// Images that are never trained on, with what is known about them.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationSet<'a> {
    /// Pixels, `[n, c, h, w]` one image after another.
    pub images: &'a [u8],
    /// True classes of all images, where they are known.
    pub classes: Option<&'a [u16]>,
    /// `(image, class)` for the images that the teacher answered.
    pub teacher: &'a [(u32, u16)],
}

impl EvaluationSet<'_> {
    /// Number of images of `shape`.
    pub(crate) fn len(&self, shape: ImageShape) -> usize {
        self.images.len() / shape.len().max(1)
    }

    /// Checks that classes and answers refer to images of `shape`; returns the number of images.
    fn check(&self, shape: ImageShape) -> Result<usize, StudentError> {
        let wrong = |reason: String| Err(StudentError::Training { reason });
        if !self.images.len().is_multiple_of(shape.len()) {
            return wrong(format!(
                "{} bytes are not a whole number of {shape} evaluation images",
                self.images.len()
            ));
        }
        let images = self.images.len() / shape.len();
        if let Some(classes) = self.classes.filter(|classes| classes.len() != images) {
            return wrong(format!("expected {images} evaluation classes, found {}", classes.len()));
        }
        match self.teacher.iter().find(|(image, _)| *image as usize >= images) {
            Some((image, _)) => wrong(format!(
                "the teacher answered image {image} of {images} evaluation images"
            )),
            None => Ok(images),
        }
    }
}

/// Counts over some images; those of several ranks add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Images with a true class.
    pub labelled: u64,
    /// Of these, images that the student gives this class.
    pub correct: u64,
    /// Images that the teacher answered.
    pub answered: u64,
    /// Of these, images that the student gives the teacher's class.
    pub agreed: u64,
}

impl Evaluation {
    /// The counts as they travel between ranks.
    pub(crate) fn words(self) -> [u64; 4] {
        [self.labelled, self.correct, self.answered, self.agreed]
    }

    /// The counts of `words`; `None` when these are not four.
    pub(crate) fn of_words(words: &[u64]) -> Option<Self> {
        let [labelled, correct, answered, agreed] = *words else {
            return None;
        };
        Some(Self {
            labelled,
            correct,
            answered,
            agreed,
        })
    }
}

impl std::ops::AddAssign for Evaluation {
    fn add_assign(&mut self, other: Self) {
        self.labelled += other.labelled;
        self.correct += other.correct;
        self.answered += other.answered;
        self.agreed += other.agreed;
    }
}

/// Evaluates `network` on the images `slice` of `set` with `threads` threads. The result does not
/// depend on how a set is cut into slices.
///
/// # Errors
/// [`StudentError::Training`] when the set contradicts itself or the slice lies outside of it.
pub fn evaluate(
    network: &Network,
    set: &EvaluationSet<'_>,
    slice: Range<usize>,
    threads: usize,
) -> Result<Evaluation, StudentError> {
    let images = set.check(network.spec().shape())?;
    if slice.start > slice.end || slice.end > images {
        return Err(StudentError::Training {
            reason: format!("slice {slice:?} of {images} evaluation images"),
        });
    }
    let wanted = wanted(set, &slice);
    if wanted.is_empty() {
        return Ok(Evaluation::default());
    }
    if matches!(network.device(), Device::Cuda(_)) {
        // On this thread: cuDNN plans every convolution anew for each thread that asks it.
        return Ok(count(set, &wanted, &predict(network, set.images, &wanted, CARD_BATCH)?));
    }
    let _calm = SingleThreaded::enter();
    let share = wanted.len().div_ceil(threads.max(1));
    let predicted = std::thread::scope(|scope| -> Result<Vec<u16>, StudentError> {
        let mut threads = Vec::new();
        for part in wanted.chunks(share) {
            let network = network.share()?;
            threads.push(scope.spawn(move || {
                compute_alone();
                predict(&network, set.images, part, BATCH)
            }));
        }
        let gone = |_| Err(StudentError::Thread("ended in the middle of an evaluation".to_owned()));
        let parts: Result<Vec<_>, _> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(gone))
            .collect();
        Ok(parts?.concat())
    })?;
    Ok(count(set, &wanted, &predicted))
}

/// The images of `slice` about which something is known, ascending.
fn wanted(set: &EvaluationSet<'_>, slice: &Range<usize>) -> Vec<u32> {
    if set.classes.is_some() {
        return (slice.start as u32..slice.end as u32).collect();
    }
    let answered = set.teacher.iter().map(|(image, _)| *image);
    let mut wanted: Vec<u32> = answered.filter(|image| slice.contains(&(*image as usize))).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// The most probable class of each image, the lowest of equals.
fn predict(network: &Network, images: &[u8], wanted: &[u32], batch: usize) -> Result<Vec<u16>, StudentError> {
    let _inference = InferenceMode::enter();
    let shape = network.spec().shape();
    let mut classes = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(batch) {
        let pixels: Vec<u8> = part
            .iter()
            .flat_map(|image| &images[*image as usize * shape.len()..][..shape.len()])
            .copied()
            .collect();
        let size = [
            part.len() as i64,
            shape.channels.into(),
            shape.height.into(),
            shape.width.into(),
        ];
        let pixels = Tensor::f_from_data_size(&pixels, &size, Kind::Uint8)?.f_to_device(network.device())?;
        let logits = network.forward(&unit_pixels(&pixels)?, Mode::Eval)?;
        let best = logits.f_argmax(-1, false)?.f_to_device(Device::Cpu)?;
        classes.extend(Vec::<i64>::try_from(&best)?.into_iter().map(|class| class as u16));
    }
    Ok(classes)
}

fn count(set: &EvaluationSet<'_>, wanted: &[u32], predicted: &[u16]) -> Evaluation {
    let mut counts = Evaluation::default();
    if let Some(classes) = set.classes {
        counts.labelled = wanted.len() as u64;
        let right = wanted
            .iter()
            .zip(predicted)
            .filter(|(image, class)| classes[**image as usize] == **class);
        counts.correct = right.count() as u64;
    }
    for (image, class) in set.teacher {
        if let Ok(at) = wanted.binary_search(image) {
            counts.answered += 1;
            counts.agreed += u64::from(predicted[at] == *class);
        }
    }
    counts
}
