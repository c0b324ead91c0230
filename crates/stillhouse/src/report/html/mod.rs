//! `report.html`: one self-contained page that needs no network, no server and no script.
//!
//! Text is escaped by construction (maud escapes whatever is spliced), and a content security
//! policy forbids the page to load or send anything. Charts are inline SVG drawn here; the script
//! adds a theme switch and quicker tooltips.
//!
//! | module | what it draws |
//! |---|---|
//! | [`headline`] | name, state, one sentence, the figures that matter |
//! | [`curves`] | accuracy and agreement against queries |
//! | [`rounds`] | for each round the score histogram and the contact sheet |
//! | [`budget`] | where the queries went |
//! | [`timeline`] | where the time went |
//! | [`table`] | all rounds in numbers |
//! | [`plot`] | frames, axes and ticks of the charts |

mod budget;
mod contact;
mod curves;
mod headline;
mod histogram;
mod plot;
mod rounds;
mod table;
mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::picture::ContactSheet;
use super::summary::Summary;

const STYLE: &str = include_str!("../assets/report.css");
const DARK: &str = include_str!("../assets/dark.css");
const SCRIPT: &str = include_str!("../assets/report.js");

/// Nothing is loaded and nothing is sent; only what stands in the page itself is used.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'";

/// Lines of the event log that the page shows, and characters of each.
const EVENT_LINES: usize = 200;
const EVENT_CHARS: usize = 400;
/// Characters of the job file that the page shows.
const JOB_CHARS: usize = 64 * 1024;

/// What the page is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What the job bought.
    pub summary: &'a Summary,
    /// Contact sheets of any rounds, in any order; one whose tiles do not match the summary's
    /// hardest candidates shows as many as both have.
    pub contact: &'a [ContactSheet],
    /// The event log, one line an event; the last 200 are shown.
    pub events: &'a [String],
    /// The job file as written, if it is at hand.
    pub job_file: Option<&'a str>,
}

impl Report<'_> {
    fn sheet(&self, arm: stillhouse_core::plan::Arm, round: u32) -> Option<&ContactSheet> {
        self.contact
            .iter()
            .find(|sheet| sheet.arm == arm && sheet.round == round)
    }
}

/// The whole page.
#[must_use]
pub fn render(report: &Report<'_>) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("stillhouse ", env!("CARGO_PKG_VERSION")));
                title { (report.summary.job.name) " \u{b7} Stillhouse" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
                style #dark media="(prefers-color-scheme: dark)" { (PreEscaped(DARK)) }
            }
            body {
                (bar())
                main #report { (PreEscaped(content(report))) }
                (foot(report.summary))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// What stands between the page's head and foot: all that changes while a job runs.
#[must_use]
pub fn content(report: &Report<'_>) -> String {
    let summary = report.summary;
    let page = html! {
        (headline::headline(summary))
        (curves::section(summary))
        (rounds::section(report))
        (budget::section(summary))
        (timeline::section(summary))
        (table::section(summary))
        (appendix(report))
    };
    page.into_string()
}

fn bar() -> Markup {
    html! {
        div.bar {
            span.brand { "Stillhouse" }
            button #theme type="button" hidden { "Dark" }
        }
    }
}

fn appendix(report: &Report<'_>) -> Markup {
    html! {
        section aria-labelledby="appendix" {
            h2 #appendix { "Appendix" }
            (identity(report.summary))
            @if !report.events.is_empty() { (events(report.events)) }
            @if let Some(text) = report.job_file {
                details {
                    summary { "Job file" }
                    pre tabindex="0" { (cut(text, JOB_CHARS)) }
                }
            }
        }
    }
}

fn identity(summary: &Summary) -> Markup {
    let rows = [
        ("Job", &summary.job.digest),
        ("Teacher", &summary.teacher.fingerprint),
        ("Address", &summary.teacher.url),
        ("Started", &summary.started.rfc3339),
        ("Written", &summary.updated.rfc3339),
    ];
    html! {
        details {
            summary { "Identity" }
            dl.pairs {
                @for (name, value) in rows { dt { (name) } dd { code { (value) } } }
            }
        }
    }
}

fn events(lines: &[String]) -> Markup {
    let shown = &lines[lines.len().saturating_sub(EVENT_LINES)..];
    html! {
        details {
            summary {
                "Event log"
                span.note { " the last " (super::number::counted(shown.len() as u64, "line", "lines")) }
            }
            pre.log tabindex="0" { @for line in shown { (cut(line, EVENT_CHARS)) "\n" } }
        }
    }
}

/// The first `chars` characters of `text`, marked when there were more.
fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

fn foot(summary: &Summary) -> Markup {
    html! {
        footer {
            "Written by stillhouse " (env!("CARGO_PKG_VERSION")) " on "
            time datetime=(summary.updated.rfc3339) { (summary.updated.minute()) }
            ". The same figures, for programs: " code { "summary.json" } "."
        }
    }
}

#[cfg(test)]
mod tests;
