//! The Redis queue as a job file names it.

use std::path::{Path, PathBuf};

use stillhouse_core::Job;
use stillhouse_core::job::{QueueSpec, SecretSource};
use stillhouse_queue::RedisConfig;
use stillhouse_queue::stream::{Certificates, Credential};

/// What the keys of a job begin with: no other job's do, nor those of another directory of the same
/// job, which began at another moment.
#[must_use]
pub fn prefix(job: &Job, started_ms: u64) -> String {
    let name = job.spec.queue.as_ref().and_then(|spec| spec.prefix.as_deref());
    format!("{}-{started_ms:x}", name.unwrap_or(&job.name))
}

/// How to reach the queue of `job`, if it has one: as the job file says, or at `url` instead. Files
/// are relative to `base`.
#[must_use]
pub fn redis_config(job: &Job, prefix: &str, url: Option<&str>, base: &Path) -> Option<RedisConfig> {
    let spec = job.spec.queue.as_ref()?;
    let QueueSpec {
        url: written,
        prefix: _,
        password,
        ca_file,
    } = spec;
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
