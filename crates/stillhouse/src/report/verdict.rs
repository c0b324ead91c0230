//! The student against the random control at equal queries.

use stillhouse_core::guard::Verdict;

use super::number::{count, counted};
use super::summary::{ArmSummary, ComparisonSummary, RoundSummary, Summary};

/// Both students after as many queries each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing<'a> {
    /// Queries of each student, seed images included.
    pub queries: u64,
    /// The active student's round.
    pub active: &'a RoundSummary,
    /// The control's round.
    pub control: &'a RoundSummary,
    /// Accuracy after the last epoch, active minus control, as a fraction of 1.
    pub accuracy: Option<f64>,
    /// Agreement, active minus control, as a fraction of 1.
    pub agreement: Option<f64>,
}

/// Compares the latest rounds in which both students had asked the same number of queries.
/// `None` without a control, or before it has finished a round.
#[must_use]
pub fn verdict(summary: &Summary) -> Option<Standing<'_>> {
    let control = summary.control.as_ref()?;
    let rounds = summary.active.rounds.iter().rev();
    let (active, control) = rounds.filter_map(|a| Some((a, twin(control, a)?))).next()?;
    let last = |round: &RoundSummary| round.accuracy.map(|accuracy| accuracy.last);
    Some(Standing {
        queries: active.queries_total,
        active,
        control,
        accuracy: difference(last(active), last(control)),
        agreement: difference(active.agreement, control.agreement),
    })
}

/// The round of `control` after as many queries as `round`.
#[must_use]
pub fn twin<'a>(control: &'a ArmSummary, round: &RoundSummary) -> Option<&'a RoundSummary> {
    let same = |other: &&RoundSummary| other.queries_total == round.queries_total && other.round == round.round;
    control.rounds.iter().find(same)
}

/// `ours - theirs` where both are known.
#[must_use]
pub fn difference(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? - theirs?)
}

/// Half the width of a 95 % interval of a fraction measured on `images` images (normal
/// approximation of the binomial); `None` when nothing was measured.
#[must_use]
pub fn half_width(fraction: f64, images: u32) -> Option<f64> {
    let variance = fraction * (1.0 - fraction) / f64::from(images);
    (images > 0 && variance >= 0.0).then(|| 1.96 * variance.sqrt())
}

/// What the guard found, as a sentence.
#[must_use]
pub fn comparison_words(found: &ComparisonSummary) -> String {
    let ComparisonSummary { active, random, .. } = found;
    if found.images == 0 {
        return "The guard tells nothing: the short trainings that it compares did not learn; spec.training.epochs is too small \
                for a quarter of them, or the learning rate too high."
            .to_owned();
    }
    let images = counted(found.images, "seed image", "seed images");
    let (active, random) = (count(*active), count(*random));
    let figures =
        format!("of {images} that were kept back, as many chosen queries explain {active} and random ones {random}");
    match (found.verdict, found.shifts) {
        (Verdict::Pays, _) => format!("Active selection pays: {figures}."),
        (Verdict::Undecided, _) => format!("Whether active selection pays is undecided: {figures}."),
        (Verdict::Harms, true) => format!("Active selection harms, and batches are mostly drawn at random: {figures}."),
        (Verdict::Harms, false) => {
            format!("Active selection harms: {figures}. Set acquisition.guard.shift, or score: random.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn students_are_compared_at_equal_queries() {
        let mut summary = example::summary();
        let last = verdict(&summary).expect("a control");
        assert_eq!(last.queries, 26_000);
        assert_eq!(last.accuracy, Some(0.9915 - 0.9884));
        if let Some(control) = &mut summary.control {
            control.rounds.pop();
        }
        let earlier = verdict(&summary).expect("a control");
        assert_eq!((earlier.queries, earlier.active.round), (20_000, 3));
        summary.control = None;
        assert_eq!(verdict(&summary), None);
    }

    #[test]
    fn the_guards_finding_is_a_sentence_with_its_figures() {
        let found = |verdict, shifts| ComparisonSummary {
            verdict,
            images: 1_600,
            active: 1_520,
            random: 1_498,
            deviations: 1.8,
            shifts,
        };
        let pays = comparison_words(&found(Verdict::Pays, false));
        assert_eq!(
            pays,
            "Active selection pays: of 1,600 seed images that were kept back, as many chosen queries explain 1,520 and random \
             ones 1,498."
        );
        assert!(comparison_words(&found(Verdict::Harms, true)).contains("mostly drawn at random"));
        assert!(comparison_words(&found(Verdict::Harms, false)).contains("acquisition.guard.shift"));
        assert!(comparison_words(&found(Verdict::Undecided, true)).contains("undecided"));
        let nothing = ComparisonSummary {
            images: 0,
            active: 0,
            random: 0,
            ..found(Verdict::Undecided, true)
        };
        assert!(comparison_words(&nothing).contains("did not learn"));
    }

    #[test]
    fn an_interval_narrows_with_the_number_of_images() {
        let wide = half_width(0.9, 100).expect("measured");
        assert!((wide - 0.0588).abs() < 1e-6);
        assert!(half_width(0.9, 10_000).expect("measured") < wide / 9.0);
        assert_eq!(half_width(0.9, 0), None);
        assert_eq!(half_width(1.5, 10), None);
    }
}
