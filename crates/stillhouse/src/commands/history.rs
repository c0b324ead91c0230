//! `stillhouse history` and `stillhouse curves`: what past jobs reached.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::past::{CurvesArgs, CurvesFormat, HistoryArgs};
use crate::coordinate::results;
use crate::curves;
use crate::failure::{Failure, Kind};
use crate::report::comparison::{Comparison, Side};
use crate::report::history::History;
use crate::report::number::counted;
use crate::report::summary::Summary;
use crate::report::terminal::Color;

/// Lists the jobs of a folder, or compares two.
///
/// # Errors
/// When the folder, or one of the two jobs, cannot be read. A job of the list that cannot be read is
/// one of its lines.
pub fn history(args: &HistoryArgs) -> Result<String, Failure> {
    match &args.jobs[..] {
        [first, second] => {
            let [first, second] = [first, second].map(|job| side(&args.folder, job));
            let comparison = Comparison::of(&first?, &second?);
            Ok(match args.json {
                true => comparison.json(),
                false => comparison.text(Color::for_stdout()),
            })
        }
        _ => {
            let history = History::of(read_all(&args.folder)?);
            Ok(match args.json {
                true => history.json(),
                false => history.text(&args.folder, Color::for_stdout()),
            })
        }
    }
}

/// Writes the curves of a job for another program.
///
/// # Errors
/// When there is no job, or the files cannot be written.
pub fn curves(args: &CurvesArgs) -> Result<String, Failure> {
    let summary = results::read_summary(&args.dir)?;
    let written = curves::write(&summary, &args.to, args.format)?;
    let (files, to) = (counted(written, "file", "files"), args.to.display());
    let shown = match args.format {
        CurvesFormat::Tensorboard => format!("; tensorboard --logdir {to} shows them"),
        CurvesFormat::Mlflow => format!("; MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {to} shows them"),
        CurvesFormat::Csv => String::new(),
    };
    Ok(format!("wrote {files} to {to}{shown}"))
}

/// A job directory by its path, with its summary or why that cannot be read.
type Found = (String, Result<Summary, Failure>);

/// Every job directory in `folder`.
fn read_all(folder: &Path) -> Result<Vec<Found>, Failure> {
    let unreadable = |error: io::Error| {
        Failure::new(Kind::Directory, error)
            .context(format!("cannot list {}", folder.display()))
            .hint("name the folder of your job directories: --folder DIR")
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let dir = entry.map_err(unreadable)?.path();
        if dir.is_dir() && !matches!(dir.join("summary.json").try_exists(), Ok(false)) {
            found.push((dir.display().to_string(), results::read_summary(&dir)));
        }
    }
    Ok(found)
}

fn side(folder: &Path, job: &Path) -> Result<Side, Failure> {
    let dir = resolve(folder, job);
    Ok(Side {
        summary: results::read_summary(&dir)?,
        directory: dir.display().to_string(),
    })
}

/// The directory that `job` means: itself when it has a summary, or else the one of that name in
/// `folder` when that has one.
fn resolve(folder: &Path, job: &Path) -> PathBuf {
    let below = folder.join(job);
    let is_job = |dir: &Path| dir.join("summary.json").exists();
    if !is_job(job) && is_job(&below) {
        return below;
    }
    job.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("summary.json"), text).unwrap();
    }

    fn args(folder: &Path, jobs: &[&str], json: bool) -> HistoryArgs {
        HistoryArgs {
            jobs: jobs.iter().map(PathBuf::from).collect(),
            folder: folder.to_path_buf(),
            json,
        }
    }

    #[test]
    fn a_summary_that_cannot_be_read_does_not_stop_the_list() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "good", &example::summary().to_json());
        write(folder.path(), "torn", "{\"version\": 1");
        write(folder.path(), "later", "{\"version\": 2}");
        std::fs::create_dir(folder.path().join("no-job")).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        let text = history(&args(folder.path(), &[], true)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(value["jobs"][0]["name"], "mnist-lenet");
        let reasons: Vec<&str> = (0..2)
            .map(|at| value["unreadable"][at]["reason"].as_str().unwrap())
            .collect();
        assert!(
            reasons[0].contains("expected summary version 1, found 2"),
            "{reasons:?}"
        );
        assert!(reasons[1].contains("expected a summary in JSON"), "{reasons:?}");
    }

    #[test]
    fn a_job_is_named_by_its_path_or_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "first", &example::summary().to_json());
        write(folder.path(), "second", &example::summary().to_json());
        let path = folder.path().join("second");
        let text = history(&args(folder.path(), &["first", path.to_str().unwrap()], false)).unwrap();
        assert!(text.contains("the setups do not differ"), "{text}");
        let missing = history(&args(folder.path(), &["first", "third"], false)).unwrap_err();
        assert_eq!(missing.kind(), Kind::Directory);
        let nowhere = history(&args(&folder.path().join("nowhere"), &[], false)).unwrap_err();
        assert!(nowhere.to_string().contains("--folder DIR"), "{nowhere}");
    }
}
