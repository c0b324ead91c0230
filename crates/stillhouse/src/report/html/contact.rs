//! The contact sheet: the hardest candidates as pictures, with what the teacher said.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use stillhouse_core::plan::Arm;

use super::Report;
use crate::report::number::score;
use crate::report::picture::{ContactSheet, Tile};
use crate::report::summary::{ClassProbability, Hardest, RoundSummary, StudentSummary};

/// The sheet of one student's round; nothing when there are no candidates to show. The control's
/// is folded away: it is there to compare with.
pub(super) fn sheet(report: &Report<'_>, arm: Arm, round: &RoundSummary) -> Markup {
    let sheet = report.sheet(arm, round.round);
    if round.hardest.is_empty() {
        return html! {};
    }
    let grid = grid(&report.summary.student, &round.hardest, sheet);
    match arm {
        Arm::Active => html! {
            div.sheet-head {
                h3 { "The hardest of round " (round.round) }
                p.note { "Each with the student\u{2019}s score and the teacher\u{2019}s answer. Point at one, or tap it, to see what it was mixed from." }
            }
            (grid)
        },
        Arm::Control => html! {
            details.sheet-control {
                summary { "What random selection drew instead" }
                (grid)
            }
        },
    }
}

/// Candidates with their pictures, as far as there are any.
pub(super) fn grid(student: &StudentSummary, hardest: &[Hardest], sheet: Option<&ContactSheet>) -> Markup {
    let tiles = sheet.map_or(&[][..], |sheet| &sheet.tiles);
    html! {
        ul.sheet {
            @for (at, hard) in hardest.iter().enumerate() {
                li { (tile(student, hard, tiles.get(at))) }
            }
        }
    }
}

fn tile(student: &StudentSummary, hard: &Hardest, pictures: Option<&Tile>) -> Markup {
    html! {
        figure.tile tabindex="0" aria-label=(describe(student, hard)) {
            div.picture {
                @if let Some(pictures) = pictures { (drawn(hard, pictures)) }
            }
            figcaption aria-hidden="true" {
                p.mix {
                    @match hard.generated {
                        Some(_) => span { "generated" },
                        None => span { "\u{3bb}\u{2009}" (weight(hard.lambda)) },
                    }
                    @if let Some(value) = hard.score { span { (score(value)) } }
                }
                @if hard.teacher_top.is_empty() {
                    p.none { "no answer" }
                } @else {
                    ol.answer { @for class in &hard.teacher_top { (bar(student, *class)) } }
                }
            }
        }
    }
}

fn drawn(hard: &Hardest, pictures: &Tile) -> Markup {
    html! {
        img.mixed src=(data(&pictures.mixed)) alt="" decoding="async";
        @if hard.generated.is_none() {
            div.parents {
                div { img src=(data(&pictures.a)) alt="" decoding="async"; span { "\u{d7}\u{2009}" (weight(hard.lambda)) } }
                div { img src=(data(&pictures.b)) alt="" decoding="async"; span { "\u{d7}\u{2009}" (weight(1.0 - hard.lambda)) } }
            }
        }
    }
}

fn weight(lambda: f32) -> String {
    format!("{lambda:.2}")
}

fn data(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// One class of the teacher's answer: its name, a bar, whole percents.
fn bar(student: &StudentSummary, class: ClassProbability) -> Markup {
    let share = whole_percent(class.probability);
    let name = student.class_name(class.class);
    html! {
        li style={ "--share:" (share) "%" } { span.class title=(name) { (name) } i {} span.share { (share) } }
    }
}

fn whole_percent(probability: f32) -> u8 {
    // A float cast saturates; NaN gives 0.
    ((probability * 100.0).round() as u8).min(100)
}

fn describe(student: &StudentSummary, hard: &Hardest) -> String {
    let answers = hard.teacher_top.iter().map(|class| {
        let name = student.class_name(class.class);
        format!("{name} {} %", whole_percent(class.probability))
    });
    let answers = answers.collect::<Vec<_>>().join(", ");
    let answers = if answers.is_empty() { "no answer" } else { &answers };
    let score = hard.score.map(|value| format!(", score {}", score(value)));
    let score = score.unwrap_or_default();
    if let Some(at) = hard.generated {
        return format!("Generated image {at}{score}. Teacher: {answers}");
    }
    let (first, second) = (weight(hard.lambda), weight(1.0 - hard.lambda));
    let Hardest { a, b, .. } = hard;
    format!("{first} of image {a} and {second} of image {b}{score}. Teacher: {answers}")
}
