//! The Redis queue as a job file names it.

use std::path::{Path, PathBuf};

use stillhouse_core::Job;
use stillhouse_core::job::{QueueSpec, SecretSource};
use stillhouse_queue::RedisConfig;
use stillhouse_queue::stream::{Certificates, Credential};

/// How to reach the queue of `job`, if it has one: as the job file says, or at `url` instead. Files
/// are relative to `base`.
#[must_use]
pub fn redis_config(job: &Job, url: Option<&str>, base: &Path) -> Option<RedisConfig> {
    let spec = job.spec.queue.as_ref()?;
    let QueueSpec {
        url: written,
        prefix,
        password,
        ca_file,
    } = spec;
    let prefix = prefix.as_deref().unwrap_or(&job.name);
    let mut config = RedisConfig::new(url.unwrap_or(written), prefix);
    config.block = job.spec.teacher.batch_size() as usize;
    config.password = password.as_ref().map(|source| match source {
        SecretSource::File(path) => Credential::File(base.join(path)),
        SecretSource::Environment(name) => Credential::Variable(name.clone()),
    });
    config.certificates = Certificates {
        authority: ca_file.as_ref().map(|path: &PathBuf| base.join(path)),
        client: None,
    };
    Some(config)
}
