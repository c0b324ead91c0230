//! Accuracy against queries, as a picture.

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use super::studies::STUDIES;
use crate::mnist::runs::Runs;
use crate::statistics::Mean;

const SIZE: (u32, u32) = (820, 460);
const TEXT: (&str, u32) = ("sans-serif", 16);
/// Told apart by colour-blind people, and dark enough on white. Source: Okabe and Ito, Color Universal Design (2008).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
/// Below it methods cannot be told from each other above it.
const FLOOR: f64 = 95.0;

/// A method's mean last accuracy by queries, with half the width of its 95 % interval.
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64, f64)>,
}

/// All methods that were run.
pub(super) fn svg(runs: &Runs) -> anyhow::Result<String> {
    let curves = curves(runs);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = points().map(|(queries, ..)| *queries).fold(1.0, f64::max);
    let ends = |sign: f64| points().map(move |(_, mean, half)| mean + sign * half);
    let low = ends(-1.0).fold(100.0, f64::min).max(FLOOR).floor();
    let high = ends(1.0).fold(low + 0.5, f64::max).min(100.0);
    let mut out = String::new();
    draw(&mut out, &curves, most, (low, high))
        .map_err(|error| anyhow!("{error}"))
        .context("cannot draw")?;
    Ok(out)
}

fn curves(runs: &Runs) -> Vec<Curve> {
    let mut curves = Vec::new();
    for study in &STUDIES {
        for method in study.methods {
            let found = runs.of(study.name, method.name);
            let Some((_, first)) = found.first() else { continue };
            let at = |round: usize| {
                let of_seeds: Vec<f64> = found
                    .iter()
                    .filter_map(|(_, rounds)| Some(rounds.get(round)?.last))
                    .collect();
                let Mean { mean, half_width } = Mean::of(&of_seeds)?;
                Some((first[round].queries as f64, mean, half_width.unwrap_or(0.0)))
            };
            curves.push(Curve {
                name: method.name,
                points: (0..first.len()).filter_map(at).collect(),
            });
        }
    }
    curves
}

type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(out: &'a mut String, curves: &[Curve], most: f64, (low, high): (f64, f64)) -> Result<(), DrawError<'a>> {
    let area = SVGBackend::with_string(out, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..most * 1.04, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(TEXT)
        .axis_desc_style(TEXT)
        .x_desc("queries, seed images included")
        .y_desc("test accuracy after the last epoch, %")
        .x_label_formatter(&|queries| format!("{queries:.0}"))
        .y_label_formatter(&|percent| format!("{percent:.1}"))
        .draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let color = COLORS[at % COLORS.len()];
        let line = curve.points.iter().map(|(queries, mean, _)| (*queries, *mean));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(curve.name.replace('`', ""))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        // Beside each other, or they would hide each other.
        let aside = most * 0.003 * at as f64;
        let bar = |&(queries, mean, half): &(f64, f64, f64)| {
            ErrorBar::new_vertical(queries + aside, mean - half, mean, mean + half, color.filled(), 4)
        };
        chart.draw_series(curve.points.iter().map(bar))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(TEXT)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mnist::runs::{Point, Run, Student};

    #[test]
    fn every_method_that_was_run_is_drawn_and_named() {
        let point = |round: u32, last| Point {
            round,
            queries: 2_000 + 24_000 * u64::from(round),
            last,
            best: None,
            agreement: None,
        };
        let mut runs = Runs::default();
        for seed in 0..2 {
            runs.put(Run {
                study: "fs-bbt".to_owned(),
                seed,
                machine: String::new(),
                students: vec![Student {
                    method: "FS-BBT".to_owned(),
                    rounds: vec![point(0, 97.0), point(1, 98.5 + seed as f64 / 10.0)],
                }],
            });
        }
        let picture = svg(&runs).unwrap();
        assert!(
            picture.contains("FS-BBT") && picture.trim_end().ends_with("</svg>"),
            "{picture}"
        );
        assert!(picture.matches("<polyline").count() >= 1, "{picture}");
        let empty = svg(&Runs::default()).unwrap();
        assert!(!empty.contains("FS-BBT"));
    }
}
