//! What a finished job leaves in its directory beside its students.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use stillhouse_core::{ImageSet, ImageShape, Sample, SoftLabel};
use stillhouse_ledger::Ledger;

use crate::failure::{Failure, Kind};
use crate::inputs::Inputs;
use crate::job_dir::{JobDir, write_file};
use crate::labels_file;
use crate::report::{ContactSheet, Report, Summary, render};

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

/// Name of the file that keeps the seed images, so that a report needs nothing else.
const SEEDS: &str = "seeds.safetensors";

/// Writes `seeds.safetensors`: one tensor `images`, u8 `[n, channels, height, width]`.
///
/// # Errors
/// When it cannot be written.
pub fn write_seeds(dir: &JobDir, seeds: &ImageSet) -> Result<(), Failure> {
    let internal = |error: safetensors::SafeTensorError| Failure::new(Kind::Internal, error);
    let shape = seeds.shape();
    let sides = [shape.channels, shape.height, shape.width].map(|side| side as usize);
    let view = TensorView::new(Dtype::U8, [&[seeds.len()], &sides[..]].concat(), seeds.bytes()).map_err(internal)?;
    dir.write(
        SEEDS,
        &safetensors::serialize([("images", view)], None).map_err(internal)?,
    )
}

fn read_seeds(dir: &Path) -> Result<ImageSet, Failure> {
    let path = dir.join(SEEDS);
    let context = format!("cannot read {}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| Failure::new(Kind::Directory, error).context(context.clone()))?;
    let parsed = SafeTensors::deserialize(&bytes)
        .and_then(|file| file.tensor("images").map(|t| (t.shape().to_vec(), t.data().to_vec())));
    let (sides, pixels) = parsed.map_err(|error| Failure::new(Kind::Directory, error).context(context.clone()))?;
    let sides: Vec<u32> = sides.iter().filter_map(|side| u32::try_from(*side).ok()).collect();
    let [_, channels, height, width] = sides[..] else {
        return Err(Failure::message(
            Kind::Directory,
            format!("{context}: expected four sides, found {sides:?}"),
        ));
    };
    let shape = ImageShape {
        channels,
        height,
        width,
    };
    ImageSet::new(shape, pixels).map_err(|error| Failure::new(Kind::Directory, error).context(context))
}

/// Writes `report.html` of a job directory from what lies in it.
///
/// # Errors
/// When the summary cannot be read or the page not be written.
pub fn write_report(dir: &Path) -> Result<(), Failure> {
    let summary = read_summary(dir)?;
    let seeds = read_seeds(dir)?;
    let sheets = summary
        .arms()
        .flat_map(|(arm, of)| of.rounds.iter().map(move |round| (arm, round)));
    let contact: Vec<ContactSheet> = sheets
        .filter(|(_, round)| !round.hardest.is_empty())
        .map(|(arm, round)| ContactSheet::draw(arm, round, &seeds))
        .collect();
    let events = std::fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default();
    let events: Vec<String> = events.lines().map(str::to_owned).collect();
    let job_file = std::fs::read_to_string(dir.join("job.yaml")).ok();
    let page = render(&Report {
        summary: &summary,
        contact: &contact,
        events: &events,
        job_file: job_file.as_deref(),
    });
    write_file(&dir.join("report.html"), page.as_bytes())
}
