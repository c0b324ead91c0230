//! The live page of a running job, in a real browser: it shows the job, outlives the coordinator's death, can be used by
//! everybody, asks nobody else, and stops the job for the token alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::{Value, json};
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, run_job};
use stillhouse_tests::prometheus::get;

use crate::browser::Browser;
use crate::page::screenshot;
use crate::world::{World, alone, skipped};

fn slow_job(world: &World) -> JobSpec {
    let mut job = jobs::three_rounds(&world.url());
    job.spec.teacher.rate_per_second = Some(100.0);
    job
}

fn started(world: &World, job: &JobSpec, address: SocketAddr) -> (Running, Outcome) {
    let dir = world.path().join("job");
    let mut command: Command = run_job(&jobs::write(world.path(), job), &dir, 2);
    command.arg(format!("--web={address}"));
    (Running::start(command), Outcome::of(&dir))
}

fn link_says(word: &str) -> String {
    format!("document.getElementById('link').textContent.includes('{word}')")
}

/// Everybody can use the page: names, contrast in both themes, the width of a phone.
fn looks_right(browser: &mut Browser) {
    let none: [&str; 0] = [];
    assert_eq!(browser.nameless(), none);
    assert_eq!(browser.faint(), none);
    browser.screenshot(&screenshot("live.png"));
    let _ = browser.value("document.getElementById('theme').click()");
    assert_eq!(browser.faint(), none, "in the other theme");
    browser.screenshot(&screenshot("live-dark.png"));
    let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
    let _ = browser.call("Emulation.setDeviceMetricsOverride", phone);
    assert_eq!(
        browser.value("document.documentElement.scrollWidth <= 390"),
        true,
        "wider than a phone"
    );
    browser.screenshot(&screenshot("live-phone.png"));
    let _ = browser.call("Emulation.clearDeviceMetricsOverride", json!({}));
}

/// Asks to stop with a token, as the page does.
fn stop(browser: &mut Browser, token: &str) {
    let fill = format!(
        "document.getElementById('token').value = '{token}'; document.querySelector('#stop button').click(); true"
    );
    let _ = browser.value(&fill);
}

#[test]
fn the_live_page_shows_a_job_outlives_its_coordinator_and_stops_it_for_the_token_alone() {
    let _alone = alone();
    let Some(mut browser) = Browser::start() else {
        return skipped("there is no chromium");
    };
    let (world, address) = (World::new(), free_address());
    let job = slow_job(&world);
    let (mut running, outcome) = started(&world, &job, address);
    let is_served = running.lives_until(|| get(address, "/").is_some_and(|page| page.contains("part-now")));
    assert!(is_served, "the page was never there");
    browser.open(&format!("http://{address}/"));
    let timing = browser.value("performance.getEntriesByType('navigation')[0].loadEventEnd");
    println!("loaded in {timing} ms");
    browser.wait("a stage", "document.querySelector('#part-now .progress') !== null");
    browser.wait(
        "what is asked",
        "document.querySelectorAll('#part-now .tile img.mixed').length > 0",
    );
    browser.wait("a round", "document.querySelectorAll('#part-rounds .tile').length > 0");
    browser.wait("workers", "document.querySelectorAll('#part-workers li').length >= 2");
    looks_right(&mut browser);

    running.kill_everything();
    browser.wait("the page to miss the coordinator", &link_says("away"));
    let (mut running, _) = started(&world, &job, address);
    browser.wait("the page to find it again", &link_says("live"));
    stop(&mut browser, &"ab".repeat(32));
    browser.wait(
        "a refusal",
        "document.getElementById('stop-told').textContent.includes('another')",
    );
    assert!(
        running.lives_until(|| get(address, "/").is_some()),
        "a wrong token stopped it"
    );
    let token = std::fs::read_to_string(world.path().join("job/token")).unwrap();
    stop(&mut browser, token.trim());
    let _ = running.wait().refused(130);

    let (running, _) = started(&world, &job, address);
    browser.wait("the end", &link_says("done"));
    let _ = running.wait().succeeded();
    browser.wait(
        "the last state",
        "document.querySelector('.chip').textContent === 'Finished'",
    );
    assert!(browser.seen.complaints.is_empty(), "{:#?}", browser.seen.complaints);
    let own = format!("http://{address}/");
    let foreign = browser
        .seen
        .requests
        .iter()
        .filter(|url| !url.starts_with(&own) && !url.starts_with("data:"));
    assert_eq!(foreign.collect::<Vec<_>>(), [] as [&String; 0]);
    let summary: Value = outcome.summary();
    let billed = summary["budget"]["billed"]["total"].as_u64().unwrap();
    assert!(world.bill().len() as u64 <= summary["budget"]["queries"].as_u64().unwrap());
    assert_eq!(
        summary["budget"]["history"].as_array().unwrap().last().unwrap()["billed"],
        billed + summary["budget"]["ambiguous"].as_u64().unwrap()
    );
    let report = std::fs::read_to_string(outcome.file("report.html")).unwrap();
    for part in [
        "id=\"part-budget\"",
        "class=\"burnt\"",
        "id=\"workers\"",
        "What happened",
    ] {
        assert!(report.contains(part), "the frozen page lacks {part}");
    }
}

#[test]
fn a_name_that_somebody_made_lead_to_this_host_is_refused() {
    use std::io::{Read, Write};
    let _alone = alone();
    let (world, address) = (World::new(), free_address());
    let (mut running, _) = started(&world, &slow_job(&world), address);
    assert!(running.lives_until(|| get(address, "/").is_some_and(|page| page.contains("part-now"))));
    let ask = |host: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("evil.example").starts_with("HTTP/1.0 403"));
    let page = ask(&address.to_string()).to_lowercase();
    assert!(page.starts_with("http/1.0 200") && page.contains("frame-ancestors 'none'"));
    let token = std::fs::read_to_string(world.path().join("job/token")).unwrap();
    assert!(!page.contains(token.trim()), "the token is shown");
    running.kill_everything();
}

#[test]
fn a_page_that_is_read_only_stops_nothing() {
    let _alone = alone();
    let (world, address) = (World::new(), free_address());
    let dir = world.path().join("job");
    let mut command = run_job(&jobs::write(world.path(), &slow_job(&world)), &dir, 1);
    command.arg(format!("--web={address}")).arg("--web-read-only");
    let token = "ab".repeat(32);
    command.env("STILLHOUSE_TOKEN", &token);
    let mut running = Running::start(command);
    let mut page = String::new();
    assert!(running.lives_until(|| {
        page = get(address, "/").unwrap_or_default();
        page.contains("</html>")
    }));
    assert!(page.contains("id=\"link\"") && !page.contains("id=\"stop\""));
    let told = post(address, "/stop", &token);
    assert!(told.starts_with("HTTP/1.0 404"), "{told}");
    let _ = running.wait().succeeded();
    Outcome::of(&dir).settle(&world.bill());
}

/// The answer to `POST path` with a token.
fn post(address: SocketAddr, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
    write!(stream, "{head}Content-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
