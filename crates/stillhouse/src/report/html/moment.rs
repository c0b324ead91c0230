//! What a running job does at this moment: only the live page has it.

use maud::{Markup, html};

use super::{contact, histogram};
use crate::report::number::{compact, count, seconds};
use crate::report::picture::ContactSheet;
use crate::report::projection::Projection;
use crate::report::summary::Summary;
use crate::report::terminal::Live;
use crate::watch::view::Pace;
use crate::watch::{BatchSight, Now, ScanSight};

/// What is seen of a running job beside its summary.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// What goes on.
    pub now: &'a Now,
    /// How fast.
    pub pace: Pace,
    /// When it will end, if that can be told.
    pub projection: Option<Projection>,
    /// Pictures of the batch that is being asked.
    pub asking: Option<&'a ContactSheet>,
    /// The moment, in milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
}

/// The top of the live page.
pub(super) fn section(summary: &Summary, moment: &Moment<'_>) -> Markup {
    let now = moment.now;
    html! {
        section.now aria-labelledby="now" {
            h2 #now { "Right now" }
            @match &now.live {
                Some(live) => (stage(live, moment)),
                None if now.workers.is_empty() => p.empty { "No worker is there yet." },
                None => p.empty { "Between two stages." },
            }
            @if let Some(scan) = &now.scan { (scanning(summary, scan)) }
            @if let Some(batch) = &now.batch { (asking(summary, batch, moment.asking)) }
        }
    }
}

fn stage(live: &Live, moment: &Moment<'_>) -> Markup {
    let (name, unit) = live.stage.words();
    let share = 100.0 * live.done as f64 / live.total.max(1) as f64;
    let percent = format!("{share:.0}");
    html! {
        p.doing {
            strong { "Round " (live.round) ", " (live.arm.to_string()) ": " (name) } " "
            (count(live.done)) " of " (count(live.total)) " " (unit)
        }
        div.progress role="progressbar" aria-label=(name) aria-valuemin="0" aria-valuemax="100" aria-valuenow=(percent) {
            i style={ "width:" (format!("{:.2}", share.min(100.0))) "%" } {}
        }
        p.legend {
            span.key { (percent) " %" }
            @if let Some((rate, left)) = moment.pace.told(live) {
                span.key { (compact(rate)) " " (unit) " a second" }
                span.key { (seconds(left)) " left in this stage" }
            }
            @if let Some(end) = moment.projection {
                span.key { "the job: " (super::burn::ending(end)) }
            }
        }
    }
}

fn scanning(summary: &Summary, scan: &ScanSight) -> Markup {
    let drawn = histogram::histogram(&scan.histogram, scan.cut, summary.pool.acquisition);
    html! {
        @if let Some(svg) = drawn {
            figure.chart.hist {
                figcaption {
                    h3 { "Scores so far" }
                    p.legend {
                        span.key { i.swatch.chosen {} "would be chosen now" } span.key { i.swatch.rest {} "would not" }
                        span.key { "the cut moves left as harder ones are found" }
                    }
                }
                (svg)
            }
        }
    }
}

fn asking(summary: &Summary, batch: &BatchSight, sheet: Option<&ContactSheet>) -> Markup {
    let answered = batch.hardest.iter().filter(|hard| !hard.teacher_top.is_empty()).count();
    html! {
        div.sheet-head {
            h3 { "What is being asked" }
            p.note {
                "The first " (batch.hardest.len()) " of round " (batch.round) ", " (batch.arm.to_string())
                "; the teacher has answered " (answered) " of them."
            }
        }
        (contact::grid(&summary.student, &batch.hardest, sheet))
    }
}
