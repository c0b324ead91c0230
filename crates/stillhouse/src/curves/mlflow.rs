//! An MLflow file store: one experiment, `stillhouse`, and in it a run of each student.
//!
//! | path | what |
//! |---|---|
//! | `EXPERIMENT/meta.yaml` | the experiment; one that is there stays as it is |
//! | `EXPERIMENT/RUN/meta.yaml` | the run |
//! | `EXPERIMENT/RUN/metrics/NAME` | a curve: a line `milliseconds value queries` a round |
//! | `EXPERIMENT/RUN/params/NAME` | how the job was set up |
//! | `EXPERIMENT/RUN/tags/NAME` | name of the run, of the job and of the student |
//! | `EXPERIMENT/RUN/artifacts/curves.csv` | all rounds of the job |
//!
//! The run id is drawn from the job's digest, its first start and the student, so that writing again
//! replaces the run, and two directories of one job file have runs of their own. Source: `file_store.py`
//! of MLflow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stillhouse_core::Acquisition;
use stillhouse_core::plan::Arm;
use url::Url;

use super::{CurveFile, points, run_name, table};
use crate::failure::{Failure, Kind};
use crate::report::summary::{ArmSummary, State, Summary, acquisition_name};
use crate::report::terminal::plain;

/// Id of the experiment, drawn once; a decimal number of 18 digits, as MLflow draws its own.
const EXPERIMENT: &str = "593161203743826915";

/// The files of a job's runs, in a store at `root`, an absolute path.
///
/// # Errors
/// When the table of the rounds cannot be made, or `root` is not absolute.
pub fn files(summary: &Summary, root: &Path) -> Result<Vec<CurveFile>, Failure> {
    let mut files = vec![CurveFile {
        keeps: true,
        ..CurveFile::new(
            [EXPERIMENT, "meta.yaml"].iter().collect(),
            experiment(summary, &address(&root.join(EXPERIMENT))?),
        )
    }];
    let rounds = table::encode(summary)?;
    for (arm, of) in summary.arms() {
        let folder = PathBuf::from(EXPERIMENT).join(run_id(summary, arm));
        let artifacts = folder.join("artifacts");
        let meta = run(summary, arm, &address(&root.join(&artifacts))?);
        files.push(CurveFile::new(folder.join("meta.yaml"), meta));
        files.push(CurveFile::new(artifacts.join("curves.csv"), rounds.clone()));
        let metrics = metrics(summary, of).into_iter();
        files.extend(metrics.map(|(name, lines)| CurveFile::new(folder.join("metrics").join(name), lines)));
        let texts = params(summary, arm).map(|(name, value)| (format!("params/{name}"), value));
        let tags = tags(summary, arm).map(|(name, value)| (format!("tags/{name}"), value));
        let texts = texts.into_iter().chain(tags);
        files.extend(texts.map(|(path, value)| CurveFile::new(folder.join(path), plain(&value))));
    }
    Ok(files)
}

/// 32 hexadecimal digits.
fn run_id(summary: &Summary, arm: Arm) -> String {
    let text = format!("{} {} {arm}", summary.job.digest, summary.started.unix_ms);
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

fn address(path: &Path) -> Result<String, Failure> {
    let url = Url::from_file_path(path);
    let url = url.map_err(|()| Failure::message(Kind::Internal, format!("{} is not absolute", path.display())))?;
    Ok(url.to_string())
}

fn experiment(summary: &Summary, address: &str) -> String {
    yaml(&json!({
        "artifact_location": address,
        "creation_time": summary.started.unix_ms,
        "experiment_id": EXPERIMENT,
        "last_update_time": summary.started.unix_ms,
        "lifecycle_stage": "active",
        "name": "stillhouse",
    }))
}

fn run(summary: &Summary, arm: Arm, artifacts: &str) -> String {
    let id = run_id(summary, arm);
    yaml(&json!({
        "artifact_uri": artifacts,
        "deleted_time": null,
        "end_time": summary.finished.as_ref().map(|end| end.unix_ms),
        "entry_point_name": "",
        "experiment_id": EXPERIMENT,
        "lifecycle_stage": "active",
        "run_id": id,
        "run_name": run_name(summary, arm),
        "run_uuid": id,
        "source_name": "",
        "source_type": LOCAL,
        "source_version": "",
        "start_time": summary.started.unix_ms,
        "status": status(&summary.state),
        "tags": [],
        "user_id": "stillhouse",
    }))
}

/// `SourceType.LOCAL` of MLflow.
const LOCAL: u8 = 4;

/// `RunStatus` of MLflow: running, finished or failed.
fn status(state: &State) -> u8 {
    match state {
        State::Running | State::Paused { .. } => 1,
        State::Finished => 3,
        State::Stopped { .. } => 4,
    }
}

/// A line a key. Every JSON value on one line is a YAML value, and its texts stay texts.
fn yaml(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    fields.map(|(key, value)| format!("{key}: {value}\n")).collect()
}

/// The lines of each curve.
fn metrics(summary: &Summary, arm: &ArmSummary) -> BTreeMap<&'static str, String> {
    let mut curves: BTreeMap<&'static str, String> = BTreeMap::new();
    for point in points(summary, arm) {
        for (name, value) in &point.values {
            let line = format!("{} {value} {}\n", point.unix_ms, point.step);
            *curves.entry(name).or_default() += &line;
        }
    }
    curves
}

