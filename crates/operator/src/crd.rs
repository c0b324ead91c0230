//! The custom resource: [`DistillJob`] as objects of it are read, and the definition that a cluster gets.
//!
//! The spec is read as it is, and checked by [`crate::request::parse`]: one object that the schema lets through
//! and the checks do not must not keep the operator from reading the others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Spec of a job: the job file's, and `cluster`. Kept as JSON text, which takes far less memory than a tree of
/// values: an operator holds thousands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource)]
#[serde(from = "Value", into = "Value")]
#[kube(group = "stillhouse.dev", version = "v1alpha1", kind = "DistillJob", namespaced)]
#[kube(status = "Status", schema = "disabled", derive = "PartialEq")]
pub struct DistillJobSpec {
    text: Box<str>,
}

impl DistillJobSpec {
    /// What it says.
    ///
    /// # Panics
    /// Never: the text was made of values.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect("made of values")
    }
}

impl From<Value> for DistillJobSpec {
    fn from(value: Value) -> Self {
        Self {
            text: value.to_string().into(),
        }
    }
}

impl From<DistillJobSpec> for Value {
    fn from(spec: DistillJobSpec) -> Self {
        spec.value()
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The generation of the spec that this speaks of.
    pub observed_generation: Option<i64>,
    /// `Pending`, `Running`, `Paused`, `Suspended`, `Succeeded`, `Failed` or `Invalid`.
    pub phase: String,
    /// Why, in a sentence.
    pub message: String,
    /// Rounds that were trained.
    pub round: Option<u32>,
    /// Queries that count as billed.
    pub queried: Option<u64>,
    /// Queries that may be billed.
    pub budget: Option<u64>,
    /// `QUERIED/BUDGET`.
    pub queries: String,
    /// Agreement with the teacher, in percent.
    pub agreement: String,
    /// `READY/WANTED`.
    pub workers: String,
    /// When it was done, in seconds since 1970.
    pub finished_unix_seconds: Option<i64>,
    /// What holds.
    pub conditions: Vec<Condition>,
}

const SCHEMA: &str = include_str!("schema.yaml");

/// The definition of the custom resource, as a cluster gets it.
#[must_use]
pub fn definition() -> Value {
    let schema: Value = serde_saphyr::from_str(SCHEMA).expect("a test reads it");
    let column = |name: &str, path: &str, kind: &str| json!({ "name": name, "jsonPath": path, "type": kind });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "distilljobs.stillhouse.dev" },
        "spec": {
            "group": "stillhouse.dev",
            "scope": "Namespaced",
            "names": { "kind": "DistillJob", "plural": "distilljobs", "singular": "distilljob",
                       "shortNames": ["djob"], "categories": ["all"] },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    column("Phase", ".status.phase", "string"),
                    column("Round", ".status.round", "integer"),
                    column("Queries", ".status.queries", "string"),
                    column("Agreement", ".status.agreement", "string"),
                    column("Workers", ".status.workers", "string"),
                    column("Age", ".metadata.creationTimestamp", "date"),
                ],
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}
