//! What a job's history says to its guard.

use stillhouse_core::guard::{Evidence, Twin, is_held_out};
use stillhouse_core::plan::Arm;
use stillhouse_core::sample::Sample;

use crate::history::{CompareOutcome, History, Student, Transition};

impl History {
    /// How a twin of a student did.
    #[must_use]
    pub fn compared(&self, of: Student, which: Twin) -> Option<&CompareOutcome> {
        self.transitions().iter().find_map(|t| match t {
            Transition::Compared { student, twin, outcome } if (*student, *twin) == (of, which) => Some(outcome),
            _ => None,
        })
    }

    /// What the guard found up to and with `round`; rounds in which a twin did not learn tell nothing.
    #[must_use]
    pub fn evidence(&self, round: u32) -> Evidence {
        let mut evidence = Evidence::default();
        let rounds = (1..=round).map(|round| Student::new(Arm::Active, round));
        for student in rounds.take_while(|student| self.selection(*student).is_some()) {
            let [random, active] = Twin::BOTH.map(|twin| self.compared(student, twin));
            if let (Some(random), Some(active)) = (random, active)
                && random.images == active.images
            {
                evidence.images += random.images;
                evidence.random += random.right;
                evidence.active += active.right;
            }
        }
        evidence
    }

    /// What a twin of `student` is trained on: the seed images that its round does not keep back, and of every round so far
    /// equally many candidates for either twin, spread over those that were chosen, or drawn.
    #[must_use]
    pub fn twin_set(&self, student: Student, twin: Twin, seeds: u32) -> Vec<Sample> {
        let seen = (0..seeds)
            .filter(|seed| !is_held_out(student.round, *seed))
            .map(Sample::Seed);
        let rounds = (1..=student.round).filter_map(|round| self.selection(Student::new(student.arm, round)));
        let candidates = rounds.flat_map(|selection| {
            let drawn = usize::try_from(selection.drawn)
                .unwrap_or(usize::MAX)
                .min(selection.batch.len());
            let (chosen, drawn) = selection.batch.split_at(selection.batch.len() - drawn);
            let count = chosen.len().min(drawn.len());
            let of = match twin {
                Twin::Active => chosen,
                Twin::Random => drawn,
            };
            (0..count).map(move |at| Sample::Mix(of[at * of.len() / count]))
        });
        seen.chain(candidates).collect()
    }
}
