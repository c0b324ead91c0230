//! Copies results into `docs/benchmarks.md`, between their markers. A test holds the page to them.

use std::path::Path;

use anyhow::{Context, bail};

use crate::places::{Places, write};
use crate::process::read;

const BEGIN: &str = "<!-- begin ";
const END: &str = "<!-- end -->";
const TAIL: &str = " -->";

/// Writes the page again with the results of now.
pub(crate) fn refresh(places: &Places) -> anyhow::Result<()> {
    let page = filled(&read(&places.page())?, &places.results())?;
    write(&places.page(), &page)
}

/// `page` with the text of `results/NAME` between `<!-- begin NAME -->` and `<!-- end -->`; nothing
/// where there is no such result.
fn filled(page: &str, results: &Path) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(name) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(TAIL)) else {
            continue;
        };
        if !lines.by_ref().any(|line| line == END) {
            bail!("the page has no {END} after {line}");
        }
        let file = results.join(name);
        if file.exists() {
            let text = read(&file).with_context(|| format!("cannot fill {line}"))?;
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out.push_str(END);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_results_as_they_are() {
        let places = Places::find().unwrap();
        let page = read(&places.page()).unwrap();
        assert!(
            page == filled(&page, &places.results()).unwrap(),
            "run `stillhouse-bench page`"
        );
        let names = [
            "mnist",
            "methods",
            "methods-cifar10",
            "papers",
            "scoring",
            "training",
            "startup",
            "all-reduce",
            "determinism",
            "elastic",
            "cluster",
            "pool-1e9",
            "queue",
            "queue-recovery",
            "teacher-client",
            "telemetry",
            "scale",
            "heartbeats",
        ];
        for name in names {
            assert!(page.contains(&format!("{BEGIN}{name}.md{TAIL}")), "{name} has no place");
        }
    }

    #[test]
    fn old_results_are_replaced_and_missing_ones_left_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.md"), "new\n").unwrap();
        let page = "# Page\n<!-- begin a.md -->\nold\n<!-- end -->\n<!-- begin b.md -->\ngone\n<!-- end -->\nlast\n";
        let want = "# Page\n<!-- begin a.md -->\nnew\n<!-- end -->\n<!-- begin b.md -->\n<!-- end -->\nlast\n";
        assert_eq!(filled(page, folder.path()).unwrap(), want);
        assert!(filled("<!-- begin a.md -->\n", folder.path()).is_err());
    }
}
