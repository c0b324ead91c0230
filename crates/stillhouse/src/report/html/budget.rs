//! Where the queries went.

use maud::{Markup, html};

use super::burn;
use crate::report::number::{count, counted, money};
use crate::report::projection::Projection;
use crate::report::summary::Summary;

/// One part of the budget.
struct Part {
    class: &'static str,
    name: &'static str,
    queries: u64,
}

fn parts(summary: &Summary) -> Vec<Part> {
    let budget = &summary.budget;
    let control = summary.control.as_ref().map_or(0, |arm| arm.billed_synthetic);
    let spent = budget.billed.total.saturating_add(budget.ambiguous);
    let underway = budget.queries.saturating_sub(spent.saturating_add(budget.left));
    let part = |class, name, queries| Part { class, name, queries };
    let all = [
        part("real", "Seed images", budget.billed.real),
        part(
            "active",
            "Candidates, active",
            budget.billed.synthetic.saturating_sub(control),
        ),
        part("control", "Candidates, random control", control),
        part("evaluation", "Evaluation images", budget.billed.evaluation),
        part("ambiguous", "Ambiguous, perhaps billed", budget.ambiguous),
        part("underway", "Under way", underway),
        part("left", "Left", budget.left),
    ];
    all.into_iter().filter(|part| part.queries > 0).collect()
}

/// The bar and its legend.
pub(super) fn section(summary: &Summary, projection: Option<Projection>) -> Markup {
    let parts = parts(summary);
    let total = parts.iter().map(|part| part.queries as f64).sum::<f64>().max(1.0);
    html! {
        section aria-labelledby="budget" {
            h2 #budget { "Where the queries went" }
            p.sub { (sentence(summary)) }
            div.stack aria-hidden="true" {
                @for part in &parts {
                    i.{ "part " (part.class) } style={ "flex-grow:" (part.queries) } title={ (part.name) ": " (count(part.queries)) } {}
                }
            }
            ul.parts {
                @for part in &parts {
                    li {
                        i.{ "swatch part " (part.class) } {}
                        span.what { (part.name) } span.many { (count(part.queries)) }
                        span.share { (format!("{:.1} %", part.queries as f64 / total * 100.0)) }
                    }
                }
            }
            (burn::chart(summary, projection))
        }
    }
}

fn sentence(summary: &Summary) -> String {
    let budget = &summary.budget;
    let mut text = format!(
        "{} of {} billed, {} left",
        count(budget.billed.total),
        counted(budget.queries, "query", "queries"),
        count(budget.left)
    );
    if let Some(cost) = budget.cost {
        text += &format!("; together they cost {}", money(cost));
    }
    text += ".";
    if budget.reused > 0 {
        let labels = counted(budget.reused, "label", "labels");
        text += &format!(" {labels} of other jobs cost nothing.");
    }
    if budget.held > 0 {
        let held = counted(budget.held, "query waits", "queries wait");
        text += &format!(" {held} for a decision: the teacher may or may not have answered.");
    }
    text
}
