//! What a finished job leaves in its directory beside its students.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use stillhouse_core::{ImageSet, ImageShape, Sample, SoftLabel};
use stillhouse_ledger::Ledger;

use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::{JobDir, write_file};
use crate::labels_file::{self, view};
use crate::report::{ContactSheet, Report, Summary, render};

/// What a finished job leaves for others to use, where it has it.
pub const RESULTS: [&str; 7] = [
    "summary.json",
    "report.html",
    "student.safetensors",
    "student.pt",
    "control.safetensors",
    "control.pt",
    "labels.safetensors",
];

/// Writes `labels.safetensors`, in order of samples.
///
/// # Errors
/// When the ledger cannot be read or the file not be written.
pub async fn write_labels(inputs: &Inputs, dir: &JobDir, ledger: &Ledger, classes: usize) -> Result<(), Failure> {
    let entries = ledger
        .entries()
        .await
        .map_err(|error| Failure::new(Kind::Storage, error).context("cannot read labels"))?;
    let labelled = entries
        .into_iter()
        .filter_map(|entry| Some((entry.sample, entry.label?)));
    let mut labels: Vec<(Sample, SoftLabel)> = labelled.collect();
    labels.sort_unstable_by_key(|(sample, _)| *sample);
    dir.write("labels.safetensors", &labels_file::encode(inputs, classes, &labels)?)
}

/// Reads the summary of a job directory.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read_summary(dir: &Path) -> Result<Summary, Failure> {
    let path = dir.join("summary.json");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let failure = Failure::new(Kind::Directory, error).context(format!("cannot read {}", path.display()));
        if missing {
            failure.hint("a job directory has a summary once its first step is done; is this one?")
        } else {
            failure
        }
    })?;
    Summary::parse(&text).map_err(|error| Failure::new(Kind::Directory, error).context(path.display().to_string()))
}

/// Bytes of the event log that are looked at: the latest.
const EVENT_BYTES: u64 = 1 << 20;
/// Name of the file that keeps the seed images, so that a report needs nothing else.
const SEEDS: &str = "seeds.safetensors";
/// Name of the file that keeps the images that were generated for the pool.
const GENERATED: &str = "generated.safetensors";
/// Name of the file that keeps the evaluation images that the teacher may be asked about.
const EVALUATION: &str = "evaluation.safetensors";

/// Writes the images that the job may ask about, so that the directory can be checked without
/// anything else: `seeds.safetensors`, one tensor `images`, u8 `[n, channels, height, width]`, and,
/// where the teacher labels evaluation images, `evaluation.safetensors` with those and their
/// positions, `index`, u32 `[n]`.
///
/// # Errors
/// When they cannot be written.
pub fn write_images(dir: &JobDir, inputs: &Inputs) -> Result<(), Failure> {
    dir.write(SEEDS, &encode_images(&inputs.seeds, None)?)?;
    match &inputs.evaluation {
        Some(images) if !inputs.evaluation_asked.is_empty() => {
            let asked = &inputs.evaluation_asked;
            dir.write(EVALUATION, &encode_images(&images.subset(asked), Some(asked))?)
        }
        Some(_) | None => Ok(()),
    }
}

fn encode_images(images: &ImageSet, index: Option<&[u32]>) -> Result<Vec<u8>, Failure> {
    let shape = images.shape();
    let sides = [shape.channels, shape.height, shape.width].map(|side| side as usize);
    let pixels = view(Dtype::U8, [&[images.len()], &sides[..]].concat(), images.bytes())?;
    let index: Option<Vec<u8>> = index.map(|index| index.iter().flat_map(|at| at.to_le_bytes()).collect());
    let mut views = vec![("images", pixels)];
    if let Some(index) = &index {
        views.push(("index", view(Dtype::U32, vec![images.len()], index)?));
    }
    safetensors::serialize(views, None).map_err(|error| Failure::new(Kind::Internal, error))
}

/// Writes `generated.safetensors`, one tensor `images`, u8 `[n, channels, height, width]`.
///
/// # Errors
/// When it cannot be written.
pub fn write_generated(dir: &JobDir, images: &ImageSet) -> Result<(), Failure> {
    dir.write(GENERATED, &encode_images(images, None)?)
}

