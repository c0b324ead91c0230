//! For each round: how the pool was scored, and what the student found hardest.

use maud::{Markup, html};
use stillhouse_core::plan::Arm;

use super::{Report, contact, histogram};
use crate::report::number::{compact, count, counted, percent, score, seconds};
use crate::report::summary::{RoundSummary, Summary};

/// One panel a round; native radio buttons choose the one that is shown, script or not.
pub(super) fn section(report: &Report<'_>) -> Markup {
    let rounds = &report.summary.active.rounds;
    let shown: Vec<&RoundSummary> = rounds.iter().filter(|round| round.size > 0).collect();
    html! {
        section aria-labelledby="rounds" {
            h2 #rounds { "What the student asked" }
            @if shown.is_empty() {
                p.empty { "No candidate has been chosen yet." }
            } @else {
                div.tabs role="radiogroup" aria-label="Round" {
                    span.tabs-name aria-hidden="true" { "Round" }
                    @for (at, round) in shown.iter().enumerate() {
                        (tab(round.round, at + 1 == shown.len()))
                        div.panel { (panel(report, round)) }
                    }
                }
            }
        }
    }
}

fn tab(round: u32, checked: bool) -> Markup {
    html! {
        input #{ "round-" (round) } type="radio" name="round" checked[checked] aria-label={ "Round " (round) };
        label for={ "round-" (round) } { (round) }
    }
}

fn panel(report: &Report<'_>, round: &RoundSummary) -> Markup {
    let summary = report.summary;
    let acquisition = summary.pool.acquisition;
    let drawn = round
        .histogram
        .as_ref()
        .and_then(|h| histogram::histogram(h, round.cut, acquisition));
    html! {
        div.scored {
            @if let Some(svg) = drawn {
                figure.chart.hist {
                    figcaption {
                        h3 { "Scores of all pairs" }
                        p.legend {
                            span.key { i.swatch.chosen {} "chosen" } span.key { i.swatch.rest {} "left in the pool" }
                            span.key { "pairs on a logarithmic scale" }
                        }
                    }
                    (svg)
                }
            }
            (facts(summary, round))
        }
        (contact::sheet(report, Arm::Active, round))
        @if let Some(control) = control_round(summary, round.round) {
            (contact::sheet(report, Arm::Control, control))
        }
    }
}

fn control_round(summary: &Summary, round: u32) -> Option<&RoundSummary> {
    let control = summary.control.as_ref()?;
    control.rounds.iter().find(|other| other.round == round)
}

/// The round in numbers.
fn facts(summary: &Summary, round: &RoundSummary) -> Markup {
    let pool = &summary.pool;
    let pairs = match pool.generated {
        0 => counted(pool.pairs, "pair", "pairs"),
        _ => counted(pool.pairs + u64::from(pool.generated), "candidate", "candidates"),
    };
    let mut rows = vec![("Chosen", format!("{} of {pairs}", count(round.size)))];
    if let Some(cut) = round.cut {
        rows.push(("Score at most", score(cut)));
    }
    if let Some(guard) = round.guard {
        let band = format!(
            "{} within {} of the cut",
            counted(guard.rescored, "pair", "pairs"),
            score(guard.width)
        );
        rows.push(("Rescored exactly", band));
        rows.push(("Largest deviation", score(guard.deviation)));
    }
    if let Some(rate) = round.timings.candidates_per_second {
        rows.push(("Scored", format!("{} candidates a second", compact(rate))));
    }
    rows.push(("Labelled", held(round)));
    if let Some(accuracy) = round.accuracy {
        rows.push(("Accuracy afterwards", percent(accuracy.last)));
    }
    rows.push(("Took", seconds(round.timings.total())));
    html! {
        dl.pairs.facts {
            @for (name, value) in rows { dt { (name) } dd { (value) } }
            dt { "Batch digest" } dd { code title=(round.digest) { (crate::report::number::short(&round.digest)) } }
        }
    }
}

fn held(round: &RoundSummary) -> String {
    match round.held {
        0 => count(round.labelled),
        held => format!("{}, {} held", count(round.labelled), count(held)),
    }
}
