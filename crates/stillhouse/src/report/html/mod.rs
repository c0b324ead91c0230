//! `report.html`: one self-contained page that needs no network, no server and no script. The live page of a running job
//! ([`crate::web`]) is the same page, with what goes on right now and a script that exchanges the parts that change.
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
//! | [`moment`] | what a running job does right now (the live page alone) |
//! | [`budget`], [`burn`] | where the queries went, and when |
//! | [`timeline`] | where the time went |
//! | [`log`] | the event log, and workers as they came and went |
//! | [`table`] | all rounds in numbers |
//! | [`plot`] | frames, axes and ticks of the charts |

mod budget;
mod burn;
mod contact;
mod curves;
mod headline;
mod histogram;
mod log;
mod moment;
mod plot;
mod rounds;
mod table;
mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use moment::Moment;

use super::picture::ContactSheet;
use super::summary::Summary;

const STYLE: &str = include_str!("../assets/report.css");
const DARK: &str = include_str!("../assets/dark.css");
const SCRIPT: &str = include_str!("../assets/report.js");
const LIVE_SCRIPT: &str = include_str!("../assets/live.js");

/// Nothing is loaded and nothing is sent; only what stands in the page itself is used.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'";
/// The live page asks where it came from.
const LIVE_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'";

/// Who writes pages.
const GENERATOR: &str = concat!("stillhouse ", env!("CARGO_PKG_VERSION"));
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
    /// What goes on right now, on the live page.
    pub moment: Option<Moment<'a>>,
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

/// A part of the page, which the live page exchanges on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// Name, state, the figures that matter.
    Headline,
    /// What goes on right now.
    Now,
    /// Accuracy and agreement.
    Curves,
    /// Histograms and contact sheets.
    Rounds,
    /// Where the queries went.
    Budget,
    /// Where the time went.
    Time,
    /// Workers as they came and went.
    Workers,
    /// All rounds in numbers.
    Table,
    /// The event log.
    Events,
    /// Identity and job file.
    Appendix,
}

impl Section {
    /// All, in the order of the page.
    pub const ALL: [Self; 10] = [
        Self::Headline,
        Self::Now,
        Self::Curves,
        Self::Rounds,
        Self::Budget,
        Self::Time,
        Self::Workers,
        Self::Table,
        Self::Events,
        Self::Appendix,
    ];

    /// Its name within the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Headline => "headline",
            Self::Now => "now",
            Self::Curves => "curves",
            Self::Rounds => "rounds",
            Self::Budget => "budget",
            Self::Time => "time",
            Self::Workers => "workers",
            Self::Table => "table",
            Self::Events => "events",
            Self::Appendix => "appendix",
        }
    }

    /// What it says of a job.
    #[must_use]
    pub fn draw(self, report: &Report<'_>) -> String {
        let (summary, moment) = (report.summary, report.moment.as_ref());
        let drawn = match self {
            Self::Headline => headline::headline(summary),
            Self::Now => html! { @if let Some(moment) = moment { (moment::section(summary, moment)) } },
            Self::Curves => curves::section(summary),
            Self::Rounds => rounds::section(report),
            Self::Budget => budget::section(summary, moment.and_then(|moment| moment.projection)),
            Self::Time => timeline::section(summary),
            Self::Workers => workers(report),
            Self::Table => table::section(summary),
            Self::Events => log::events(report.events),
            Self::Appendix => appendix(report),
        };
        drawn.into_string()
    }
}

fn workers(report: &Report<'_>) -> Markup {
    let moment = report.moment.as_ref();
    let now_ms = moment.map_or(report.summary.updated.unix_ms, |moment| moment.unix_ms);
    log::workers(report.events, now_ms, |worker| {
        let workers = &moment?.now.workers;
        Some(workers.iter().find(|known| known.worker == worker)?.does.clone())
    })
}

/// The whole page.
#[must_use]
pub fn render(report: &Report<'_>) -> String {
    page(
        report.summary,
        Section::ALL.map(|section| (section, section.draw(report))),
        Shown::Afterwards,
    )
}

/// The live page of a running job, with its parts as they are now; whether the job can be stopped there.
#[must_use]
pub fn render_live<'a>(
    summary: &Summary,
    parts: impl IntoIterator<Item = (Section, &'a str)>,
    can_be_stopped: bool,
) -> String {
    page(summary, parts, Shown::Live { can_be_stopped })
}

/// When a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// As a file, of a job that does not change any more.
    Afterwards,
    /// By the coordinator of a job that goes on.
    Live { can_be_stopped: bool },
}

fn page<T: AsRef<str>>(summary: &Summary, parts: impl IntoIterator<Item = (Section, T)>, shown: Shown) -> String {
    let is_live = shown != Shown::Afterwards;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(if is_live { LIVE_POLICY } else { POLICY });
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(GENERATOR);
                title { (summary.job.name) " \u{b7} Stillhouse" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
                style #dark media="(prefers-color-scheme: dark)" { (PreEscaped(DARK)) }
            }
            body {
                (bar(is_live))
                main #report {
                    @for (section, part) in parts { div #{ "part-" (section.name()) } { (PreEscaped(part.as_ref())) } }
                    @if shown == (Shown::Live { can_be_stopped: true }) { (control()) }
                }
                (foot(summary, is_live))
                script { (PreEscaped(SCRIPT)) }
                @if is_live { script { (PreEscaped(LIVE_SCRIPT)) } }
            }
        }
    };
    page.into_string()
}

fn bar(is_live: bool) -> Markup {
    html! {
        div.bar {
            span.brand { "Stillhouse" }
            span.bar-end {
                @if is_live { span #link role="status" { "live" } }
                button #theme type="button" hidden { "Dark" }
            }
        }
    }
}

/// What somebody with the job's token can do.
fn control() -> Markup {
    html! {
        section aria-labelledby="control" {
            h2 #control { "Stop the job" }
            p.sub {
                "What is sent is settled, everything paid for is kept, and the same command goes on with the job later. "
                "This page can do nothing else, and that only with the job\u{2019}s token."
            }
            form #stop {
                label for="token" { "Token" }
                input #token type="password" autocomplete="off" spellcheck="false" required;
                button type="submit" { "Stop" }
                span #stop-told role="status" {}
            }
        }
    }
}

fn appendix(report: &Report<'_>) -> Markup {
    html! {
        section aria-labelledby="appendix" {
            h2 #appendix { "Appendix" }
            (identity(report.summary))
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

/// The first `chars` characters of `text`, marked when there were more.
fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

fn foot(summary: &Summary, is_live: bool) -> Markup {
    html! {
        footer {
            @if is_live {
                "Told by the running job. The same figures, for programs: " code { "summary.json" }
                " in its directory; this page, when it is done: " code { "report.html" } "."
            } @else {
                "Written by " (GENERATOR) " on "
                time datetime=(summary.updated.rfc3339) { (summary.updated.minute()) }
                ". The same figures, for programs: " code { "summary.json" } "."
            }
        }
    }
}

#[cfg(test)]
mod tests;
