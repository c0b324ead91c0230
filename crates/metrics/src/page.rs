//! The page that documents every family. A test holds `docs/metrics.md` to it.

use std::fmt::Write;

use crate::families;

/// `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Every role answers `GET /metrics` at the address that `--metrics-listen HOST:PORT` names, in Prometheus' text format:\n\
         `stillhouse run | coordinator | gateway`, `stillhouse-worker worker`, `stillhouse-worker teacher serve` and\n\
         `stillhouse-operator run`. See [monitoring](monitoring.md) for dashboards and alerts. This page is written by `stillhouse metrics`.\n\n\
         A process shows the families of the roles that it plays; `run` is coordinator, desk, ledger and gateway in one. Beside\n\
         these, every process has the usual `process_*` families (processor time, memory, file descriptors, start).\n",
    );
    for (role, families) in families::ALL {
        let _ = write!(
            page,
            "\n## {role}\n\n| family | type | labels | meaning |\n|---|---|---|---|\n"
        );
        for family in *families {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                family.name,
                family.kind,
                labels.join(", "),
                family.help
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_in_the_repository_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let found = std::fs::read_to_string(path).expect("docs/metrics.md");
        assert!(
            found == markdown(),
            "write it anew: stillhouse metrics > docs/metrics.md"
        );
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names = BTreeSet::new();
        for family in families::ALL.iter().flat_map(|(_, families)| *families) {
            let name = family.name;
            assert!(names.insert(name), "{name} twice");
            assert!(name.starts_with("stillhouse_"), "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
            assert_eq!(family.kind == "histogram", !family.buckets.is_empty(), "{name}");
            assert!(family.buckets.is_sorted(), "{name}");
            if family.kind == "histogram" {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(family.help.ends_with('.'), "{name}");
            assert!(family.labels.len() <= 2, "{name}");
        }
        assert!(names.len() >= 65, "{}", names.len());
    }

    #[test]
    fn every_family_can_be_registered_beside_the_others() {
        families::register_all();
        let text = crate::serve::text();
        assert!(text.contains("\nstillhouse_budget_left_queries 0\n"), "{text}");
    }
}
