//! Pods of coordinator, workers and gateways: command lines, volumes, what they may do.

use serde_json::{Map, Value, json};
use stillhouse_runtime::link::args::{TLS_CA, TLS_CERT, TLS_KEY, TLS_SERVER_NAME};

use crate::cluster::{PodSettings, SecretKey, TlsSpec, VolumeSpec};
use crate::desired::{Images, secret_name};
use crate::request::{DATA, Request, queue_variable, teacher_variable};

/// The coordinator's port.
pub const PORT: u16 = 7700;
/// Where every role serves its metrics, and a coordinator how far the job is.
pub const METRICS_PORT: u16 = 9464;
/// What a container leaves behind when it ends.
const ENDING: &str = "/run/stillhouse/ending";
const JOB_FILE: &str = "/etc/stillhouse/job/job.yaml";
const JOB_DIR: &str = "/var/lib/stillhouse/job";
const TOKEN_FILE: &str = "/etc/stillhouse/link/token";
const TLS_DIR: &str = "/etc/stillhouse/tls";
/// How long a coordinator may take to drain what it has sent.
const DRAIN_SECONDS: u32 = 120;

/// What a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ledger and decisions.
    Coordinator,
    /// Scores and trains.
    Worker,
    /// Asks the teacher.
    Gateway,
}

impl Role {
    /// Its name in labels and names of objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }
}

/// The command line of a role. The programs' own parsers read every one of them in a test.
#[must_use]
pub fn command(request: &Request, role: Role) -> Vec<String> {
    let coordinator = format!("{}-coordinator:{PORT}", request.name);
    let line = match role {
        Role::Coordinator => {
            let mut line = format!(
                "stillhouse coordinator {JOB_FILE} --dir {JOB_DIR} --listen 0.0.0.0:{PORT} --quiet --ending {ENDING} --web --web-read-only"
            );
            if request.job.spec.queue.is_some() {
                line.push_str(" --no-gateway");
            }
            line
        }
        Role::Worker => format!("stillhouse-worker worker --coordinator {coordinator}"),
        Role::Gateway => format!("stillhouse gateway --coordinator {coordinator}"),
    };
    line.split(' ').map(str::to_owned).collect()
}

/// The pod template of a role.
#[must_use]
pub fn template(request: &Request, role: Role, images: &Images) -> Value {
    let cluster = &request.cluster;
    let settings = settings(request, role);
    let (image, default) = match role {
        Role::Worker => (&cluster.worker_image, &images.worker),
        Role::Coordinator | Role::Gateway => (&cluster.image, &images.control),
    };
    let (volumes, mounts) = volumes(request, role, settings);
    let pull: Vec<_> = cluster
        .image_pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    let mut container = json!({
        "name": role.name(),
        "image": image.as_ref().unwrap_or(default),
        "command": command(request, role),
        "env": environment(request, role, settings),
        "resources": resources(settings),
        "volumeMounts": mounts,
        "ports": ports(role),
        "terminationMessagePath": ENDING,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    if let Some(policy) = &cluster.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": if role == Role::Worker { 30 } else { DRAIN_SECONDS },
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "imagePullSecrets": pull,
        "nodeSelector": settings.node_selector,
        "tolerations": settings.tolerations,
        "containers": [container],
        "volumes": volumes,
    });
    if role != Role::Gateway {
        // Of a Deployment it is always the default.
        spec["restartPolicy"] = json!("Never");
    }
    if let Some(class) = &cluster.priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
    json!({ "metadata": { "labels": labels(request, role) }, "spec": spec })
}

/// Labels of a role's pods, by which they are found.
#[must_use]
pub fn labels(request: &Request, role: Role) -> Value {
    json!({
        "app.kubernetes.io/name": "stillhouse",
        "app.kubernetes.io/component": role.name(),
        "stillhouse.dev/job": request.name,
    })
}

fn ports(role: Role) -> Vec<Value> {
    let metrics = json!({ "name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP" });
    let link = json!({ "name": "link", "containerPort": PORT, "protocol": "TCP" });
    match role {
        Role::Coordinator => vec![link, metrics],
        Role::Worker | Role::Gateway => vec![metrics],
    }
}

fn settings(request: &Request, role: Role) -> &PodSettings {
    match role {
        Role::Coordinator => &request.cluster.coordinator,
        Role::Worker => &request.cluster.workers,
        Role::Gateway => &request.cluster.gateways.pod,
    }
}

fn resources(settings: &PodSettings) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    if let Some(cpu) = &settings.cpu {
        requests.insert("cpu".into(), json!(cpu));
    }
    if let Some(memory) = &settings.memory {
        requests.insert("memory".into(), json!(memory));
        limits.insert("memory".into(), json!(memory));
    }
    if let Some(gpus) = settings.gpus.filter(|gpus| *gpus > 0) {
        let name = settings.gpu_resource.as_deref().unwrap_or("nvidia.com/gpu");
        limits.insert(name.into(), json!(gpus.to_string()));
    }
    json!({ "requests": requests, "limits": limits })
}

