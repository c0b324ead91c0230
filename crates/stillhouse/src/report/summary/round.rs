//! The part of a summary that is about one student and its rounds.

use serde::{Deserialize, Serialize};
use stillhouse_core::selection::Histogram;
use stillhouse_core::{Candidate, Pool, SoftLabel};

/// The hardest candidates of each round that a summary names.
pub const HARDEST: usize = 24;

/// Classes that a summary names of each of the teacher's answers.
const TOP_CLASSES: usize = 3;

/// One student and what was bought for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmSummary {
    /// Candidates billed for this student; one that both students chose is billed once, to the
    /// first that asked.
    pub billed_synthetic: u64,
    /// Seed images and candidates asked for this student, billed or known.
    pub queries: u64,
    /// Accuracy of the latest round.
    pub accuracy: Option<Accuracy>,
    /// Agreement of the latest round.
    pub agreement: Option<f64>,
    /// Rounds in order. The first, round 0, trains on the seed images alone.
    pub rounds: Vec<RoundSummary>,
}

/// Test accuracy of one training, as fractions of 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accuracy {
    /// After the last epoch: what an honest experiment reports.
    pub last: f64,
    /// After the best epoch, chosen with the test labels.
    pub best: f64,
    /// That epoch, from 1.
    pub best_epoch: u32,
}

/// One round of one student: select, query, train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundSummary {
    /// Its number; 0 trains on the seed images alone.
    pub round: u32,
    /// Queries of this student up to and with this round, seed images included.
    pub queries_total: u64,
    /// Size of the query batch.
    pub size: u64,
    /// Of those, drawn at random beside the chosen ones, for the guard.
    #[serde(default)]
    pub drawn: u64,
    /// BLAKE3 over the query batch in order, hexadecimal.
    pub digest: String,
    /// Score of the last candidate chosen; `null` without scoring.
    pub cut: Option<f32>,
    /// The same in the fast scan, before rescoring.
    pub approximate_cut: Option<f32>,
    /// The guard band that was rescored; `null` when the scan was exact.
    pub guard: Option<GuardSummary>,
    /// Candidates of the batch that have a label.
    pub labelled: u64,
    /// Candidates of the batch that stay without one.
    pub held: u64,
    /// Test accuracy; `null` without evaluation labels.
    pub accuracy: Option<Accuracy>,
    /// Fraction of the evaluation slice where student and teacher name the same class.
    pub agreement: Option<f64>,
    /// Mean loss of the last epoch, in nats.
    pub loss: Option<f64>,
    /// Best score of every pair; `null` without scoring.
    pub histogram: Option<Histogram>,
    /// Where the time went.
    pub timings: Timings,
    /// The candidates chosen first, at most [`HARDEST`].
    pub hardest: Vec<Hardest>,
}

/// The band around the cut that was rescored exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardSummary {
    /// Its width above the approximate cut, in score units.
    pub width: f32,
    /// The largest difference between a fast and an exact score, in score units.
    pub deviation: f32,
    /// Pairs rescored.
    pub rescored: u64,
}

/// Where the time of a round went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Scoring the pool.
    pub scan_seconds: f64,
    /// Rescoring the guard band.
    pub rescore_seconds: f64,
    /// Asking the teacher.
    pub query_seconds: f64,
    /// Training and evaluating the student.
    pub train_seconds: f64,
    /// Pairs times lambdas scored a second.
    pub candidates_per_second: Option<f64>,
    /// Queries answered a second.
    pub queries_per_second: Option<f64>,
}

impl Timings {
    /// Seconds of all stages.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.scan_seconds + self.rescore_seconds + self.query_seconds + self.train_seconds
    }
}

/// One of the candidates that the student was least sure of, and what the teacher said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hardest {
    /// Pair id in the pool.
    pub pair: u64,
    /// Which generated image it is; `null` for a mix.
    #[serde(default)]
    pub generated: Option<u32>,
    /// Seed image that lambda weighs; 0 for a generated image, as is `b`.
    pub a: u32,
    /// The other seed image.
    pub b: u32,
    /// Weight of `a`, 0 to 1.
    pub lambda: f32,
    /// The student's score before the round; `null` when it was drawn at random.
    pub score: Option<f32>,
    /// The teacher's class; `null` without a label.
    pub teacher_class: Option<u32>,
    /// Its most probable classes, at most three.
    pub teacher_top: Vec<ClassProbability>,
}

/// A class and how probable it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassProbability {
    /// The class, from 0.
    pub class: u32,
    /// Its probability.
    pub probability: f32,
}

impl Hardest {
    /// A candidate of `pool`, and the teacher's `label` when it has one; `None` when the pool does not offer it.
    #[must_use]
    pub fn new(pool: Pool, candidate: Candidate, score: Option<f32>, label: Option<&SoftLabel>) -> Option<Self> {
        let generated = pool.generated_at(candidate.pair);
        let (a, b) = match generated {
            Some(_) => (0, 0),
            None => pool.unrank(candidate.pair)?,
        };
        Some(Self {
            pair: candidate.pair.0,
            generated,
            a,
            b,
            lambda: candidate.lambda.as_f32(),
            score,
            teacher_class: label.map(|label| label.class() as u32),
            teacher_top: label.map(top_classes).unwrap_or_default(),
        })
    }
}

/// The most probable classes, first the likeliest; the lower of equals first.
fn top_classes(label: &SoftLabel) -> Vec<ClassProbability> {
    let classes = label.probabilities().iter().zip(0..);
    let mut all: Vec<ClassProbability> = classes
        .map(|(&probability, class)| ClassProbability { class, probability })
        .collect();
    all.sort_by(|x, y| y.probability.total_cmp(&x.probability));
    all.truncate(TOP_CLASSES);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teachers_answer_is_cut_to_its_likeliest_classes() {
        let label = SoftLabel::from_probabilities(vec![0.1, 0.4, 0.1, 0.4], 4).expect("sums to one");
        let classes: Vec<u32> = top_classes(&label).iter().map(|top| top.class).collect();
        assert_eq!(classes, [1, 3, 0]);
    }
}
