//! The report of a finished job, in a real browser.

use std::path::Path;

use stillhouse_tests::jobs;
use stillhouse_tests::processes::wait_for;

use crate::browser::Browser;
use crate::world::{alone, skipped, undisturbed};

fn address(page: &Path) -> String {
    format!("file://{}", page.display())
}

/// Addresses that a page of a file asked for.
fn reached(browser: &Browser) -> Vec<&str> {
    let requests = browser.seen.requests.iter().map(String::as_str);
    requests
        .filter(|url| !url.starts_with("file:") && !url.starts_with("data:"))
        .collect()
}

pub(crate) fn screenshot(name: &str) -> std::path::PathBuf {
    let folder = jobs::root().join("target/test-output");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn a_browser_shows_the_report_without_an_error_and_without_the_network() {
    let _alone = alone();
    let outcome = &undisturbed().outcome;
    let picture = screenshot("report.png");
    let Some(mut browser) = Browser::start() else {
        return skipped("there is no chromium");
    };
    browser.open(&address(&outcome.file("report.html")));
    browser.screenshot(&picture);
    let text = browser.text();
    assert_eq!(browser.seen.complaints, [] as [String; 0]);
    assert_eq!(reached(&browser), [] as [&str; 0]);
    let summary = outcome.summary();
    let accuracy = 100.0 * summary["active"]["accuracy"]["last"].as_f64().unwrap();
    for part in [
        "<title>small-digits · Stillhouse</title>",
        "530",
        &format!("{accuracy:.1}"),
        "<svg",
        "data:image/png",
    ] {
        assert!(text.contains(part), "expected {part}");
    }
    assert!(
        image::open(&picture)
            .unwrap()
            .into_luma8()
            .pixels()
            .any(|pixel| pixel.0[0] < 128),
        "an empty picture"
    );
}

/// The checks of pages can fail: one that complains, reaches out, is hard to read and has a button without a name is caught.
#[test]
fn a_page_that_complains_reaches_out_or_shuts_people_out_would_be_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let text = r#"<!doctype html><script>console.error("boo"); new Image().src = "http://127.0.0.1:9/x.png"</script>
        <p style="color: #aaa">hard to read</p><button></button>"#;
    std::fs::write(&page, text).unwrap();
    let Some(mut browser) = Browser::start() else {
        return skipped("there is no chromium");
    };
    browser.open(&address(&page));
    wait_for("the page to reach out", || {
        let _now = browser.text();
        (!reached(&browser).is_empty()).then_some(())
    });
    let complaints = &browser.seen.complaints;
    assert!(complaints.iter().any(|line| line.contains("boo")), "{complaints:?}");
    assert_eq!(reached(&browser), ["http://127.0.0.1:9/x.png"]);
    assert_eq!(browser.faint().len(), 1);
    assert_eq!(browser.nameless().len(), 1);
}
