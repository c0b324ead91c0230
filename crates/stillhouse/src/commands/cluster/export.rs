//! `stillhouse export`: the results of a job that is over, out of its volume.
//!
//! A short-lived pod mounts the volume for reading and serves these files and no others; they are fetched through the
//! API server, so nothing has to be reachable but that.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use k8s_openapi::api::batch::v1::Job as BatchJob;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Resource};
use serde_json::{Value, json};
use stillhouse_operator::desired::IMAGE;
use stillhouse_operator::request::parse;
use stillhouse_runtime::signals;

use super::{Cluster, look, refused, with};
use crate::cli::cluster::{ExportStudentArgs, ServeResultsArgs};
use crate::commands::runtime;
use crate::coordinate::results::RESULTS;
use crate::failure::{Failure, Kind};
use crate::report::number::counted;

const PORT: u16 = 7701;
/// How long the pod may take to run, and how long it lives when nobody deletes it.
const START: Duration = Duration::from_secs(180);
const LIFE_SECONDS: u32 = 1800;
/// Largest file.
const MAX_BYTES: usize = 4 << 30;

/// Fetches the results of a job into a folder.
///
/// # Errors
/// When the job is not over, its volume cannot be read, or a file arrives otherwise than it was sent.
pub fn export(args: &ExportStudentArgs) -> Result<String, Failure> {
    with(&args.job.cluster, async |cluster| {
        let name = &args.job.name;
        let job = look::get(&cluster, name).await?;
        let phase = job.status.as_ref().map_or("", |status| status.phase.as_str());
        if !["Succeeded", "Failed", "Suspended"].contains(&phase) {
            let text = format!("expected the job {name} to be over or suspended, found it {phase}");
            return Err(Failure::message(Kind::Directory, text).hint("its volume is the coordinator's while that runs"));
        }
        std::fs::create_dir_all(&args.to).map_err(|error| storage(error, &args.to))?;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let pod = pod(&cluster, &job).await?;
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let made = serde_json::from_value(pod).expect("a pod");
        let made = pods.create(&PostParams::default(), &made).await;
        made.map_err(|error| refused(error, "cannot make the pod that reads the volume"))?;
        let fetched = fetch(&cluster, &pods, &pod_name, &args.to).await;
        // It ends by itself if this fails.
        let _gone = pods.delete(&pod_name, &DeleteParams::default().grace_period(0)).await;
        let count = fetched?;
        Ok(format!(
            "{name}: {} in {}",
            counted(count, "file", "files"),
            args.to.display()
        ))
    })
}

fn storage(error: std::io::Error, path: &Path) -> Failure {
    Failure::new(Kind::Storage, error).context(format!("cannot write {}", path.display()))
}

/// The pod that reads a job's volume, as confined as the job's own.
async fn pod(cluster: &Cluster, job: &stillhouse_operator::crd::DistillJob) -> Result<Value, Failure> {
    let request = parse(job).map_err(|refusal| Failure::new(Kind::Usage, refusal))?;
    let jobs: Api<BatchJob> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let coordinator = jobs.get_opt(&format!("{}-coordinator", request.name)).await;
    let coordinator = coordinator.map_err(|error| refused(error, "cannot look at the coordinator's Job"))?;
    let image = coordinator.and_then(|job| job.metadata.annotations?.get(IMAGE).cloned());
    let image = image.or(request.cluster.image).ok_or_else(|| {
        Failure::message(Kind::Usage, "the image of the coordinator is not known any more")
            .hint("name it in spec.cluster.image")
    })?;
    let claim = request
        .cluster
        .storage
        .claim
        .unwrap_or_else(|| format!("{}-job", request.name));
    let pull: Vec<_> = request
        .cluster
        .image_pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    let listen = format!("0.0.0.0:{PORT}");
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{}-export-{:08x}", request.name, std::process::id()),
            "labels": { "app.kubernetes.io/name": "stillhouse-export" },
            "ownerReferences": job.owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "spec": {
            "restartPolicy": "Never", "activeDeadlineSeconds": LIFE_SECONDS, "automountServiceAccountToken": false,
            "enableServiceLinks": false, "imagePullSecrets": pull,
            "nodeSelector": request.cluster.coordinator.node_selector,
            "tolerations": request.cluster.coordinator.tolerations,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                                 "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "export", "image": image,
                "command": ["stillhouse", "serve-results", "/var/lib/stillhouse/job", "--listen", listen],
                "volumeMounts": [{ "name": "job", "mountPath": "/var/lib/stillhouse", "readOnly": true }],
                "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                     "capabilities": { "drop": ["ALL"] } },
            }],
            "volumes": [{ "name": "job", "persistentVolumeClaim": { "claimName": claim } }],
        },
    }))
}