/// Who asks the teacher gets its credential; nobody else does.
fn environment(request: &Request, role: Role, settings: &PodSettings) -> Vec<Value> {
    let secret = |name: &str, from: &SecretKey| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": from.name, "key": from.key } } });
    let mut variables = vec![
        json!({ "name": "STILLHOUSE_TOKEN_FILE", "value": TOKEN_FILE }),
        json!({ "name": "STILLHOUSE_METRICS_LISTEN", "value": format!("0.0.0.0:{METRICS_PORT}") }),
    ];
    if role != Role::Worker {
        let teacher = teacher_variable(&request.job).zip(request.cluster.teacher_secret.as_ref());
        let queue = queue_variable(&request.job).zip(request.cluster.queue_secret.as_ref());
        variables.extend(
            [teacher, queue]
                .into_iter()
                .flatten()
                .map(|(name, from)| secret(name, from)),
        );
    }
    if let Some(tls) = &request.cluster.tls {
        variables.extend(tls_environment(tls, role));
    }
    variables.extend(
        settings
            .env
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value })),
    );
    variables.extend(settings.secret_env.iter().map(|(name, from)| secret(name, from)));
    variables
}

fn tls_environment(tls: &TlsSpec, role: Role) -> Vec<Value> {
    let file = |name: &str, key: &str| json!({ "name": name, "value": format!("{TLS_DIR}/{key}") });
    if role == Role::Coordinator {
        return vec![file(TLS_CERT, "tls.crt"), file(TLS_KEY, "tls.key")];
    }
    let mut variables = vec![file(TLS_CA, "ca.crt")];
    if let Some(name) = &tls.server_name {
        variables.push(json!({ "name": TLS_SERVER_NAME, "value": name }));
    }
    variables
}

fn volumes(request: &Request, role: Role, settings: &PodSettings) -> (Vec<Value>, Vec<Value>) {
    let mut both = vec![
        (
            json!({ "name": "link", "secret": { "secretName": secret_name(request), "defaultMode": 0o440 } }),
            json!({ "name": "link", "mountPath": "/etc/stillhouse/link", "readOnly": true }),
        ),
        (
            json!({ "name": "tmp", "emptyDir": {} }),
            json!({ "name": "tmp", "mountPath": "/tmp" }),
        ),
    ];
    if let Some(tls) = &request.cluster.tls {
        both.push(of_tls(tls, role));
    }
    match role {
        Role::Coordinator => both.extend(of_coordinator(request)),
        Role::Worker => {
            let size = request.cluster.shared_memory.as_deref().unwrap_or("1Gi");
            both.push((
                json!({ "name": "shm", "emptyDir": { "medium": "Memory", "sizeLimit": size } }),
                json!({ "name": "shm", "mountPath": "/dev/shm" }),
            ));
        }
        Role::Gateway => {}
    }
    both.extend(settings.volumes.iter().map(of_user));
    both.into_iter().unzip()
}

fn of_coordinator(request: &Request) -> Vec<(Value, Value)> {
    let own = format!("{}-job", request.name);
    let claim = request.cluster.storage.claim.as_ref().unwrap_or(&own);
    let mut both = vec![
        (
            json!({ "name": "job-file", "configMap": { "name": own } }),
            json!({ "name": "job-file", "mountPath": "/etc/stillhouse/job", "readOnly": true }),
        ),
        (
            json!({ "name": "job", "persistentVolumeClaim": { "claimName": claim } }),
            json!({ "name": "job", "mountPath": "/var/lib/stillhouse" }),
        ),
    ];
    if let Some(data) = &request.cluster.data {
        both.push((
            json!({ "name": "data", "persistentVolumeClaim": { "claimName": data.claim, "readOnly": true } }),
            json!({ "name": "data", "mountPath": DATA, "readOnly": true }),
        ));
    }
    both
}

/// Certificate and key for who listens; the authority alone for who connects.
fn of_tls(tls: &TlsSpec, role: Role) -> (Value, Value) {
    let keys: &[&str] = match role {
        Role::Coordinator => &["tls.crt", "tls.key"],
        Role::Worker | Role::Gateway => &["ca.crt"],
    };
    let items: Vec<_> = keys.iter().map(|key| json!({ "key": key, "path": key })).collect();
    (
        json!({ "name": "tls", "secret": { "secretName": tls.secret_name, "items": items, "defaultMode": 0o440 } }),
        json!({ "name": "tls", "mountPath": TLS_DIR, "readOnly": true }),
    )
}

fn of_user(volume: &VolumeSpec) -> (Value, Value) {
    let mut source = json!({ "name": volume.name });
    if let Some(claim) = &volume.claim {
        source["persistentVolumeClaim"] = json!({ "claimName": claim, "readOnly": volume.read_only });
    }
    if let Some(secret) = &volume.secret {
        source["secret"] = json!({ "secretName": secret });
    }
    if let Some(map) = &volume.config_map {
        source["configMap"] = json!({ "name": map });
    }
    let mount = json!({ "name": volume.name, "mountPath": volume.mount_path, "readOnly": volume.read_only });
    (source, mount)
}
