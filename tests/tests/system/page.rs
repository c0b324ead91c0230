//! The report of a finished job, in a real browser.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use stillhouse_tests::jobs;

use crate::world::{alone, skipped, undisturbed};

/// What a browser made of a page.
struct Visit {
    dom: String,
    console: Vec<String>,
    requests: Vec<String>,
}

/// Opens `page`; `None` without a browser. A picture of it is kept at `screenshot`.
fn visit(page: &Path, screenshot: &Path) -> Option<Visit> {
    let profile = tempfile::tempdir().unwrap();
    let net_log = profile.path().join("net.json");
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]);
    chromium.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    // The browser itself may not reach out either.
    chromium.args([
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--window-size=1200,4000",
    ]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    chromium.arg(format!("--log-net-log={}", net_log.display()));
    chromium.arg(format!("--screenshot={}", screenshot.display()));
    chromium.args(["--dump-dom", &format!("file://{}", page.display())]);
    let output = chromium.stdin(Stdio::null()).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(Visit {
        dom: String::from_utf8(output.stdout).unwrap(),
        console: log
            .lines()
            .filter(|line| line.contains(":CONSOLE"))
            .map(str::to_owned)
            .collect(),
        requests: requests(&std::fs::read_to_string(net_log).unwrap()),
    })
}

/// Addresses that the page asked for, without those that the browser wanted for itself.
fn requests(net_log: &str) -> Vec<String> {
    let log: Value = serde_json::from_str(net_log).unwrap();
    let start = &log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"];
    assert!(start.is_number(), "the browser's log names its events");
    let events = log["events"].as_array().unwrap().iter();
    let started = events.filter(|event| event["type"] == *start && event["params"]["initiator"] != "not an origin");
    // The end of a request carries no address.
    let address = |event: &Value| event["params"]["url"].as_str().map(str::to_owned);
    started
        .filter_map(address)
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
    let Some(visit) = visit(&outcome.file("report.html"), &picture) else {
        return skipped("there is no chromium");
    };
    assert_eq!(visit.console, [] as [String; 0]);
    assert_eq!(visit.requests, [] as [String; 0]);
    let summary = outcome.summary();
    let accuracy = 100.0 * summary["active"]["accuracy"]["last"].as_f64().unwrap();
    for part in [
        "<title>small-digits · Stillhouse</title>",
        "530",
        &format!("{accuracy:.1}"),
        "<svg",
        "data:image/png",
    ] {
        assert!(visit.dom.contains(part), "expected {part}");
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

/// The check above can fail: a page that complains and reaches out is caught.
#[test]
fn a_page_that_complains_or_reaches_out_would_be_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let text = r#"<!doctype html><script>console.error("boo"); new Image().src = "http://127.0.0.1:9/x.png"</script>"#;
    std::fs::write(&page, text).unwrap();
    let Some(visit) = visit(&page, &folder.path().join("page.png")) else {
        return skipped("there is no chromium");
    };
    assert!(
        visit.console.iter().any(|line| line.contains("boo")),
        "{:?}",
        visit.console
    );
    assert_eq!(visit.requests, ["http://127.0.0.1:9/x.png"]);
}
