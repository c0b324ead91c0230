//! Frames, axes and ticks of the charts. Coordinates are SVG user units, origin top left.

use maud::{Markup, html};

use crate::report::number::compact;

/// Ticks are at most this many, whatever the data.
const MAX_TICKS: usize = 12;

/// Where a chart's data area lies within its picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// Ticks of the horizontal axis, about.
    pub(super) ticks: usize,
}

impl Frame {
    /// Horizontal position of `at` (0 to 1) of the data area.
    pub(super) fn x(self, at: f64) -> f64 {
        self.left + at * (self.width - self.left - self.right)
    }

    /// Vertical position of `at` (0 to 1, upwards) of the data area.
    pub(super) fn y(self, at: f64) -> f64 {
        self.height - self.bottom - at * (self.height - self.top - self.bottom)
    }

    pub(super) fn view_box(self) -> String {
        format!("0 0 {} {}", px(self.width), px(self.height))
    }

    /// A horizontal gridline with its label at the left.
    pub(super) fn row(self, y: f64, label: &str) -> Markup {
        html! {
            line.grid x1=(px(self.left)) x2=(px(self.x(1.0))) y1=(px(y)) y2=(px(y)) {}
            text.tick x=(px(self.left - 8.0)) y=(px(y + 4.0)) text-anchor="end" { (label) }
        }
    }

    /// A tick of the horizontal axis.
    pub(super) fn column(self, x: f64, label: &str) -> Markup {
        let base = self.y(0.0);
        html! {
            line.axis x1=(px(x)) x2=(px(x)) y1=(px(base)) y2=(px(base + 4.0)) {}
            text.tick x=(px(x)) y=(px(base + 18.0)) text-anchor="middle" { (label) }
        }
    }

    /// The horizontal axis and its name.
    pub(super) fn base(self, name: &str) -> Markup {
        let base = self.y(0.0);
        html! {
            line.axis x1=(px(self.left)) x2=(px(self.x(1.0))) y1=(px(base)) y2=(px(base)) {}
            text.name x=(px(self.x(0.5))) y=(px(self.height - 4.0)) text-anchor="middle" { (name) }
        }
    }
}

/// A linear axis over `low..=high`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis from round number to round number around the finite ones of `values`, with about
    /// `about` ticks. Without any, or with a single value, it still has a width.
    pub(super) fn around(values: impl IntoIterator<Item = f64>, about: usize) -> Self {
        let (low, high) = extent(values);
        let step = round_step((high - low) / about.max(1) as f64);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        Self {
            low: first * step,
            high: last * step,
            ticks: multiples(first, last, step),
        }
    }

    /// An axis over exactly `low..=high` with round ticks inside.
    pub(super) fn within(low: f64, high: f64, about: usize) -> Self {
        let (low, high) = extent([low, high]);
        let step = round_step((high - low) / about.max(1) as f64);
        let ticks = multiples((low / step - 1e-9).ceil(), (high / step + 1e-9).floor(), step);
        Self { low, high, ticks }
    }

    /// Position of `value`, 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

fn extent(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values
        .into_iter()
        .filter(|value| value.is_finite() && value.abs() < 1e15);
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = finite.fold(start, |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let least = low.abs().max(high.abs()).max(1e-6) * 1e-6;
    if high - low < least {
        (low - least, high + least)
    } else {
        (low, high)
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let next = steps.into_iter().find(|round| round * power >= step * 0.999);
    next.unwrap_or(10.0) * power
}

fn multiples(first: f64, last: f64, step: f64) -> Vec<f64> {
    let count = ((last - first).max(0.0) as usize).min(MAX_TICKS);
    (0..=count).map(|tick| (first + tick as f64) * step).collect()
}

/// A coordinate, to a tenth.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// A tick without the zeros that say nothing: `0`, `500`, `10 k`, `2.5 M`.
pub(super) fn tidy(value: f64) -> String {
    let text = compact(value);
    let (digits, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    format!("{digits} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers_around_the_data() {
        let axis = Axis::around([0.9602, 0.9915], 4);
        assert!(
            (axis.low - 0.96).abs() < 1e-9 && (axis.high - 1.0).abs() < 1e-9,
            "{axis:?}"
        );
        assert_eq!(axis.ticks.len(), 5);
        let queries = Axis::within(0.0, 26_000.0, 5);
        assert_eq!((queries.low, queries.high), (0.0, 26_000.0));
        assert_eq!(queries.ticks, [0.0, 10_000.0, 20_000.0]);
    }

    #[test]
    fn any_data_gives_an_axis_with_a_width_and_few_ticks() {
        let hostile = [
            vec![],
            vec![f64::NAN],
            vec![0.0],
            vec![0.99; 3],
            vec![-1e300, 1e300],
            vec![1e-300, 2e-300],
            vec![0.0, 1e14],
        ];
        for values in hostile {
            for axis in [
                Axis::around(values.clone(), 5),
                Axis::within(0.0, values.first().copied().unwrap_or(0.0), 5),
            ] {
                assert!(axis.high > axis.low, "{values:?} {axis:?}");
                assert!((1..=MAX_TICKS + 1).contains(&axis.ticks.len()), "{values:?} {axis:?}");
                assert!(axis.at(f64::NAN).is_nan() || axis.at(1e300) <= 1.0);
            }
        }
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!([px(1.0), px(1.26), px(-0.5)], ["1", "1.3", "-0.5"]);
    }
}
