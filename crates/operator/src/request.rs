//! What a `DistillJob` object asks for, with all checks done.

use std::path::PathBuf;

use serde_json::json;
use stillhouse_core::job::{SecretSource, is_remote};
use stillhouse_core::{Job, job::JobError};

use crate::cluster::ClusterSpec;
use crate::crd::DistillJob;

/// Where the claim of `spec.cluster.data` is in a pod; relative paths of a job begin here.
pub const DATA: &str = "/data";

/// An object that says something that makes sense.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the object and of the job.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its unique id.
    pub uid: String,
    /// The checked job.
    pub job: Job,
    /// The job file that the coordinator gets: JSON, which is YAML.
    pub job_file: String,
    /// Settings of the cluster.
    pub cluster: ClusterSpec,
}

/// Why an object is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The job itself.
    #[error("{error}{}", hint(.error))]
    Job {
        /// What is wrong.
        error: JobError,
    },
    /// `spec.cluster`.
    #[error("spec.cluster: {0}")]
    Cluster(String),
    /// The name.
    #[error("metadata.name: expected at most 50 characters, for names of pods are made of it, found {0}")]
    Name(usize),
}

fn hint(error: &JobError) -> String {
    error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default()
}

/// Parses and checks an object, with the checks that a laptop makes of the same file.
///
/// # Errors
/// [`Refusal`] with the first thing that is wrong.
pub fn parse(object: &DistillJob) -> Result<Request, Refusal> {
    let name = object.metadata.name.clone().unwrap_or_default();
    if name.len() > 50 {
        return Err(Refusal::Name(name.len()));
    }
    let mut spec = object.spec.value();
    let cluster = spec.as_object_mut().and_then(|spec| spec.remove("cluster"));
    let cluster: ClusterSpec = serde_json::from_value(cluster.unwrap_or_else(|| json!({})))
        .map_err(|error| Refusal::Cluster(error.to_string()))?;
    let file = json!({
        "apiVersion": "stillhouse.dev/v1alpha1",
        "kind": "DistillJob",
        "metadata": { "name": name },
        "spec": spec,
    });
    let mut job = Job::parse(&file.to_string()).map_err(|error| Refusal::Job { error })?;
    check(&job, &cluster)?;
    resolve(&mut job);
    let file = json!({ "apiVersion": file["apiVersion"], "kind": file["kind"], "metadata": file["metadata"],
                       "spec": job.spec });
    Ok(Request {
        name,
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        job_file: serde_json::to_string_pretty(&file).expect("plain data"),
        job,
        cluster,
    })
}

fn check(job: &Job, cluster: &ClusterSpec) -> Result<(), Refusal> {
    let refuse = |text: &str| Err(Refusal::Cluster(text.to_owned()));
    if let Some(replicas) = cluster.replicas
        && !(1..=job.spec.workers.max).contains(&replicas)
    {
        let max = job.spec.workers.max;
        return refuse(&format!(
            "replicas: expected 1 to spec.workers.max, which is {max}, found {replicas}"
        ));
    }
    if cluster.teacher_secret.is_some() && teacher_variable(job).is_none() {
        return refuse("teacherSecret: needs spec.teacher.auth.environment, the variable that it goes to");
    }
    if cluster.queue_secret.is_some() && queue_variable(job).is_none() {
        return refuse("queueSecret: needs spec.queue.password.environment, the variable that it goes to");
    }
    let pods = [&cluster.coordinator, &cluster.workers, &cluster.gateways.pod];
    for volume in pods.into_iter().flat_map(|pod| &pod.volumes) {
        let sources = [&volume.claim, &volume.secret, &volume.config_map];
        if sources.into_iter().flatten().count() != 1 {
            return refuse(&format!(
                "volume {}: expected exactly one of claim, secret and configMap",
                volume.name
            ));
        }
    }
    Ok(())
}

/// The variable that the teacher's credential is in.
#[must_use]
pub fn teacher_variable(job: &Job) -> Option<&str> {
    job.spec.teacher.auth.as_ref()?.environment.as_deref()
}

/// The variable that the queue's password is in.
#[must_use]
pub fn queue_variable(job: &Job) -> Option<&str> {
    match job.spec.queue.as_ref()?.password.as_ref()? {
        SecretSource::Environment(name) => Some(name),
        SecretSource::File(_) => None,
    }
}

/// Makes relative paths begin at [`DATA`].
fn resolve(job: &mut Job) {
    let spec = &mut job.spec;
    let evaluation = spec.evaluation.as_mut();
    let evaluation = evaluation.map(|of| (&mut of.images, of.labels.as_mut()));
    let (images, labels) = evaluation.map_or((None, None), |(images, labels)| (Some(images), labels));
    let paths = [
        Some(&mut spec.images.path),
        images,
        labels,
        spec.student.torchscript.as_mut(),
    ];
    let of_teacher = [
        spec.teacher.ca_file.as_mut(),
        spec.teacher.auth.as_mut().and_then(|auth| auth.file.as_mut()),
    ];
    let reused = spec.budget.reuse.iter_mut();
    let named = paths.into_iter().chain(of_teacher).flatten().chain(reused);
    for path in named.filter(|path| !is_remote(path)) {
        *path = PathBuf::from(DATA).join(&*path);
    }
}
