//! Every teacher in `docs/teachers.md` is one that a job may have.

use std::path::Path;

use stillhouse_core::Job;

/// The blocks of YAML in `text`.
fn blocks(text: &str) -> Vec<String> {
    let parts = text.split("```yaml\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_teacher_in_the_documentation_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/teachers.md");
    let blocks = blocks(&std::fs::read_to_string(path).unwrap());
    assert!(blocks.len() >= 8, "{}", blocks.len());
    let mut protocols = std::collections::BTreeSet::new();
    for block in blocks {
        let teacher: String = block.lines().map(|line| format!("  {line}\n")).collect();
        let job = format!(
            "apiVersion: stillhouse.dev/v1alpha1\nkind: DistillJob\nmetadata: {{ name: a }}\nspec:\n  \
             images: {{ source: idx, path: a.gz }}\n  student: {{ architecture: lenet5 }}\n  \
             budget: {{ queries: 10, perRound: 1 }}\n{teacher}"
        );
        let job = Job::parse(&job).unwrap_or_else(|error| panic!("{error}:\n{block}"));
        protocols.insert(job.spec.teacher.protocol.name());
    }
    assert_eq!(protocols.len(), 4, "{protocols:?}");
}
