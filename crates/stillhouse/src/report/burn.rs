//! What was billed when: a few hundred points, however long a job lasts.

use super::summary::Spending;

/// Points that are kept at most.
pub const POINTS: usize = 240;

/// What was billed when, in order of time. A stretch in which nothing is billed is two points.
#[derive(Clone, Debug, Default)]
pub struct Burn {
    points: Vec<Spending>,
}

impl Burn {
    /// Goes on after what an earlier life of the job has seen.
    #[must_use]
    pub fn resume(points: Vec<Spending>) -> Self {
        let mut burn = Self { points };
        burn.thin();
        burn
    }

    /// `billed` queries at `unix_ms`, which is not before any that was told already.
    pub fn add(&mut self, unix_ms: u64, billed: u64) {
        let is_flat = matches!(self.points[..], [.., a, b] if a.billed == billed && b.billed == billed);
        if is_flat {
            self.points.pop();
        }
        self.points.push(Spending { unix_ms, billed });
        self.thin();
    }

    /// The points.
    #[must_use]
    pub fn points(&self) -> &[Spending] {
        &self.points
    }

    /// Drops every second point but the first and the last when there are too many.
    fn thin(&mut self) {
        while self.points.len() > POINTS {
            let last = self.points.len() - 1;
            let mut at = 0..;
            self.points
                .retain(|_| at.next().is_some_and(|at| at % 2 == 0 || at == last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_job_keeps_its_ends_and_few_points_between() {
        let mut burn = Burn::default();
        for second in 0..10_000 {
            burn.add(second * 1_000, second / 7);
        }
        let points = burn.points();
        assert!((POINTS / 3..=POINTS).contains(&points.len()), "{}", points.len());
        assert_eq!(points[0].unix_ms, 0);
        assert_eq!(
            points[points.len() - 1],
            Spending {
                unix_ms: 9_999_000,
                billed: 1_428
            }
        );
        assert!(points.is_sorted_by_key(|point| (point.unix_ms, point.billed)));
    }

    #[test]
    fn a_stretch_without_queries_is_two_points() {
        let mut burn = Burn::resume(vec![Spending { unix_ms: 0, billed: 5 }]);
        for second in 1..100 {
            burn.add(second, 5);
        }
        burn.add(100, 6);
        let told: Vec<(u64, u64)> = burn
            .points()
            .iter()
            .map(|point| (point.unix_ms, point.billed))
            .collect();
        assert_eq!(told, [(0, 5), (99, 5), (100, 6)]);
    }
}