/// Fetches every file that is there, and compares its digest.
async fn fetch(cluster: &Cluster, pods: &Api<Pod>, pod: &str, to: &Path) -> Result<u64, Failure> {
    let begun = tokio::time::Instant::now();
    let base = format!("/api/v1/namespaces/{}/pods/{pod}:{PORT}/proxy", cluster.namespace);
    let digests = loop {
        match read(&cluster.client, &format!("{base}/digests")).await {
            Ok(text) => break text,
            Err(error) if begun.elapsed() > START => {
                return Err(refused(error, &format!("the pod {pod} does not serve the files")));
            }
            Err(_) => {}
        }
        let phase = pods.get(pod).await.ok().and_then(|pod| pod.status?.phase);
        if phase.as_deref() == Some("Failed") {
            return Err(Failure::message(
                Kind::Internal,
                format!("the pod {pod} failed to read the volume"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let digests: Vec<(String, String)> = serde_json::from_slice(&digests)
        .map_err(|error| Failure::new(Kind::Internal, error).context("the pod serves no list of files"))?;
    let mut count = 0;
    for (name, digest) in digests.iter().filter(|(name, _)| RESULTS.contains(&name.as_str())) {
        let content = read(&cluster.client, &format!("{base}/files/{name}")).await;
        let content = content.map_err(|error| refused(error, &format!("cannot fetch {name}")))?;
        if blake3::hash(&content).to_hex().as_str() != digest {
            return Err(Failure::message(
                Kind::Storage,
                format!("{name} arrived otherwise than it was sent"),
            ));
        }
        let path = to.join(name);
        stillhouse_runtime::atomic_file::write(&path, &content)
            .map_err(|error| Failure::new(Kind::Storage, error).context(format!("cannot write {}", path.display())))?;
        count += 1;
    }
    Ok(count)
}

async fn read(client: &Client, path: &str) -> Result<Vec<u8>, kube::Error> {
    use futures::AsyncReadExt as _;
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let stream = client.request_stream(request).await?;
    let mut content = Vec::new();
    let mut bounded = stream.take(MAX_BYTES as u64);
    bounded
        .read_to_end(&mut content)
        .await
        .map_err(kube::Error::ReadEvents)?;
    Ok(content)
}

/// Serves the results in a job directory until it is told to end.
///
/// # Errors
/// When the address cannot be listened at.
pub fn serve_results(args: &ServeResultsArgs) -> Result<String, Failure> {
    let dir = args.dir.clone();
    let router = Router::new()
        .route(
            "/digests",
            get(async |State(dir): State<std::path::PathBuf>| axum::Json(digests(&dir))),
        )
        .route(
            "/files/{name}",
            get(
                async |State(dir): State<std::path::PathBuf>,
                       axum::extract::Path(name): axum::extract::Path<String>| {
                    let known = RESULTS.into_iter().find(|known| *known == name);
                    let content = known.and_then(|name| std::fs::read(dir.join(name)).ok());
                    content.ok_or(StatusCode::NOT_FOUND)
                },
            ),
        )
        .with_state(dir);
    runtime()?.block_on(async {
        let shutdown = signals::install().map_err(|error| Failure::new(Kind::Internal, error))?;
        let listener = tokio::net::TcpListener::bind(args.listen).await;
        let listener = listener
            .map_err(|error| Failure::new(Kind::Usage, error).context(format!("cannot listen at {}", args.listen)))?;
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.drain.cancelled_owned());
        served.await.map_err(|error| Failure::new(Kind::Internal, error))?;
        Ok("served".to_owned())
    })
}

/// Files that are there, with their BLAKE3.
fn digests(dir: &Path) -> Vec<(&'static str, String)> {
    let digest = |name: &'static str| {
        let content = std::fs::read(dir.join(name)).ok()?;
        Some((name, blake3::hash(&content).to_hex().to_string()))
    };
    RESULTS.into_iter().filter_map(digest).collect()
}
