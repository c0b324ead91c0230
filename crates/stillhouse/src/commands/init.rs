//! `stillhouse init`: a commented job file to start from.

use std::io::Write;
use std::path::Path;

use crate::failure::{Failure, Kind};

/// The job file that `init` writes; a test parses it.
pub const TEMPLATE: &str = include_str!("job_template.yaml");

/// Writes the template to `path`, which must not exist.
///
/// # Errors
/// When it exists or cannot be written.
pub fn init(path: &Path) -> Result<String, Failure> {
    let mut file = std::fs::File::create_new(path).map_err(|error| {
        let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
        let failure = Failure::new(Kind::Usage, error).context(format!("cannot write {}", path.display()));
        if exists {
            failure.hint("name another file: stillhouse init other.yaml")
        } else {
            failure
        }
    })?;
    file.write_all(TEMPLATE.as_bytes())
        .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot write {}", path.display())))?;
    let path = path.display();
    Ok(format!(
        "wrote {path}; fill in images, teacher and budget, then:\n  stillhouse validate {path}\n  stillhouse run {path} --dry-run\n  stillhouse run {path}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::Job;

    #[test]
    fn the_template_is_a_valid_job() {
        Job::parse(TEMPLATE).expect("valid");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("job.yaml");
        init(&path).expect("new file");
        std::fs::write(&path, "mine").expect("writable");
        assert!(init(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "mine");
    }
}
