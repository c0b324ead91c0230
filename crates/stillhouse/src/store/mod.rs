//! Places outside the job directory: folders, and stores that speak S3.
//!
//! | module | what it is |
//! |---|---|
//! | [`fetch`] | images of a job that lie in a store, brought here while they are read |
//! | [`deliver`] | what a finished job leaves, copied to where the user wants it |

pub mod deliver;
pub mod fetch;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, GetResult, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use stillhouse_core::job::S3;
use stillhouse_core::key::hex;
use url::Url;

/// What a store that cannot be reached most often lacks.
pub const S3_HINT: &str = "a store that speaks S3 takes its address and credentials from AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, \
     AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP and so on";

/// How often a request is tried again, in seven seconds or so: pauses are drawn from the first to three times the last.
const AGAIN: usize = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long all of that may take.
const TIME: Duration = Duration::from_secs(60);

/// A folder, here or in a bucket.
#[derive(Clone, Debug)]
pub struct Place {
    /// What holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Where in it.
    pub folder: Path,
}

impl Place {
    /// Opens `s3://BUCKET/PREFIX` or `file:///FOLDER`, which is made. Nothing is asked of a store yet.
    ///
    /// # Errors
    /// When the address makes no sense, or the folder cannot be made.
    pub fn open(url: &str) -> anyhow::Result<Self> {
        let Some(address) = url.strip_prefix(S3) else {
            let folder = Url::parse(url)?.to_file_path();
            let folder = folder.ok().context("expected s3://BUCKET/PREFIX or file:///FOLDER")?;
            return Self::local(&folder);
        };
        let (bucket, key) = address.split_once('/').unwrap_or((address, ""));
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: FIRST_PAUSE,
                base: 3.0,
                ..BackoffConfig::default()
            },
            max_retries: AGAIN,
            retry_timeout: TIME,
        };
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
        Ok(Self {
            store: Arc::new(store.build()?),
            folder: Path::parse(key.trim_end_matches('/'))?,
        })
    }

    /// A folder of this machine, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn local(folder: &FilePath) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            store: Arc::new(LocalFileSystem::new_with_prefix(folder)?),
            folder: Path::default(),
        })
    }

    /// A folder in this one.
    #[must_use]
    pub fn inner(mut self, name: &str) -> Self {
        self.folder = self.folder.join(name);
        self
    }

    /// Where a file of it is.
    #[must_use]
    pub fn file(&self, name: &str) -> Path {
        self.folder.clone().join(name)
    }

    /// A file of it; `None` where there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<GetResult>, object_store::Error> {
        match self.store.get(&self.file(name)).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file of it, whole or not at all.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), object_store::Error> {
        let payload = PutPayload::from(bytes);
        self.store.put(&self.file(name), payload).await.map(drop)
    }
}

/// Name of the folder of a job with this name and digest among others.
#[must_use]
pub fn folder_of(name: &str, digest: &[u8; 32]) -> String {
    format!("{name}-{}", &hex(digest)[..12])
}

/// An error and its causes, without what is said again: most of this library's errors tell their causes themselves.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(said.trim()) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_bucket_and_a_key_or_is_a_folder_that_is_made() {
        let place = Place::open("s3://bucket/a/b c/").expect("a bucket").inner("d");
        assert_eq!(place.file("e").as_ref(), "a/b c/d/e");
        assert_eq!(Place::open("s3://bucket").expect("a bucket").folder.as_ref(), "");
        assert!(Place::open("s3://bucket/../up").is_err());
        assert!(Place::open("https://bucket/x").is_err());
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("new/one");
        let url = Url::from_file_path(&there).unwrap();
        assert_eq!(Place::open(url.as_str()).expect("a folder").file("x").as_ref(), "x");
        assert!(there.is_dir());
    }

    #[test]
    fn an_error_says_each_of_its_causes_once() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        let error = object_store::Error::Generic {
            store: "S3",
            source: Box::new(refused),
        };
        assert_eq!(words(&error), "Generic S3 error: refused");
        let outer = anyhow::Error::new(error).context("cannot copy student.pt");
        assert_eq!(
            words(outer.as_ref()),
            "cannot copy student.pt: Generic S3 error: refused"
        );
    }
}
