//! Where things are that are not on this machine: images, checkpoints, results.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::check::{JobError, require};
use super::spec::Spec;

/// Where a training under way is kept, so that a restart goes on with it and not with the round's
/// first step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckpointsSpec {
    /// Seconds between two checkpoints; none when 0.
    pub every_seconds: u32,
    /// `s3://BUCKET/PREFIX` or `file:///FOLDER`; the job directory when absent.
    pub url: Option<String>,
}

impl CheckpointsSpec {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for CheckpointsSpec {
    fn default() -> Self {
        Self {
            every_seconds: 30,
            url: None,
        }
    }
}

/// Where what a finished job leaves is copied to, beside its job directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResultsSpec {
    /// `s3://BUCKET/PREFIX` or `file:///FOLDER`.
    pub url: String,
}

/// Scheme of what an object store holds.
pub const S3: &str = "s3://";

/// Whether an object store holds what `path` names, and no disk of this machine.
#[must_use]
pub fn is_remote(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(S3.as_bytes())
}

/// Every place that `spec` names.
pub(super) fn check(spec: &Spec) -> Result<(), JobError> {
    check_checkpoints(&spec.checkpoints)?;
    if let Some(results) = &spec.results {
        check_url("spec.results.url", &results.url)?;
    }
    check_remote_paths(spec)
}

fn check_checkpoints(checkpoints: &CheckpointsSpec) -> Result<(), JobError> {
    let seconds = checkpoints.every_seconds;
    require(
        seconds <= 86_400,
        "spec.checkpoints.everySeconds",
        "0 to 86400",
        seconds,
    )?;
    check_url("spec.checkpoints.url", checkpoints.url.as_deref().unwrap_or("file:///"))
}

/// A place where something may be kept.
fn check_url(key: &'static str, url: &str) -> Result<(), JobError> {
    let is_known = url.starts_with("file:///") || url.strip_prefix(S3).is_some_and(|rest| !rest.is_empty());
    require(is_known, key, "s3://BUCKET/PREFIX or file:///FOLDER", url)
}

/// Objects are named whole.
fn check_remote_paths(spec: &Spec) -> Result<(), JobError> {
    let of_evaluation = spec.evaluation.as_ref();
    let paths = [
        ("spec.images.path", Some(&spec.images.path)),
        ("spec.evaluation.images", of_evaluation.map(|of| &of.images)),
        (
            "spec.evaluation.labels",
            of_evaluation.and_then(|of| of.labels.as_ref()),
        ),
        ("spec.student.torchscript", spec.student.torchscript.as_ref()),
    ];
    for (key, path) in paths {
        let Some(path) = path.filter(|path| is_remote(path)) else {
            continue;
        };
        let text = path.to_string_lossy();
        let names_both = text[S3.len()..].split_once('/').is_some_and(|(bucket, key)| {
            let plain = |part: &str| !part.is_empty() && !part.contains(['?', '#']);
            plain(bucket) && plain(key)
        });
        require(names_both, key, "s3://BUCKET/KEY", &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Job;

    const FILE: &str = r#"
apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: { name: j }
spec:
  images: { source: idx, path: IMAGES }
  teacher: { protocol: open-inference, url: "http://127.0.0.1:8000", model: m }
  student: { architecture: lenet5 }
  budget: { queries: 100, perRound: 10 }
"#;

    fn parse(images: &str, more: &str) -> Result<Job, String> {
        let text = FILE.replace("IMAGES", images) + more;
        Job::parse(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_and_places_are_named_whole_or_refused_with_the_key() {
        assert!(parse("s3://bucket/some/key.gz", "  results: { url: s3://bucket }\n").is_ok());
        assert!(parse("data/s3/key.gz", "  results: { url: \"file:///tmp/there\" }\n").is_ok());
        for path in [
            "s3://",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "\"s3://bucket/key?versionId=3\"",
        ] {
            let refused = parse(path, "").expect_err(path);
            assert!(
                refused.contains("spec.images.path") && refused.contains("s3://BUCKET/KEY"),
                "{refused}"
            );
        }
        let refused = parse("a", "  evaluation: { images: a, labels: s3://b }\n").expect_err("no key");
        assert!(refused.contains("spec.evaluation.labels"), "{refused}");
        for url in ["s3://", "file://there", "/tmp", "https://bucket"] {
            let refused = parse("a", &format!("  results: {{ url: \"{url}\" }}\n")).expect_err(url);
            assert!(refused.contains("spec.results.url"), "{refused}");
        }
    }

    #[test]
    fn where_results_go_makes_no_other_job() {
        let (there, nowhere) = (parse("a", "  results: { url: s3://bucket/x }\n"), parse("a", ""));
        assert_eq!(there.map(|job| job.digest()), nowhere.map(|job| job.digest()));
    }
}
