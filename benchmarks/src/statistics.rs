//! Medians of interleaved runs, and means over seeds.

use std::fmt;

use serde::Serialize;

/// Runs every contestant in turn, `repetitions` times, so that a drift of the machine meets all of
/// them alike. Returns the results of each contestant in order.
pub(crate) fn interleaved<T>(
    repetitions: usize,
    contestants: &mut [&mut dyn FnMut() -> anyhow::Result<T>],
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut results: Vec<Vec<T>> = contestants.iter().map(|_| Vec::with_capacity(repetitions)).collect();
    for _ in 0..repetitions {
        for (contestant, results) in contestants.iter_mut().zip(&mut results) {
            results.push(contestant()?);
        }
    }
    Ok(results)
}

/// Median and ends of a few figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without a figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self {
            median: (low + high) / 2.0,
            min,
            max,
        })
    }

    /// Of `ours[i] / theirs[i]`: each ratio is of two runs side by side.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }

    /// `6.81 (6.70 to 6.95)`.
    pub(crate) fn as_ratio(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }
}

/// Two-sided 95 % quantiles of Student's t distribution for 1 to 30 degrees of freedom.
/// Source: NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mean {
    /// The arithmetic mean.
    pub(crate) mean: f64,
    /// Half the width of the 95 % t interval; `null` for a single figure.
    pub(crate) half_width: Option<f64>,
}

impl Mean {
    /// `None` without a figure.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let n = figures.len() as f64;
        let degrees = figures.len().checked_sub(1)?;
        let mean = figures.iter().sum::<f64>() / n;
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        let half_width = (degrees > 0).then(|| {
            // Beyond the table its last entry is a little too wide, never too narrow.
            let t = T_95[degrees.min(T_95.len()) - 1];
            t * (squares / degrees as f64 / n).sqrt()
        });
        Some(Self { mean, half_width })
    }
}

impl fmt::Display for Mean {
    /// `99.12 ± 0.08`, with a sign when `{:+}` asks for one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.sign_plus() {
            write!(f, "{:+.2}", self.mean)?;
        } else {
            write!(f, "{:.2}", self.mean)?;
        }
        match self.half_width {
            Some(half_width) => write!(f, " ± {half_width:.2}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let note = |name| {
            order.borrow_mut().push(name);
            Ok(order.borrow().len())
        };
        let results = interleaved(2, &mut [&mut || note('a'), &mut || note('b')]).unwrap();
        assert_eq!(order.take(), "abab");
        assert_eq!(results, [[1, 3], [2, 4]]);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(
            of(&[3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            })
        );
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_runs_side_by_side() {
        // The machine became twice as slow after the first pair.
        let ratios = Spread::of_ratios(&[200.0, 100.0, 100.0], &[50.0, 25.0, 25.0]).unwrap();
        assert_eq!(ratios.as_ratio(), "4.00 (4.00 to 4.00)");
    }

    #[test]
    fn an_interval_is_students_with_n_minus_one_degrees() {
        // Mean 3, standard deviation 1, standard error 1/sqrt(3), t(2) = 4.303.
        let mean = Mean::of(&[2.0, 3.0, 4.0]).unwrap();
        assert!((mean.half_width.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(mean.to_string(), "3.00 ± 2.48");
        assert_eq!(format!("{mean:+}"), "+3.00 ± 2.48");
        assert_eq!(Mean::of(&[1.5]).unwrap().to_string(), "1.50");
        assert_eq!(Mean::of(&[]), None);
        assert!(Mean::of(&[1.0, 2.0].repeat(40)).unwrap().half_width.is_some());
    }
}
