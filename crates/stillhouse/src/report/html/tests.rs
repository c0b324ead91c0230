//! The page as a whole: well-formed, self-contained, and safe whatever the names in it are.

use super::*;
use crate::report::example;
use crate::report::summary::State;
use stillhouse_core::plan::Arm;

const VOID: [&str; 5] = ["meta", "link", "input", "img", "br"];

fn sheets(summary: &Summary) -> Vec<ContactSheet> {
    let seeds = example::seeds();
    let rounds = |(arm, rounds): (Arm, &crate::report::summary::ArmSummary)| {
        let sheets = rounds.rounds.iter().map(move |round| (arm, round.clone()));
        sheets.collect::<Vec<_>>()
    };
    let all = summary.arms().flat_map(rounds);
    all.map(|(arm, round)| ContactSheet::draw(arm, round.round, &round.hardest, &seeds, None))
        .collect()
}

fn page(summary: &Summary) -> String {
    let events: Vec<String> = (0..250)
        .map(|at| format!(r#"{{"at":{at},"event":"worker joined"}}"#))
        .collect();
    render(&Report {
        summary,
        contact: &sheets(summary),
        events: &events,
        moment: None,
        job_file: Some("apiVersion: stillhouse.dev/v1alpha1\nkind: DistillJob\n"),
    })
}

/// Every element that is opened is closed, in order; returns the names of all elements.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare > before {:.60}", &rest[start..]);
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag ends");
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let name: String = tag.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        assert!(
            !name.is_empty() && tag.matches('"').count() % 2 == 0,
            "a bad tag: {tag}"
        );
        if name == "style" || name == "script" {
            rest = &rest[rest.find("</").expect("an end")..];
        }
        if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
        }
        all.push(name);
    }
    assert_eq!(open, [] as [String; 0]);
    all
}

/// Values of all attributes called `name`.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let mark = format!(" {name}=\"");
    let values = page.split(mark.as_str()).skip(1);
    values.map(|rest| rest.split('"').next().expect("a value")).collect()
}

#[test]
fn the_page_is_well_formed_and_complete() {
    let page = page(&example::summary());
    let all = elements(&page);
    let count = |name: &str| all.iter().filter(|element| *element == name).count();
    assert_eq!(count("h1"), 1);
    // Four rounds of two students, 24 candidates each with two parents.
    assert_eq!(count("img"), 4 * 2 * 24 * 3);
    // One row a round and the head.
    assert_eq!(count("tr"), 1 + 5);
    for text in [
        "99.15",
        "+0.31",
        "50,420",
        "random: 98.84 % accuracy",
        "cut ",
        "event log",
    ] {
        assert!(page.to_lowercase().contains(&text.to_lowercase()), "lacks {text}");
    }
}

