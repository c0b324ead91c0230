//! All rounds in numbers.

use maud::{Markup, html};

use crate::report::number::{count, percent, points, score, seconds, short};
use crate::report::summary::{RoundSummary, Summary};
use crate::report::verdict::{difference, twin};

/// One row a round; the control's columns only when there is one.
pub(super) fn section(summary: &Summary) -> Markup {
    if summary.active.rounds.is_empty() {
        return html! {};
    }
    let control = summary.control.is_some();
    html! {
        section aria-labelledby="table" {
            h2 #table { "All rounds" }
            div.scroll tabindex="0" role="region" aria-labelledby="table" {
                table {
                    (head(control))
                    tbody { @for round in &summary.active.rounds { (row(summary, round)) } }
                }
            }
            @if control { p.sub { "Differences are in percentage points, at equal queries, after the last epoch." } }
        }
    }
}

fn head(control: bool) -> Markup {
    html! {
        thead { tr {
            th scope="col" { "Round" }
            @for name in ["Queries", "Batch", "Cut", "Accuracy", "Best (epoch)", "Agreement", "Loss"] { th scope="col" { (name) } }
            @if control { @for name in ["Random", "Difference"] { th scope="col" { (name) } } }
            @for name in ["Held", "Time", "Digest"] { th scope="col" { (name) } }
        } }
    }
}

const NOTHING: &str = "\u{2013}";

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| NOTHING.to_owned())
}

fn row(summary: &Summary, round: &RoundSummary) -> Markup {
    let accuracy = round.accuracy.map(|a| percent(a.last));
    let best = round
        .accuracy
        .map(|a| format!("{} ({})", percent(a.best), a.best_epoch));
    let digest = short(&round.digest);
    html! {
        tr {
            th scope="row" { (round.round) }
            td { (count(round.queries_total)) }
            td { (count(round.size)) }
            td { (or_dash(round.cut.map(score))) }
            td.strong { (or_dash(accuracy)) }
            td { (or_dash(best)) }
            td { (or_dash(round.agreement.map(percent))) }
            td { (or_dash(round.loss.map(|loss| format!("{loss:.4}")))) }
            @if summary.control.is_some() { (versus(summary, round)) }
            td { (count(round.held)) }
            td { (seconds(round.timings.total())) }
            td { @if digest.is_empty() { (NOTHING) } @else { code title=(round.digest) { (digest) } } }
        }
    }
}

fn versus(summary: &Summary, round: &RoundSummary) -> Markup {
    let twin = summary.control.as_ref().and_then(|control| twin(control, round));
    let theirs = twin.and_then(|twin| twin.accuracy).map(|a| a.last);
    let gain = difference(round.accuracy.map(|a| a.last), theirs);
    html! {
        td { (or_dash(theirs.map(percent))) }
        td.strong { (or_dash(gain.map(points))) }
    }
}
