//! Accuracy and agreement against queries, the active student beside the random control.

use maud::{Markup, html};
use stillhouse_core::plan::Arm;

use super::plot::{Axis, Frame, px, tidy};
use crate::report::number::{count, percent};
use crate::report::summary::{ArmSummary, RoundSummary, Summary};

const WIDE: Frame = Frame {
    width: 520.0,
    height: 320.0,
    left: 52.0,
    right: 100.0,
    top: 14.0,
    bottom: 44.0,
    ticks: 6,
};
const NARROW: Frame = Frame {
    width: 350.0,
    height: 280.0,
    left: 46.0,
    right: 88.0,
    ticks: 3,
    ..WIDE
};

/// Least distance of a value from the ends of its axis: a single one is not told in thousandths of a point.
const LEAST_SPREAD: f64 = 0.001;
/// Least distance between two labels, in user units.
const LABEL_GAP: f64 = 15.0;

/// Both charts.
pub(super) fn section(summary: &Summary) -> Markup {
    let accuracy = |round: &RoundSummary| round.accuracy.map(|accuracy| accuracy.last);
    let best = |round: &RoundSummary| round.accuracy.map(|accuracy| accuracy.best);
    let agreement = |round: &RoundSummary| round.agreement;
    let accuracy = Chart {
        name: "Test accuracy",
        lines: [lines(summary, "best", best), lines(summary, "last", accuracy)].concat(),
    };
    let agreement = Chart {
        name: "Agreement with the teacher",
        lines: lines(summary, "last", agreement),
    };
    html! {
        section aria-labelledby="curves" {
            h2 #curves { "What each query bought" }
            p.sub {
                "After the last epoch of every round. The thin line is the best epoch, which was chosen with the test labels: "
                "what could have been, not what can be had."
            }
            div.charts { (accuracy.figure(true)) (agreement.figure(false)) }
        }
    }
}

/// One line of a chart.
#[derive(Clone)]
struct Line {
    arm: Arm,
    kind: &'static str,
    points: Vec<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    round: u32,
    queries: f64,
    value: f64,
}

struct Chart {
    name: &'static str,
    lines: Vec<Line>,
}

/// The lines of `value` for each student that has any.
fn lines(summary: &Summary, kind: &'static str, value: impl Fn(&RoundSummary) -> Option<f64>) -> Vec<Line> {
    let line = |(arm, rounds): (Arm, &ArmSummary)| Line {
        arm,
        kind,
        points: rounds
            .rounds
            .iter()
            .filter_map(|round| {
                let value = value(round).filter(|value| value.is_finite())?;
                let queries = round.queries_total as f64;
                Some(Point {
                    round: round.round,
                    queries,
                    value,
                })
            })
            .collect(),
    };
    let all = summary.arms().map(line);
    all.filter(|line| !line.points.is_empty()).collect()
}

fn arm_name(arm: Arm) -> &'static str {
    match arm {
        Arm::Active => "active",
        Arm::Control => "random",
    }
}

impl Chart {
    fn figure(&self, best: bool) -> Markup {
        let control = self.lines.iter().any(|line| line.arm == Arm::Control);
        html! {
            figure.chart {
                figcaption {
                    h3 { (self.name) }
                    p.legend {
                        (key("active last", "active")) @if control { (key("control last", "random control")) }
                        @if best { (key("best", "best epoch")) }
                    }
                }
                @if self.lines.is_empty() {
                    p.empty { "Nothing measured yet." }
                } @else {
                    (self.svg(WIDE, "wide")) (self.svg(NARROW, "narrow"))
                }
            }
        }
    }

    fn svg(&self, frame: Frame, class: &str) -> Markup {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::within(0.0, points().map(|p| p.queries).fold(1.0, f64::max), frame.ticks);
        let y = Axis::around(
            points().flat_map(|p| [p.value - LEAST_SPREAD, p.value + LEAST_SPREAD]),
            4,
        );
        html! {
            svg.(class) viewBox=(frame.view_box()) role="img" aria-label=(self.describe()) {
                @for tick in &y.ticks { (frame.row(frame.y(y.at(*tick)), &short_percent(*tick, &y))) }
                (frame.base("queries"))
                @for tick in &x.ticks { (frame.column(frame.x(x.at(*tick)), &tidy(*tick))) }
                @for line in &self.lines { (line.draw(frame, &x, &y)) }
                (labels(&self.lines, frame, &y))
            }
        }
    }

