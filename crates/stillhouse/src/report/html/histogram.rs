//! How many pairs of the pool have which score, and where the cut lies.

use maud::{Markup, html};
use stillhouse_core::Acquisition;
use stillhouse_core::selection::Histogram;

use super::plot::{Axis, Frame, px};
use crate::report::number::{compact, count, score};

const WIDE: Frame = Frame {
    width: 640.0,
    height: 240.0,
    left: 48.0,
    right: 12.0,
    top: 26.0,
    bottom: 46.0,
    ticks: 9,
};
const NARROW: Frame = Frame {
    width: 350.0,
    height: 220.0,
    left: 44.0,
    right: 8.0,
    ticks: 5,
    ..WIDE
};

/// More bins than this are not drawn: they would be thinner than a line.
const MAX_BINS: usize = 500;

/// The chart of one round; nothing when the histogram is empty or makes no sense.
pub(super) fn histogram(histogram: &Histogram, cut: Option<f32>, acquisition: Acquisition) -> Option<Markup> {
    let sensible = histogram.low < histogram.high && (1..=MAX_BINS).contains(&histogram.counts.len());
    let max = histogram.counts.iter().copied().max().unwrap_or(0);
    (sensible && max > 0).then(|| {
        let chart = Chart {
            histogram,
            cut: cut.filter(|cut| cut.is_finite()).map(f64::from),
            name: axis_name(acquisition),
            decades: ((max as f64 + 1.0).log10().ceil() as i32).max(1),
        };
        html! { (chart.svg(WIDE, "wide")) (chart.svg(NARROW, "narrow")) }
    })
}

fn axis_name(acquisition: Acquisition) -> &'static str {
    match acquisition {
        Acquisition::LeastConfidence => "highest class probability at the best mixing weight",
        Acquisition::Margin => "margin between the two best classes",
        Acquisition::Entropy => "negative entropy in nats",
        Acquisition::Bald => "negative disagreement of the branches in nats",
        Acquisition::Random => "score",
    }
}

struct Chart<'a> {
    histogram: &'a Histogram,
    cut: Option<f64>,
    name: &'static str,
    /// Powers of ten of the vertical axis.
    decades: i32,
}

impl Chart<'_> {
    fn svg(&self, frame: Frame, class: &str) -> Markup {
        let (low, high) = (f64::from(self.histogram.low), f64::from(self.histogram.high));
        let x = Axis::within(low, high, frame.ticks);
        let cut = self.cut.map_or(low, |cut| cut.clamp(low, high));
        html! {
            svg.(class) viewBox=(frame.view_box()) role="img" aria-label=(self.describe()) {
                @for (height, label) in self.rows() { (frame.row(frame.y(height), &label)) }
                path.rest d=(self.bars(frame, &x, cut, high)) {}
                path.chosen d=(self.bars(frame, &x, low, cut)) {}
                (frame.base(self.name))
                @for tick in &x.ticks { (frame.column(frame.x(x.at(*tick)), &short(*tick))) }
                @if let Some(value) = self.cut { (mark(frame, frame.x(x.at(cut)), value)) }
            }
        }
    }

    /// Gridlines of the logarithmic axis: none, one, ten, ... at most about six of them.
    fn rows(&self) -> Vec<(f64, String)> {
        let every = (self.decades / 6 + 1) as usize;
        let powers = (0..=self.decades).step_by(every);
        let row = |power: i32| {
            let pairs = 10_f64.powi(power);
            let label = compact(pairs).replace(".00", "").replace(".0", "");
            (self.height(pairs as u64), label)
        };
        std::iter::once((0.0, "0".to_owned()))
            .chain(powers.skip(1).map(row))
            .collect()
    }

    /// Height of a bar, 0 to 1: the logarithm of 1 + `pairs`, so that none is no height.
    fn height(&self, pairs: u64) -> f64 {
        ((pairs as f64 + 1.0).log10() / f64::from(self.decades)).min(1.0)
    }

    /// The parts of the bars between the scores `from` and `to`, as one path.
    fn bars(&self, frame: Frame, x: &Axis, from: f64, to: f64) -> String {
        let bins = self.histogram.counts.len() as f64;
        let edge = |bin: usize| x.low + (x.high - x.low) * bin as f64 / bins;
        let base = frame.y(0.0);
        let bars = self.histogram.counts.iter().enumerate().filter_map(|(bin, pairs)| {
            let (left, right) = (edge(bin).max(from), edge(bin + 1).min(to));
            let (left, right) = (frame.x(x.at(left)), frame.x(x.at(right)));
            let top = frame.y(self.height(*pairs));
            (*pairs > 0 && right > left)
                .then(|| format!("M{} {}V{}H{}V{}Z", px(left), px(base), px(top), px(right), px(base)))
        });
        bars.collect()
    }

    fn describe(&self) -> String {
        let total = count(self.histogram.total());
        let cut = self.cut.map(|cut| format!("; the cut is at {}", score(cut as f32)));
        format!("Scores of {total} pairs{}", cut.unwrap_or_default())
    }
}

/// The cut: a line and its value, on the side where there is room.
fn mark(frame: Frame, x: f64, cut: f64) -> Markup {
    let left = x > frame.x(0.6);
    let (anchor, shift) = if left { ("end", -7.0) } else { ("start", 7.0) };
    html! {
        line.cut x1=(px(x)) x2=(px(x)) y1=(px(frame.top - 14.0)) y2=(px(frame.y(0.0))) {}
        text.cut x=(px(x + shift)) y=(px(frame.top - 5.0)) text-anchor=(anchor) { "cut " (score(cut as f32)) }
    }
}

/// A tick without the zeros that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.2}").replace('-', "\u{2212}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(low: f32, high: f32, counts: Vec<u64>) -> Histogram {
        Histogram { low, high, counts }
    }

    fn draw(bins: &Histogram, cut: Option<f32>) -> Option<String> {
        histogram(bins, cut, Acquisition::LeastConfidence).map(Markup::into_string)
    }

    #[test]
    fn a_histogram_without_pairs_or_width_is_not_drawn() {
        assert!(draw(&bins(0.1, 1.0, vec![0; 10]), None).is_none());
        assert!(draw(&bins(1.0, 0.1, vec![1; 10]), None).is_none());
        assert!(draw(&bins(0.1, 1.0, vec![]), None).is_none());
        assert!(draw(&bins(0.1, 1.0, vec![1; MAX_BINS + 1]), None).is_none());
    }

    #[test]
    fn the_bin_of_the_cut_is_split_there() {
        let histogram = bins(0.0, 1.0, vec![9, 9]);
        let svg = draw(&histogram, Some(0.25)).expect("pairs");
        // The data area of the wide chart reaches from 48 to 628; a quarter of it ends at 193.
        assert!(svg.contains(r#"class="chosen" d="M48 194V26H193V194Z""#), "{svg}");
        assert!(svg.contains(r#"class="rest" d="M193 194V26H338V194ZM338 194"#), "{svg}");
    }

    #[test]
    fn hostile_counts_and_cuts_stay_inside_the_frame() {
        let svg = draw(&bins(0.0, 1.0, vec![u64::MAX, 0, 1]), Some(f32::INFINITY)).expect("pairs");
        assert!(
            !svg.contains("inf") && !svg.contains("NaN") && !svg.contains("V-"),
            "{svg}"
        );
    }
}