/// Reads the images that were generated for the pool of a job; none when there are none.
///
/// # Errors
/// When they cannot be read.
pub fn read_generated(dir: &Path) -> Result<Option<ImageSet>, Failure> {
    let is_there = dir.join(GENERATED).exists();
    is_there.then(|| read_images(dir, GENERATED)).transpose()
}

/// Reads the seed images of a job directory.
///
/// # Errors
/// When they are not there, or cannot be read.
pub fn read_seeds(dir: &Path) -> Result<ImageSet, Failure> {
    read_images(dir, SEEDS)
}

fn read_images(dir: &Path, name: &str) -> Result<ImageSet, Failure> {
    let path = dir.join(name);
    let parsed = std::fs::read(&path)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| decode_images(&SafeTensors::deserialize(&bytes)?));
    parsed.map_err(|error| Failure::new(Kind::Directory, error).context(format!("cannot read {}", path.display())))
}

/// Reads the evaluation images of a job directory by position; none when the job asks about none.
///
/// # Errors
/// When they cannot be read.
pub fn read_evaluation(dir: &Path) -> Result<HashMap<u32, Vec<u8>>, Failure> {
    let path = dir.join(EVALUATION);
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let parsed = std::fs::read(&path).map_err(anyhow::Error::from).and_then(|bytes| {
        let file = SafeTensors::deserialize(&bytes)?;
        let (images, index) = (decode_images(&file)?, file.tensor("index")?);
        let (index, _) = index.data().as_chunks::<4>();
        let index = index.iter().map(|at| u32::from_le_bytes(*at));
        let image = |(at, index)| Some((index, images.get(at)?.to_vec()));
        Ok(index.enumerate().filter_map(image).collect())
    });
    parsed.map_err(|error| Failure::new(Kind::Directory, error).context(format!("cannot read {}", path.display())))
}

fn decode_images(file: &SafeTensors<'_>) -> anyhow::Result<ImageSet> {
    let images = file.tensor("images")?;
    Ok(ImageSet::new(image_shape(images.shape())?, images.data().to_vec())?)
}

/// Shape of each of some images `[n, channels, height, width]`.
///
/// # Errors
/// When these are not four sides.
pub fn image_shape(sides: &[usize]) -> anyhow::Result<ImageShape> {
    let numbers: Vec<u32> = sides.iter().filter_map(|side| u32::try_from(*side).ok()).collect();
    let [_, channels, height, width] = numbers[..] else {
        anyhow::bail!("expected four sides, found {sides:?}");
    };
    Ok(ImageShape {
        channels,
        height,
        width,
    })
}

/// Writes `report.html` of a job directory from what lies in it.
///
/// # Errors
/// When the summary cannot be read or the page not be written.
pub fn write_report(dir: &Path) -> Result<(), Failure> {
    let summary = read_summary(dir)?;
    let (seeds, generated) = (read_seeds(dir)?, read_generated(dir)?);
    let sheets = summary
        .arms()
        .flat_map(|(arm, of)| of.rounds.iter().map(move |round| (arm, round)));
    let contact: Vec<ContactSheet> = sheets
        .filter(|(_, round)| !round.hardest.is_empty())
        .map(|(arm, round)| ContactSheet::draw(arm, round.round, &round.hardest, &seeds, generated.as_ref()))
        .collect();
    let job_file = std::fs::read_to_string(dir.join("job.yaml")).ok();
    let page = render(&Report {
        summary: &summary,
        contact: &contact,
        events: &read_events(dir),
        moment: None,
        job_file: job_file.as_deref(),
    });
    write_file(&dir.join("report.html"), page.as_bytes())
}

/// The latest lines of the event log of a job directory; none when it cannot be read.
#[must_use]
pub fn read_events(dir: &Path) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(dir.join("events.jsonl"))?;
        let skipped = file.metadata()?.len().saturating_sub(EVENT_BYTES);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(EVENT_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The first line may be the end of one.
        let whole = if skipped > 0 {
            text.split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            &text
        };
        Ok(whole.to_owned())
    };
    let text = read().unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
