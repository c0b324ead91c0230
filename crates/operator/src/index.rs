//! Pods by job, as the watch tells of them: only what matters of each is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::sight::{JOB, PodSight};

/// Namespace and name of a job.
type Owner = (String, String);

/// Pods by job, and by name.
#[derive(Debug, Default)]
pub struct PodIndex {
    pods: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// What counts.
    known: HashMap<Owner, HashMap<String, PodSight>>,
    /// What a watch that begins again has told so far.
    fresh: HashMap<Owner, HashMap<String, PodSight>>,
}

impl PodIndex {
    /// Takes what the watch tells.
    pub fn take(&self, event: &Event<Pod>) {
        let mut books = self.lock();
        match event {
            Event::Apply(pod) => put(&mut books.known, pod),
            Event::Delete(pod) => {
                let Some(owner) = owner(pod) else { return };
                if let Some(pods) = books.known.get_mut(&owner) {
                    pods.remove(&pod.name_any());
                    if pods.is_empty() {
                        books.known.remove(&owner);
                    }
                }
            }
            Event::Init => books.fresh.clear(),
            Event::InitApply(pod) => put(&mut books.fresh, pod),
            Event::InitDone => books.known = std::mem::take(&mut books.fresh),
        }
    }

    /// Pods of a job.
    #[must_use]
    pub fn of(&self, namespace: &str, job: &str) -> Vec<PodSight> {
        let owner = (namespace.to_owned(), job.to_owned());
        let books = self.lock();
        let pods = books.known.get(&owner).into_iter().flat_map(HashMap::values);
        pods.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(pod: &Pod) -> Option<Owner> {
    let job = pod.labels().get(JOB)?.clone();
    Some((pod.namespace()?, job))
}

fn put(books: &mut HashMap<Owner, HashMap<String, PodSight>>, pod: &Pod) {
    if let (Some(owner), Some(sight)) = (owner(pod), PodSight::of(pod)) {
        books.entry(owner).or_default().insert(pod.name_any(), sight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, job: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "lab", "labels": {
            "stillhouse.dev/job": job, "app.kubernetes.io/component": "worker" } } }))
        .unwrap()
    }

    #[test]
    fn a_watch_that_begins_again_forgets_what_is_gone_and_nothing_before_it_is_whole() {
        let index = PodIndex::default();
        index.take(&Event::Apply(pod("a", "x")));
        index.take(&Event::Apply(pod("b", "x")));
        index.take(&Event::Init);
        index.take(&Event::InitApply(pod("b", "x")));
        assert_eq!(index.of("lab", "x").len(), 2);
        index.take(&Event::InitDone);
        assert_eq!(index.of("lab", "x").len(), 1);
        index.take(&Event::Delete(pod("b", "x")));
        assert!(index.of("lab", "x").is_empty());
        assert!(index.lock().known.is_empty(), "nothing is kept of a job without pods");
    }
}