#[test]
fn the_page_asks_nothing_of_anyone() {
    let page = page(&example::summary());
    for name in ["src", "href", "xlink:href", "action", "srcset", "poster"] {
        for value in attributes(&page, name) {
            assert!(value.starts_with("data:"), "{name}={value}");
        }
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !DARK.contains("url("));
    for call in ["fetch", "XMLHttpRequest", "import", "innerHTML", "eval"] {
        assert!(!SCRIPT.contains(call), "{call}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(
        !page.contains("secret"),
        "the teacher's address keeps its password to itself"
    );
}

#[test]
fn names_from_outside_stay_text() {
    let mut summary = example::summary();
    let evil = "</title></style><script>alert(1)</script><img src=x onerror='x'>\"&";
    summary.job.name = evil.to_owned();
    summary.teacher.model = evil.to_owned();
    summary.teacher.url = evil.to_owned();
    summary.student.architecture = evil.to_owned();
    summary.student.class_names = vec![evil.to_owned(); 10];
    summary.state = State::Stopped {
        reason: evil.to_owned(),
    };
    summary.active.rounds[1].digest = evil.to_owned();
    let sheets = sheets(&summary);
    let report = Report {
        summary: &summary,
        contact: &sheets,
        events: &[evil.to_owned()],
        moment: None,
        job_file: Some(evil),
    };
    let page = render(&report);
    let all = elements(&page);
    assert_eq!(all.iter().filter(|name| *name == "script").count(), 1);
    assert!(!page.contains("<img src=x") && !page.contains("<script>alert"));
}

#[test]
fn a_job_that_has_just_begun_has_a_page_too() {
    let mut summary = example::summary();
    summary.state = State::Running;
    summary.finished = None;
    summary.evaluation = None;
    summary.active = Default::default();
    summary.control = None;
    summary.budget.billed = Default::default();
    summary.budget.left = 0;
    let page = render(&Report {
        summary: &summary,
        contact: &[],
        events: &[],
        moment: None,
        job_file: None,
    });
    elements(&page);
    assert!(page.contains("Nothing measured yet") && page.contains("No candidate has been chosen yet"));
}

#[test]
fn numbers_out_of_range_do_not_break_the_page() {
    let mut summary = example::summary();
    for round in &mut summary.active.rounds {
        round.queries_total = u64::MAX;
        round.cut = Some(f32::INFINITY);
        round.agreement = Some(f64::NAN);
        round.timings.train_seconds = f64::MAX;
        if let Some(accuracy) = &mut round.accuracy {
            accuracy.last = 1e300;
        }
        for hard in &mut round.hardest {
            hard.lambda = f32::NAN;
            hard.a = u32::MAX;
        }
    }
    summary.budget.billed.total = u64::MAX;
    summary.budget.left = u64::MAX;
    elements(&page(&summary));
}

#[test]
fn long_logs_and_job_files_are_cut() {
    let summary = example::summary();
    let events: Vec<String> = (0..500).map(|at| format!("event {at} {}", "x".repeat(1_000))).collect();
    let job = "y".repeat(1 << 20);
    let report = Report {
        summary: &summary,
        contact: &[],
        events: &events,
        moment: None,
        job_file: Some(&job),
    };
    let page = render(&report);
    assert!(page.contains("event 499 ") && page.contains("event 300 ") && !page.contains("event 299 "));
    assert!(page.len() < 500_000, "{} bytes", page.len());
}

/// Colours of a style sheet: `--name: #rrggbb`.
fn color(style: &str, name: &str) -> [f64; 3] {
    let mark = format!("--{name}: #");
    let at = style.find(&mark).expect("a colour of that name") + mark.len();
    let channel = |n: usize| u8::from_str_radix(&style[at + 2 * n..at + 2 * n + 2], 16).expect("two digits");
    [channel(0), channel(1), channel(2)].map(f64::from)
}

/// Relative luminance and contrast as WCAG 2.1 defines them.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let luminance = |color: [f64; 3]| {
        let linear = color.map(|c| c / 255.0).map(|c| match c <= 0.04045 {
            true => c / 12.92,
            false => ((c + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05
    };
    let (one, other) = (luminance(one), luminance(other));
    one.max(other) / one.min(other)
}

#[test]
fn every_text_can_be_read_in_light_and_in_dark() {
    for style in [STYLE, DARK] {
        for text in ["ink", "soft", "active", "control", "good", "bad"] {
            for ground in ["paper", "card"] {
                let found = contrast(color(style, text), color(style, ground));
                assert!(found >= 4.5, "{text} on {ground}: {found:.2}");
            }
        }
        for part in ["real", "evaluation", "ambiguous", "scan", "query", "train", "rest"] {
            let found = contrast(color(style, part), color(style, "paper"));
            assert!(found >= 1.7, "{part}: {found:.2}");
        }
    }
}

/// Leaves the page where a person or a browser can open it.
#[test]
fn the_example_page_is_kept_as_test_output() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/report-example");
    std::fs::create_dir_all(&dir).expect("a writable target directory");
    std::fs::write(dir.join("report.html"), page(&example::summary())).expect("a writable target directory");
}
