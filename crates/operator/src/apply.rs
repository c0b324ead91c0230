//! Writes to the cluster, and as few as possible: what stands already is not sent again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, Error};
use serde_json::Value;

/// Who writes, as managed fields name it.
pub const MANAGER: &str = "stillhouse-operator";
/// How long an object that nobody watches is taken to be as it was written.
const TRUST: Duration = Duration::from_mins(10);

/// What was written, by the job's unique id and the object's kind and name.
#[derive(Debug, Default)]
pub struct Written {
    objects: Mutex<HashMap<(String, String), Mark>>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    digest: blake3::Hash,
    generation: Option<i64>,
    at: Instant,
}

/// How an object that is watched stands: `None` of one that is not watched.
pub type Watched = Option<Option<i64>>;

impl Written {
    /// Whether `object` stands as it should, as far as is known: written before, not long ago or watched ever since,
    /// and of the same generation.
    fn stands(&self, uid: &str, object: &Value, watched: Watched) -> bool {
        let objects = self.lock();
        let Some(mark) = objects.get(&(uid.to_owned(), key(object))) else {
            return false;
        };
        let is_same = mark.digest == digest(object);
        is_same
            && match watched {
                Some(generation) => generation.is_some() && generation == mark.generation,
                None => mark.at.elapsed() < TRUST,
            }
    }

    fn note(&self, uid: &str, object: &Value, generation: Option<i64>) {
        let mark = Mark {
            digest: digest(object),
            generation,
            at: Instant::now(),
        };
        self.lock().insert((uid.to_owned(), key(object)), mark);
    }

    /// Forgets jobs that are gone.
    pub fn retain(&self, mut is_there: impl FnMut(&str) -> bool) {
        self.lock().retain(|(uid, _), _| is_there(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Mark>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn digest(object: &Value) -> blake3::Hash {
    blake3::hash(object.to_string().as_bytes())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Applies `object` for the job `uid` unless it stands; answers whether it was sent.
///
/// # Errors
/// What the server says.
pub async fn apply(
    client: &Client,
    written: &Written,
    uid: &str,
    object: &Value,
    watched: Watched,
) -> Result<bool, Error> {
    if written.stands(uid, object, watched) {
        return Ok(false);
    }
    let api = api_of(client, object);
    let params = PatchParams::apply(MANAGER).force();
    let stored = api
        .patch(text(object, "/metadata/name"), &params, &Patch::Apply(object))
        .await?;
    written.note(uid, object, stored.metadata.generation);
    Ok(true)
}

/// Changes what `object` says, and nothing else of what is there; that it is gone is no error.
///
/// # Errors
/// What the server says.
pub async fn merge(client: &Client, object: &Value) -> Result<(), Error> {
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = text(object, "/metadata/name");
    match api_of(client, object).patch(name, &params, &Patch::Merge(object)).await {
        Err(Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Makes `object` unless there is one of its name, which is neither read nor changed.
///
/// # Errors
/// What the server says.
pub async fn create(client: &Client, object: &Value) -> Result<(), Error> {
    let made: DynamicObject = serde_json::from_value(object.clone()).map_err(Error::SerdeError)?;
    match api_of(client, object).create(&PostParams::default(), &made).await {
        Err(Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Deletes a Job once its last pod is gone.
///
/// # Errors
/// What the server says; that it is gone already is none.
pub async fn delete_job(client: &Client, namespace: &str, name: &str) -> Result<(), Error> {
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(client.clone(), namespace);
    match jobs.delete(name, &DeleteParams::foreground()).await {
        Err(Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let (group, version) = match text(object, "/apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text(object, "/apiVersion")),
    };
    let kind = GroupVersionKind::gvk(group, version, text(object, "/kind"));
    let resource = ApiResource::from_gvk(&kind);
    Api::namespaced_with(client.clone(), text(object, "/metadata/namespace"), &resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_changed_by_another_hand_or_is_gone_does_not_stand() {
        let written = Written::default();
        let object = json!({ "kind": "Job", "metadata": { "name": "a" }, "spec": 1 });
        assert!(!written.stands("u", &object, None));
        written.note("u", &object, Some(3));
        assert!(written.stands("u", &object, None));
        assert!(written.stands("u", &object, Some(Some(3))));
        assert!(!written.stands("u", &object, Some(Some(4))), "changed by another hand");
        assert!(!written.stands("u", &object, Some(None)), "gone");
        assert!(!written.stands("v", &object, None), "of another job");
        let other = json!({ "kind": "Job", "metadata": { "name": "a" }, "spec": 2 });
        assert!(!written.stands("u", &other, Some(Some(3))), "something else is wanted");
        written.retain(|uid| uid != "u");
        assert!(!written.stands("u", &object, None));
    }
}