fn params(summary: &Summary, arm: Arm) -> [(&'static str, String); 11] {
    let Summary { pool, student, .. } = summary;
    let acquisition = match arm {
        Arm::Active => acquisition_name(pool.acquisition),
        Arm::Control => acquisition_name(Acquisition::Random),
    };
    [
        ("student", student.architecture.clone()),
        ("student_parameters", student.parameters.to_string()),
        ("classes", student.classes.to_string()),
        ("teacher_model", summary.teacher.model.clone()),
        ("acquisition", acquisition),
        ("seeds", pool.seeds.to_string()),
        ("pairs", pool.pairs.to_string()),
        ("generated", pool.generated.to_string()),
        ("lambdas", pool.lambdas.to_string()),
        ("budget", summary.budget.queries.to_string()),
        ("job_digest", summary.job.digest.clone()),
    ]
}

fn tags(summary: &Summary, arm: Arm) -> [(&'static str, String); 3] {
    [
        ("mlflow.runName", run_name(summary, arm)),
        ("stillhouse.job", summary.job.name.clone()),
        ("stillhouse.arm", arm.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use crate::report::summary::Timestamp;

    fn text<'a>(files: &'a [CurveFile], path: &str) -> &'a str {
        let file = files.iter().find(|file| file.path == Path::new(path));
        let file = file.unwrap_or_else(|| panic!("no {path} in {files:?}"));
        std::str::from_utf8(&file.bytes).unwrap()
    }

    #[test]
    fn a_store_has_an_experiment_and_a_run_of_each_student() {
        let summary = example::summary();
        let files = files(&summary, Path::new("/store of mine")).unwrap();
        let [active, control] = [Arm::Active, Arm::Control].map(|arm| run_id(&summary, arm));
        let run = format!("{EXPERIMENT}/{active}");
        let meta = text(&files, &format!("{run}/meta.yaml"));
        assert!(meta.contains(&format!("\nrun_id: \"{active}\"\n")), "{meta}");
        assert!(
            meta.contains("\nstatus: 3\n") && meta.contains("\nend_time: 1772368872000\n"),
            "{meta}"
        );
        let artifacts = format!("artifact_uri: \"file:///store%20of%20mine/{run}/artifacts\"\n");
        assert!(meta.starts_with(&artifacts), "{meta}");
        let accuracy = text(&files, &format!("{run}/metrics/accuracy/last"));
        assert_eq!(accuracy.lines().next(), Some("1772366416100 0.9602 2000"));
        assert_eq!(accuracy.lines().count(), 5);
        assert_eq!(text(&files, &format!("{run}/params/acquisition")), "least-confidence");
        assert_eq!(text(&files, &format!("{run}/tags/stillhouse.arm")), "active");
        let chosen_by = text(&files, &format!("{EXPERIMENT}/{control}/params/acquisition"));
        assert_eq!(chosen_by, "random");
        let other = text(&files, &format!("{EXPERIMENT}/{control}/metrics/accuracy/last"));
        assert!(other.ends_with(" 0.9884 26000\n"), "{other}");
        let meta = text(&files, &format!("{EXPERIMENT}/meta.yaml"));
        assert!(meta.contains(&format!("experiment_id: \"{EXPERIMENT}\"\n")), "{meta}");
        assert!(
            files.iter().filter(|file| file.keeps).count() == 1,
            "the experiment alone stays"
        );
    }

    #[test]
    fn a_run_is_the_same_however_far_it_is_and_another_for_another_directory() {
        let summary = example::summary();
        let mut later = summary.clone();
        later.updated = Timestamp::from_unix_ms(0);
        later.active.rounds.clear();
        assert_eq!(run_id(&summary, Arm::Active), run_id(&later, Arm::Active));
        assert_ne!(run_id(&summary, Arm::Active), run_id(&summary, Arm::Control));
        later.started = Timestamp::from_unix_ms(1);
        assert_ne!(run_id(&summary, Arm::Active), run_id(&later, Arm::Active));
        let id = run_id(&summary, Arm::Active);
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
    }

    #[test]
    fn a_text_that_looks_like_a_number_stays_a_text() {
        let text = yaml(&json!({ "a": "1e3", "b": "yes", "c": null, "d": "x: \"y\"\n" }));
        assert_eq!(text, "a: \"1e3\"\nb: \"yes\"\nc: null\nd: \"x: \\\"y\\\"\\n\"\n");
    }

    #[test]
    fn a_job_that_stopped_has_failed_and_one_that_waits_runs() {
        let reason = String::new();
        assert_eq!(status(&State::Stopped { reason: reason.clone() }), 4);
        assert_eq!(status(&State::Paused { reason }), 1);
    }
}
