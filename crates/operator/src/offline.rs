//! What an API server would say to a new object, without one: the definition's schema and its rules.

use kube_cel::Validator;
use serde_json::Value;

use crate::crd::definition;

/// What the definition refuses about `object`, a sentence each; nothing about a good one. Rules that compare with what
/// was there before say nothing here.
///
/// # Panics
/// When the definition is no schema, which a test excludes.
#[must_use]
pub fn violations(object: &Value) -> Vec<String> {
    let schema = &definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let validator = jsonschema::validator_for(schema).expect("the definition is a schema");
    let of_schema = validator.iter_errors(object).map(|error| {
        let path = error.instance_path().to_string();
        format!("{}: {error}", path.trim_start_matches('/').replace('/', "."))
    });
    let mut found: Vec<_> = of_schema.collect();
    if found.is_empty() {
        // Rules may rely on the schema.
        let broken = Validator::new().validate(schema, object, None);
        found.extend(
            broken
                .err()
                .into_iter()
                .flat_map(|errors| errors.into_vec())
                .map(|error| error.message),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object() -> Value {
        let text = include_str!("../../../deploy/kind/job.yaml");
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_good_job_passes_and_what_a_server_refuses_is_refused_here() {
        assert_eq!(violations(&object()), [""; 0]);
        let with = |pointer: &str, value: Value| {
            let mut bad = object();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            bad.pointer_mut(parent).unwrap()[key] = value;
            violations(&bad).join("\n")
        };
        let said = with("/spec/cluster/storage/size", json!("ten"));
        assert!(said.starts_with("spec.cluster.storage.size: "), "{said}");
        let said = with("/spec/student", json!({}));
        assert!(
            said.contains("name exactly one of architecture and torchscript"),
            "{said}"
        );
        let said = with("/spec/workers", json!({ "min": 3, "max": 2 }));
        assert!(said.contains("min is more than max"), "{said}");
        let said = with("/spec/cluster/replicas", json!(3));
        assert!(said.contains("more than spec.workers.max"), "{said}");
        let volume = json!([{ "name": "a", "mountPath": "/a", "claim": "c", "secret": "s" }]);
        let said = with("/spec/cluster/workers/volumes", volume);
        assert!(said.contains("exactly one of claim, secret and configMap"), "{said}");
    }
}
