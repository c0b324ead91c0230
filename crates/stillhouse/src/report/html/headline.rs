//! Name, state, one sentence, and the figures that matter.

use maud::{Markup, html};
use stillhouse_core::Acquisition;

use crate::report::number::{count, counted, money, percent, points, price};
use crate::report::summary::{State, Summary};
use crate::report::verdict::{comparison_words, half_width, verdict};

/// The top of the page.
pub(super) fn headline(summary: &Summary) -> Markup {
    html! {
        header.headline {
            p.state { (state(&summary.state)) " " (when(summary)) }
            h1 { (summary.job.name) }
            p.lede { (lede(summary)) }
            @match &summary.state {
                State::Stopped { reason } => p.stop role="note" { strong { "Stopped: " } (reason) },
                State::Paused { reason } => p.stop role="note" { strong { "Waiting: " } (reason) },
                State::Running | State::Finished => {}
            }
        }
        dl.figures { @for figure in figures(summary) { (figure.draw()) } }
    }
}

fn state(state: &State) -> Markup {
    let name = match state {
        State::Running => "Running",
        State::Paused { .. } => "Paused",
        State::Finished => "Finished",
        State::Stopped { .. } => "Stopped",
    };
    html! { span.{ "chip " (state.name()) } { (name) } }
}

fn when(summary: &Summary) -> Markup {
    html! {
        time datetime=(summary.started.rfc3339) { (summary.started.minute()) }
        " \u{b7} " (crate::report::number::seconds(summary.lasted_seconds()))
    }
}

/// What was done, and what it was worth.
fn lede(summary: &Summary) -> Markup {
    let Summary {
        student, teacher, pool, ..
    } = summary;
    html! {
        strong { (student.architecture) } " (" (counted(student.parameters, "parameter", "parameters")) ") "
        @if matches!(summary.state, State::Running | State::Paused { .. }) { "is learning from " } @else { "learnt from " }
        (counted(summary.active.queries, "answer", "answers")) " of "
        strong { (teacher.model) } ". The questions are mixes of two of "
        (counted(u64::from(pool.seeds), "image", "images")) ", picked from "
        (counted(pool.pairs, "pair", "pairs")) " at "
        (counted(u64::from(pool.lambdas), "weight", "weights")) " each"
        @if pool.generated > 0 { " and " (counted(u64::from(pool.generated), "generated image", "generated images")) }
        ", "
        (picked_by(pool.acquisition)) ". " (worth(summary)) " " (guarded(summary))
    }
}

fn picked_by(acquisition: Acquisition) -> &'static str {
    match acquisition {
        Acquisition::LeastConfidence => "where the student was least confident",
        Acquisition::Margin => "where the student\u{2019}s two best classes were closest",
        Acquisition::Entropy => "where the student\u{2019}s answer had the highest entropy",
        Acquisition::Bald => "where the student\u{2019}s branches disagreed most",
        Acquisition::Random => "at random",
    }
}

fn worth(summary: &Summary) -> String {
    let Some(verdict) = verdict(summary) else {
        return String::new();
    };
    let (what, gain) = match (verdict.accuracy, verdict.agreement) {
        (Some(gain), _) => ("accuracy", gain),
        (None, Some(gain)) => ("agreement", gain),
        (None, None) => return String::new(),
    };
    let size = points(gain.abs());
    let size = size.trim_start_matches('+');
    match points(gain).chars().next() {
        Some('+') => format!("At equal queries that is worth {size} points of {what} over random selection."),
        Some('\u{2212}') => format!("At equal queries random selection is {size} points of {what} ahead."),
        _ => format!("At equal queries random selection reaches the same {what}."),
    }
}

fn guarded(summary: &Summary) -> String {
    summary.comparison.as_ref().map_or_else(String::new, comparison_words)
}

/// One large number with its name and a line that explains it.
struct Figure {
    name: &'static str,
    value: String,
    unit: &'static str,
    note: String,
    class: &'static str,
}

impl Figure {
    fn draw(&self) -> Markup {
        html! {
            div.{ "figure " (self.class) } {
                dt { (self.name) }
                dd { span.value { (self.value) @if !self.unit.is_empty() { span.unit { " " (self.unit) } } } span.note { (self.note) } }
            }
        }
    }
}

fn figures(summary: &Summary) -> Vec<Figure> {
    let control = summary.control.as_ref().and_then(|_| versus(summary));
    let all = [
        accuracy(summary),
        agreement(summary),
        control,
        Some(billed(summary)),
        cost(summary),
    ];
    all.into_iter().flatten().collect()
}

/// `99.15 %` without its unit, which is set smaller.
fn bare_percent(fraction: f64) -> String {
    percent(fraction).trim_end_matches(" %").to_owned()
}

fn interval(fraction: f64, images: Option<u32>) -> String {
    let images = images.unwrap_or(0);
    match half_width(fraction, images) {
        Some(half) => format!(
            "\u{b1} {:.2} on {}",
            half * 100.0,
            counted(u64::from(images), "image", "images")
        ),
        None => String::new(),
    }
}

fn accuracy(summary: &Summary) -> Option<Figure> {
    let accuracy = summary.active.accuracy?;
    let images = summary.evaluation.as_ref().map(|e| e.images);
    let best = format!("best {} in epoch {}", percent(accuracy.best), accuracy.best_epoch);
    let spread = interval(accuracy.last, images);
    let note = if spread.is_empty() {
        best
    } else {
        format!("{spread}; {best}")
    };
    Some(Figure {
        name: "Test accuracy",
        value: bare_percent(accuracy.last),
        unit: "%",
        note,
        class: "first",
    })
}

fn agreement(summary: &Summary) -> Option<Figure> {
    let agreement = summary.active.agreement?;
    let images = summary.evaluation.as_ref().map(|e| e.agreement_images);
    Some(Figure {
        name: "Agreement",
        value: bare_percent(agreement),
        unit: "%",
        note: match interval(agreement, images) {
            spread if spread.is_empty() => "with the teacher".to_owned(),
            spread => format!("with the teacher, {spread}"),
        },
        class: "",
    })
}

fn versus(summary: &Summary) -> Option<Figure> {
    let verdict = verdict(summary)?;
    let (gain, control) = match (verdict.accuracy, verdict.control.accuracy) {
        (Some(gain), Some(control)) => (gain, format!("{} accuracy", percent(control.last))),
        _ => (
            verdict.agreement?,
            format!("{} agreement", percent(verdict.control.agreement?)),
        ),
    };
    Some(Figure {
        name: "Against random selection",
        value: points(gain),
        unit: "points",
        note: format!("random: {control} at {}", counted(verdict.queries, "query", "queries")),
        class: "",
    })
}

fn billed(summary: &Summary) -> Figure {
    let budget = &summary.budget;
    let note = match summary.control {
        Some(_) => format!(
            "of {} in the budget, the control\u{2019}s included",
            count(budget.queries)
        ),
        None => format!("of {} in the budget", count(budget.queries)),
    };
    Figure {
        name: "Queries billed",
        value: count(budget.billed.total),
        unit: "",
        note,
        class: "",
    }
}

fn cost(summary: &Summary) -> Option<Figure> {
    let each = summary.budget.price_per_query?;
    Some(Figure {
        name: "Cost",
        value: money(summary.budget.cost?),
        unit: "",
        note: format!("at {} a query", price(each)),
        class: "",
    })
}
