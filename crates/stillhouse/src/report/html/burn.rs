//! The budget as it burns down: queries left against time, with the projected end of a running job.

use maud::{Markup, html};

use super::plot::{Axis, Frame, px, tidy};
use crate::report::number::count;
use crate::report::projection::Projection;
use crate::report::summary::{Summary, Timestamp};

const WIDE: Frame = Frame {
    width: 640.0,
    height: 220.0,
    left: 52.0,
    right: 16.0,
    top: 14.0,
    bottom: 44.0,
    ticks: 8,
};
const NARROW: Frame = Frame {
    width: 350.0,
    height: 210.0,
    left: 46.0,
    right: 10.0,
    ticks: 4,
    ..WIDE
};

/// Units of time, largest first: their name and seconds.
const UNITS: [(&str, f64); 4] = [
    ("days", 86_400.0),
    ("hours", 3_600.0),
    ("minutes", 60.0),
    ("seconds", 1.0),
];

/// The chart; nothing before two moments are known.
pub(super) fn chart(summary: &Summary, projection: Option<Projection>) -> Markup {
    let history = &summary.budget.history;
    let [first, .., last] = history.as_slice() else {
        return html! {};
    };
    let begun = summary.started.unix_ms.min(first.unix_ms);
    let seconds = |unix_ms: u64| unix_ms.saturating_sub(begun) as f64 / 1e3;
    let left = |billed: u64| summary.budget.queries.saturating_sub(billed) as f64;
    let points: Vec<(f64, f64)> = history
        .iter()
        .map(|point| (seconds(point.unix_ms), left(point.billed)))
        .collect();
    let ahead = projection.map(|end| {
        [
            (seconds(last.unix_ms), left(last.billed)),
            (seconds(end.end_unix_ms), left(end.billed)),
        ]
    });
    let chart = Chart {
        budget: summary.budget.queries,
        points,
        ahead,
    };
    html! {
        figure.chart.burn {
            figcaption {
                h3 { "Queries left" }
                p.legend {
                    span.key { "against time" }
                    @if let Some(end) = projection { span.key { "dashed: as it goes on, " (ending(end)) } }
                }
            }
            (chart.svg(WIDE, "wide")) (chart.svg(NARROW, "narrow"))
        }
    }
}

/// `done about 2026-03-01 12:30 UTC with 50,420 billed`.
pub(super) fn ending(end: Projection) -> String {
    let minute = Timestamp::from_unix_ms(end.end_unix_ms).minute();
    format!("done about {minute} with {} billed", count(end.billed))
}

struct Chart {
    budget: u64,
    /// Seconds since the start, and queries left.
    points: Vec<(f64, f64)>,
    ahead: Option<[(f64, f64); 2]>,
}

impl Chart {
    fn svg(&self, frame: Frame, class: &str) -> Markup {
        let all = self.points.iter().chain(self.ahead.iter().flatten());
        let longest = all.map(|(seconds, _)| *seconds).fold(0.0, f64::max);
        let (unit, scale) = UNITS
            .into_iter()
            .find(|(_, unit)| longest >= 2.0 * unit)
            .unwrap_or(("seconds", 1.0));
        let x = Axis::within(0.0, longest / scale, frame.ticks);
        let y = Axis::around([0.0, self.budget as f64], 4);
        let place = |(seconds, left): &(f64, f64)| {
            format!("{},{}", px(frame.x(x.at(seconds / scale))), px(frame.y(y.at(*left))))
        };
        let line = |points: &[(f64, f64)]| points.iter().map(place).collect::<Vec<_>>().join(" ");
        html! {
            svg.(class) viewBox=(frame.view_box()) role="img" aria-label=(self.describe()) {
                @for tick in &y.ticks { (frame.row(frame.y(y.at(*tick)), &tidy(*tick))) }
                (frame.base(&format!("{unit} since the start")))
                @for tick in &x.ticks { (frame.column(frame.x(x.at(*tick)), &tidy(*tick))) }
                g.burnt { polyline points=(line(&self.points)) {} }
                @if let Some(ahead) = &self.ahead { g.ahead { polyline points=(line(ahead)) {} } }
            }
        }
    }

    fn describe(&self) -> String {
        let left = self.points.last().map_or(0.0, |(_, left)| *left);
        format!(
            "Queries left against time: {} of {}",
            count(left as u64),
            count(self.budget)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn the_line_ends_at_what_is_left_and_the_dashes_at_the_projected_end() {
        let summary = example::summary();
        let last = summary.budget.history.last().expect("points");
        let end = Projection {
            end_unix_ms: last.unix_ms + 600_000,
            billed: 50_500,
        };
        let text = chart(&summary, Some(end)).into_string();
        assert!(
            text.contains("class=\"ahead\"") && text.contains("minutes since the start"),
            "{text}"
        );
        // Nothing left is the base line of the wide frame, at its right end.
        assert!(text.contains("624,176\""), "{text}");
        assert!(!chart(&summary, None).into_string().contains("ahead"));
    }

    #[test]
    fn nothing_is_drawn_of_a_single_moment() {
        let mut summary = example::summary();
        summary.budget.history.truncate(1);
        assert_eq!(chart(&summary, None).into_string(), "");
    }
}
