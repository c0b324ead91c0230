//! The learning curves of a job, for the programs in which people look at curves already.
//!
//! | module | what it writes |
//! |---|---|
//! | `table` | `curves.csv` |
//! | [`tensorboard`] | event files |
//! | [`mlflow`] | runs of a file store |
//!
//! A summary has no moments of rounds. Where a format wants one, it is the job's first start plus the
//! time that the rounds of that student have taken so far: waiting, and the other student's rounds,
//! are not in it.

pub mod mlflow;
mod table;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use stillhouse_core::plan::Arm;

use crate::cli::past::CurvesFormat;
use crate::failure::{Failure, Kind};
use crate::job_dir::write_file;
use crate::report::summary::{ArmSummary, RoundSummary, Summary};

/// A file below the folder that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurveFile {
    /// Where, below the folder.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Whether one that is already there stays as it is.
    pub keeps: bool,
}

impl CurveFile {
    fn new(path: PathBuf, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path,
            bytes: bytes.into(),
            keeps: false,
        }
    }
}

/// One round as a point of every curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Queries of the student so far, seed images included: the axis.
    pub step: i64,
    /// Milliseconds since 1970, see the module.
    pub unix_ms: u64,
    /// What was measured, by the names of the curves.
    pub values: Vec<(&'static str, f64)>,
}

/// Writes the curves of a job into the folder `to`; returns the number of files. Doing it again
/// replaces them.
///
/// # Errors
/// When something cannot be written, or `to` has TensorBoard curves of another job of that name.
pub fn write(summary: &Summary, to: &Path, format: CurvesFormat) -> Result<u64, Failure> {
    let storage =
        |error: std::io::Error| Failure::new(Kind::Storage, error).context(format!("cannot write to {}", to.display()));
    std::fs::create_dir_all(to).map_err(storage)?;
    let files = match format {
        CurvesFormat::Csv => vec![CurveFile::new("curves.csv".into(), table::encode(summary)?)],
        CurvesFormat::Tensorboard => {
            let files = tensorboard::files(summary);
            tensorboard::check(&files, to)?;
            files
        }
        CurvesFormat::Mlflow => mlflow::files(summary, &to.canonicalize().map_err(storage)?)?,
    };
    let mut written = 0;
    for file in files {
        let path = to.join(&file.path);
        if file.keeps && path.exists() {
            continue;
        }
        std::fs::create_dir_all(path.parent().unwrap_or(to)).map_err(storage)?;
        write_file(&path, &file.bytes)?;
        written += 1;
    }
    Ok(written)
}

/// The curves of one student.
fn points(summary: &Summary, arm: &ArmSummary) -> Vec<Point> {
    let mut seconds = 0.0;
    let mut point = |round: &RoundSummary| {
        seconds += round.timings.total().max(0.0);
        Point {
            step: i64::try_from(round.queries_total).unwrap_or(i64::MAX),
            unix_ms: summary.started.unix_ms.saturating_add((seconds * 1e3).round() as u64),
            values: values(round),
        }
    };
    arm.rounds.iter().map(&mut point).collect()
}

fn values(round: &RoundSummary) -> Vec<(&'static str, f64)> {
    let times = &round.timings;
    let all = [
        ("accuracy/last", round.accuracy.map(|accuracy| accuracy.last)),
        ("accuracy/best", round.accuracy.map(|accuracy| accuracy.best)),
        ("agreement", round.agreement),
        ("loss", round.loss),
        ("seconds/scan", Some(times.scan_seconds)),
        ("seconds/rescore", Some(times.rescore_seconds)),
        ("seconds/query", Some(times.query_seconds)),
        ("seconds/train", Some(times.train_seconds)),
        ("rate/candidates_per_second", times.candidates_per_second),
        ("rate/queries_per_second", times.queries_per_second),
        ("queries/labelled", Some(round.labelled as f64)),
        ("queries/held", Some(round.held as f64)),
    ];
    let known = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.collect()
}

/// `name` as one part of a path, whatever it holds: no separator, never `.` or `..`, not hidden, at
/// most 100 letters.
fn path_part(name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let part: String = name.chars().take(100).map(safe).collect();
    match part.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if part.is_empty() => "_".to_owned(),
        None => part,
    }
}

/// Name of a student's run.
fn run_name(summary: &Summary, arm: Arm) -> String {
    format!("{}-{arm}", path_part(&summary.job.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use std::path::Component;

    const FORMATS: [CurvesFormat; 3] = [CurvesFormat::Csv, CurvesFormat::Tensorboard, CurvesFormat::Mlflow];

    /// Every file below `folder`, in order.
    fn found(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files.extend(found(&path)),
                false => files.push(path),
            }
        }
        files.sort();
        files
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        for (name, part) in [
            ("mnist-lenet_5.1", "mnist-lenet_5.1"),
            ("../x", "_._x"),
            ("..", "_."),
            (".", "_"),
            ("", "_"),
            ("/etc/passwd", "_etc_passwd"),
            ("a\\b\0c\n", "a_b_c_"),
            ("\u{e9}\u{2028}", "__"),
        ] {
            assert_eq!(path_part(name), part);
            let parts: Vec<_> = Path::new(part).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{part}");
        }
        assert_eq!(path_part(&"x".repeat(1_000)).len(), 100);
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let around = tempfile::tempdir().unwrap();
        let mut summary = example::summary();
        for name in ["../x", "..", "/tmp/x", "a/../../x"] {
            summary.job.name = name.to_owned();
            for format in FORMATS {
                let to = around.path().join("to");
                write(&summary, &to, format).unwrap();
                let beside = std::fs::read_dir(around.path()).unwrap().count();
                assert_eq!(beside, 1, "{name} as {format:?}");
                std::fs::remove_dir_all(&to).unwrap();
            }
        }
    }

    #[test]
    fn a_second_export_replaces_the_first() {
        for format in FORMATS {
            let to = tempfile::tempdir().unwrap();
            let mut summary = example::summary();
            let whole = summary.active.rounds.clone();
            summary.active.rounds.truncate(2);
            write(&summary, to.path(), format).unwrap();
            let first = found(to.path());
            summary.active.rounds = whole;
            assert!(write(&summary, to.path(), format).unwrap() > 0);
            assert_eq!(found(to.path()), first, "{format:?}");
        }
    }

    #[test]
    fn no_file_says_where_the_teacher_is() {
        let to = tempfile::tempdir().unwrap();
        for format in FORMATS {
            write(&example::summary(), to.path(), format).unwrap();
        }
        for path in found(to.path()) {
            let bytes = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                !text.contains("127.0.0.1") && !text.contains("secret"),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_round_stands_at_its_queries_and_after_the_time_it_took() {
        let summary = example::summary();
        let points = points(&summary, &summary.active);
        let start = summary.started.unix_ms;
        let steps: Vec<i64> = points.iter().map(|point| point.step).collect();
        assert_eq!(steps, [2_000, 8_000, 14_000, 20_000, 26_000]);
        // 4.1 + 12 seconds, then 86 + 4 + 12.2 + 43 more.
        assert_eq!(points[0].unix_ms, start + 16_100);
        assert_eq!(points[1].unix_ms, start + 161_300);
        assert!(points[1].values.contains(&("accuracy/last", 0.9853)));
        let names = |at: usize| points[at].values.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert!(
            !names(0).contains(&"rate/candidates_per_second"),
            "round 0 scores nothing"
        );
        assert_eq!(names(1).len(), 12);
    }
}
