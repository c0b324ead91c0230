//! `spec.cluster`: what a cluster needs to know beyond the job. One machine ignores it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Settings of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterSpec {
    /// Image of coordinator and gateways; the operator's default when absent.
    pub image: Option<String>,
    /// Image of workers; the operator's default when absent.
    pub worker_image: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: Option<String>,
    /// Names of Secrets that images are pulled with.
    pub image_pull_secrets: Vec<String>,
    /// Drains queries under way, settles the ledger, then gives the GPUs back.
    pub suspend: bool,
    /// Workers, within `spec.workers`; `spec.workers.max` when absent.
    pub replicas: Option<u32>,
    /// Kueue's local queue of the workers.
    pub queue_name: Option<String>,
    /// Priority class of every pod.
    pub priority_class_name: Option<String>,
    /// Deletes the job so long after it finished.
    pub ttl_seconds_after_finished: Option<u32>,
    /// Ends a job that runs longer.
    pub active_deadline_seconds: Option<u32>,
    /// Where images are: relative paths of the job begin here.
    pub data: Option<DataSpec>,
    /// The volume of the job directory.
    pub storage: StorageSpec,
    /// Size of `/dev/shm` of workers.
    pub shared_memory: Option<String>,
    /// The teacher's credential, for `spec.teacher.auth.environment`.
    pub teacher_secret: Option<SecretKey>,
    /// The queue's password, for `spec.queue.password.environment`.
    pub queue_secret: Option<SecretKey>,
    /// Links under TLS.
    pub tls: Option<TlsSpec>,
    /// Pod of the coordinator.
    pub coordinator: PodSettings,
    /// Pods of workers.
    pub workers: PodSettings,
    /// Pods of gateways.
    pub gateways: GatewaySettings,
}

/// A claim that holds images; mounted read-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataSpec {
    /// Name of the claim.
    pub claim: String,
}

/// The volume of the job directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StorageSpec {
    /// A claim that is there already; one is made when absent.
    pub claim: Option<String>,
    /// Size of the claim that is made.
    pub size: Option<String>,
    /// Its storage class; the cluster's default when absent.
    pub class_name: Option<String>,
    /// Its access mode; `ReadWriteOncePod` when absent, which lets no second coordinator near it.
    pub access_mode: Option<String>,
    /// What becomes of it when the job is deleted.
    pub when_deleted: WhenDeleted,
}

/// What becomes of the volume of a job that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenDeleted {
    /// It stays, with every label that was paid for.
    #[default]
    Retain,
    /// It goes with the job.
    Delete,
}

/// Links under TLS: with certificate and key for the coordinator, and the authority for everybody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSpec {
    /// Name of a Secret of type `kubernetes.io/tls` with `tls.crt`, `tls.key` and `ca.crt`.
    pub secret_name: String,
    /// The name in the certificate; `NAME-coordinator` when absent.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key in it.
    pub key: String,
}

/// What may be said about a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSettings {
    /// Processors, requested.
    pub cpu: Option<String>,
    /// Memory, requested and the limit.
    pub memory: Option<String>,
    /// GPUs a pod.
    pub gpus: Option<u32>,
    /// Name of the GPU resource; `nvidia.com/gpu` when absent.
    pub gpu_resource: Option<String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// Further environment; nothing secret.
    pub env: BTreeMap<String, String>,
    /// Further environment, from Secrets.
    pub secret_env: BTreeMap<String, SecretKey>,
    /// Further volumes.
    pub volumes: Vec<VolumeSpec>,
}

/// A taint that is tolerated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Toleration {
    /// Key of the taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Value of the taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Effect of the taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long `NoExecute` is tolerated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<u32>,
}

/// A volume from exactly one of a claim, a Secret and a ConfigMap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name of the volume.
    pub name: String,
    /// Where it is in the container.
    pub mount_path: String,
    /// Whether it is only read.
    #[serde(default)]
    pub read_only: bool,
    /// Name of a claim.
    #[serde(default)]
    pub claim: Option<String>,
    /// Name of a Secret.
    #[serde(default)]
    pub secret: Option<String>,
    /// Name of a ConfigMap.
    #[serde(default)]
    pub config_map: Option<String>,
}

/// Gateways, for jobs with a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// How many; 1 when absent.
    pub replicas: Option<u32>,
    /// Their pods.
    pub pod: PodSettings,
}