    fn describe(&self) -> String {
        let last = self.lines.iter().filter(|line| line.kind == "last");
        let ends = last.filter_map(|line| {
            let end = line.points.last()?;
            let queries = count(end.queries as u64);
            Some(format!(
                "{} {} at {queries} queries",
                arm_name(line.arm),
                percent(end.value)
            ))
        });
        format!("{} against queries: {}", self.name, ends.collect::<Vec<_>>().join(", "))
    }
}

impl Line {
    fn draw(&self, frame: Frame, x: &Axis, y: &Axis) -> Markup {
        let place = |p: &Point| (frame.x(x.at(p.queries)), frame.y(y.at(p.value)));
        let places: Vec<(f64, f64)> = self.points.iter().map(place).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{},{}", px(*x), px(*y))).collect();
        html! {
            g.{ (self.arm) " " (self.kind) } {
                polyline points=(path.join(" ")) {}
                @if self.kind == "last" {
                    @for (point, at) in self.points.iter().zip(&places) { (self.mark(point, *at)) }
                }
            }
        }
    }

    fn mark(&self, point: &Point, (x, y): (f64, f64)) -> Markup {
        let queries = count(point.queries as u64);
        let round = point.round;
        html! {
            g.point {
                title { (arm_name(self.arm)) ", round " (round) ": " (percent(point.value)) " at " (queries) " queries" }
                circle.hit cx=(px(x)) cy=(px(y)) r="13" {}
                @match self.arm {
                    Arm::Active => { circle.dot cx=(px(x)) cy=(px(y)) r="4" {} }
                    Arm::Control => { rect.dot x=(px(x - 3.5)) y=(px(y - 3.5)) width="7" height="7" {} }
                }
            }
        }
    }
}

/// Names and last values at the right end of the lines, moved apart where they would touch.
fn labels(lines: &[Line], frame: Frame, y: &Axis) -> Markup {
    let last = lines.iter().filter(|line| line.kind == "last");
    let mut ends: Vec<(f64, Arm, f64)> = last
        .filter_map(|line| line.points.last().map(|p| (frame.y(y.at(p.value)), line.arm, p.value)))
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let [(upper, ..), (lower, ..)] = ends.as_mut_slice() {
        let overlap = (LABEL_GAP - (*lower - *upper)).max(0.0);
        *upper -= overlap / 2.0;
        *lower += overlap / 2.0;
    }
    let x = px(frame.x(1.0) + 10.0);
    html! {
        @for (y, arm, value) in ends {
            text.{ "end " (arm) } x=(x) y=(px(y + 4.0)) { (arm_name(arm)) tspan.strong dx="5" { (format!("{:.2}", value * 100.0)) } }
        }
    }
}

/// A key of a legend: a sample of the line, and what it is.
fn key(class: &str, name: &str) -> Markup {
    html! {
        span.key {
            svg.sample viewBox="0 0 26 10" aria-hidden="true" {
                g.(class) {
                    polyline points="1,5 25,5" {}
                    @match class {
                        "active last" => { circle.dot cx="13" cy="5" r="4" {} }
                        "control last" => { rect.dot x="9.5" y="1.5" width="7" height="7" {} }
                        _ => {}
                    }
                }
            }
            (name)
        }
    }
}

/// A tick in percent with as many decimals as tell it from its neighbour.
fn short_percent(value: f64, axis: &Axis) -> String {
    let step = axis.ticks.windows(2).map(|w| w[1] - w[0]).next().unwrap_or(0.01) * 100.0;
    let places = (0..4).find(|places| {
        let scaled = step * 10_f64.powi(*places);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    format!("{:.*} %", places.unwrap_or(4) as usize, value * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_no_more_decimals_than_they_need() {
        let axis = Axis::around([0.96, 0.99], 4);
        assert_eq!(short_percent(0.97, &axis), "97 %");
        let axis = Axis::around([0.990, 0.992], 4);
        assert_eq!(short_percent(0.9905, &axis), "99.05 %");
        assert_eq!(
            [0.0, 500.0, 10_000.0, 2_500_000.0].map(tidy),
            ["0", "500", "10 k", "2.5 M"]
        );
    }
}
