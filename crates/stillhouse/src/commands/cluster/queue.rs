//! What Kueue says of a job that it has not let in.

use k8s_openapi::api::batch::v1::Job as BatchJob;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

use super::Cluster;

/// Versions of Kueue's `Workload` in which its conditions are the same, the newest first.
const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// Why the workers of the job `name` have no quota, in Kueue's words; `None` when it says nothing, or may not be asked.
pub async fn word(cluster: &Cluster, name: &str) -> Option<String> {
    let jobs: Api<BatchJob> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let uid = jobs.get(&format!("{name}-worker")).await.ok()?.uid()?;
    let of_job = ListParams::default().labels(&format!("kueue.x-k8s.io/job-uid={uid}"));
    for version in VERSIONS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", version, "Workload"));
        let loads: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
        if let Ok(found) = loads.list(&of_job).await {
            return found.items.iter().find_map(reason);
        }
    }
    None
}

fn reason(load: &DynamicObject) -> Option<String> {
    let conditions = load.data.pointer("/status/conditions")?.as_array()?;
    let mut conditions = conditions.iter();
    let reserved =
        conditions.find(|condition| condition["type"] == "QuotaReserved" && condition["status"] == "False")?;
    reserved["message"].as_str().map(str::to_owned)
}
