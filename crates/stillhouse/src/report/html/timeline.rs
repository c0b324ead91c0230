//! Where the time of each round went.

use maud::{Markup, html};
use stillhouse_core::plan::Arm;

use crate::report::number::seconds;
use crate::report::summary::{Summary, Timings};

/// Stages in order: class, name, seconds.
fn stages(timings: &Timings) -> [(&'static str, &'static str, f64); 4] {
    let sane = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
    [
        ("scan", "Scoring", sane(timings.scan_seconds)),
        ("rescore", "Rescoring", sane(timings.rescore_seconds)),
        ("query", "Querying", sane(timings.query_seconds)),
        ("train", "Training", sane(timings.train_seconds)),
    ]
}

struct Row {
    arm: Arm,
    round: u32,
    timings: Timings,
}

/// One bar a round and student, all on one scale.
pub(super) fn section(summary: &Summary) -> Markup {
    let rows = rows(summary);
    let sum = |row: &Row| stages(&row.timings).iter().map(|(.., s)| s).sum::<f64>();
    let longest = rows.iter().map(sum).fold(0.0, f64::max);
    if longest <= 0.0 {
        return html! {};
    }
    html! {
        section aria-labelledby="time" {
            h2 #time { "Where the time went" }
            (legend(&rows))
            ol.timeline {
                @for row in &rows {
                    li {
                        span.what { "Round " (row.round) @if row.arm == Arm::Control { span.note { " random" } } }
                        div.track { (bars(row, longest)) }
                        span.took { (seconds(sum(row))) }
                    }
                }
            }
        }
    }
}

fn rows(summary: &Summary) -> Vec<Row> {
    let row = |arm, round: &crate::report::summary::RoundSummary| Row {
        arm,
        round: round.round,
        timings: round.timings,
    };
    let mut rows: Vec<Row> = summary
        .arms()
        .flat_map(|(arm, rounds)| rounds.rounds.iter().map(move |round| row(arm, round)))
        .collect();
    rows.sort_by_key(|row| (row.round, row.arm));
    rows
}

fn bars(row: &Row, longest: f64) -> Markup {
    html! {
        @for (class, name, took) in stages(&row.timings) {
            @if took > 0.0 {
                i.{ "part " (class) } style={ "width:" (format!("{:.3}", took / longest * 100.0)) "%" }
                    title={ (name) " " (seconds(took)) } {}
            }
        }
    }
}

/// The stages with their sums over all rounds.
fn legend(rows: &[Row]) -> Markup {
    let mut sums = stages(&Timings::default());
    for row in rows {
        for (sum, (.., took)) in sums.iter_mut().zip(stages(&row.timings)) {
            sum.2 += took;
        }
    }
    let all: f64 = sums.iter().map(|(.., took)| took).sum();
    html! {
        p.legend {
            @for (class, name, took) in sums {
                @if took > 0.0 {
                    span.key { i.{ "swatch part " (class) } {} (name) " " strong { (seconds(took)) } " (" (format!("{:.0}", took / all * 100.0)) " %)" }
                }
            }
        }
    }
}
