//! What a job has durably done, and the one step that follows from it.
//!
//! A job is a fixed sequence: ask the seed images, generate images where the pool has such, train the first
//! student, then rounds of select, ask and train for each arm. Transitions are persisted in that order, so a restarted coordinator
//! goes on exactly where the last one was, and the next step is a function of the history alone.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use stillhouse_core::guard::Twin;
use stillhouse_core::plan::{Arm, Plan};
use stillhouse_core::pool::{Candidate, PairId};
use stillhouse_core::sample::Sample;
use stillhouse_core::selection::Histogram;

/// Names a trained student: what an arm knew after a round. Both arms share the student of round
/// 0, which saw the seed images only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Student {
    /// Whose.
    pub arm: Arm,
    /// After which round.
    pub round: u32,
}

impl Student {
    /// The student of `arm` after `round`; round 0 belongs to both and is named after `Active`.
    #[must_use]
    pub fn new(arm: Arm, round: u32) -> Self {
        let arm = if round == 0 { Arm::Active } else { arm };
        Self { arm, round }
    }
}

impl std::fmt::Display for Student {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:03}", self.arm, self.round)
    }
}

/// Something that happened for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Transition {
    /// A query batch was chosen; from here on it never changes.
    Selected {
        /// For whom, and in which round.
        student: Student,
        /// What was chosen.
        selection: Selection,
    },
    /// Every query of a batch was answered or given up; round 0 is seed and evaluation images.
    Asked {
        /// For whom, and in which round.
        student: Student,
        /// How it went.
        outcome: AskOutcome,
    },
    /// Images were generated and saved: from here on they are part of the pool and never change.
    Generated {
        /// What came of it.
        outcome: GenerateOutcome,
    },
    /// A student was trained and saved.
    Trained {
        /// Which.
        student: Student,
        /// How it did.
        outcome: TrainOutcome,
    },
    /// A twin was trained and thrown away, for the guard.
    Compared {
        /// After whose round.
        student: Student,
        /// Which.
        twin: Twin,
        /// How it did.
        outcome: CompareOutcome,
    },
    /// Nothing more will be asked.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// A query batch and how it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The batch, most wanted first.
    pub batch: Vec<Candidate>,
    /// Exact scores of the batch in the same order, without those that were drawn at random.
    pub scores: Vec<f32>,
    /// How many, at the end of the batch, were drawn at random beside the chosen ones, for the guard.
    #[serde(default)]
    pub drawn: u64,
    /// How the pool was scanned; `None` for random acquisition.
    pub scan: Option<ScanRecord>,
}

/// Figures of one scan of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanRecord {
    /// Exact score of the last winner.
    pub cut: f32,
    /// k-th best approximate score.
    pub approximate_cut: f32,
    /// Guard width that was enough.
    pub width: f32,
    /// Largest difference between approximate and exact score among rescored pairs.
    pub deviation: f32,
    /// Pairs rescored on their exact bytes.
    pub rescored: u64,
    /// Scans needed: more than one when the guard was too narrow at first.
    pub scans: u32,
    /// Approximate scores of every pair of the pool.
    pub histogram: Histogram,
    /// Milliseconds of calibrating and scanning.
    pub scan_ms: u64,
    /// Milliseconds of rescoring.
    pub rescore_ms: u64,
}

/// How a query batch was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskOutcome {
    /// Samples that have a label now.
    pub labelled: u64,
    /// Samples that were given up: in doubt, or answered with nonsense.
    pub held: u64,
    /// Milliseconds it took.
    pub millis: u64,
    /// The teacher's class of each seed image, where the choice depends on it and these were asked; `u32::MAX` of one
    /// without an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<u32>,
}

/// Images that a conditional VAE made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateOutcome {
    /// How many.
    pub images: u32,
    /// Digest of the images, hexadecimal.
    pub digest: String,
    /// Mean loss of the last epoch, a sample (nats): reconstruction and divergence.
    pub loss: f32,
    /// Milliseconds it took.
    pub millis: u64,
}

/// How a twin did on the seed images that were kept from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareOutcome {
    /// Seed images; none when it did not learn.
    pub images: u64,
    /// Of those, where it names the teacher's class.
    pub right: u64,
    /// Milliseconds it took.
    pub millis: u64,
}

/// How a training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// BLAKE3 of the weights, hexadecimal; equal on every rank.
    pub weights: String,
    /// Mean loss of the last epoch (nats).
    pub loss: f32,
    /// Measurements in order of epochs; the last is the last epoch.
    pub measurements: Vec<Measurement>,
    /// Optimiser steps.
    pub steps: u64,
    /// Trainable values of the student.
    pub parameters: u64,
    /// Milliseconds it took.
    pub millis: u64,
}

/// Counts on the evaluation images after some epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Epochs done.
    pub epoch: u32,
    /// Images whose true label is known.
    pub labelled: u64,
    /// Of those, predicted right.
    pub correct: u64,
    /// Images that the teacher labelled.
    pub asked: u64,
    /// Of those, predicted as the teacher does.
    pub agreed: u64,
}

impl Measurement {
    /// Accuracy in 0..=1, if any true label is known.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.labelled > 0).then(|| self.correct as f64 / self.labelled as f64)
    }

    /// Agreement with the teacher in 0..=1, if it labelled any.
    #[must_use]
    pub fn agreement(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.agreed as f64 / self.asked as f64)
    }
}

/// Why nothing more is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StopReason {
    /// The budget pays for no further round.
    BudgetSpent,
    /// Every candidate of the pool was asked.
    PoolExhausted,
    /// Agreement gained less than asked for.
    Converged {
        /// Points gained.
        gained: f64,
        /// Rounds looked back.
        rounds: u32,
    },
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::BudgetSpent => f.write_str("the budget pays for no further round"),
            StopReason::PoolExhausted => f.write_str("every candidate of the pool was asked"),
            StopReason::Converged { gained, rounds } => {
                write!(f, "agreement gained {gained:.2} points in {rounds} rounds")
            }
        }
    }
}

/// When agreement has converged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoppingRule {
    /// Percentage points that must be gained.
    pub gain: f64,
    /// Over so many rounds.
    pub rounds: u32,
}

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Choose `size` candidates for this student's round with the student of the round before.
    Select {
        /// For whom.
        student: Student,
        /// How many.
        size: u64,
    },
    /// Put these to the teacher.
    Ask {
        /// For whom.
        student: Student,
        /// What.
        samples: Vec<Sample>,
    },
    /// Make so many images for the pool.
    Generate {
        /// How many.
        images: u32,
    },
    /// Train on everything that the arm has labels for.
    Train {
        /// Which student.
        student: Student,
    },
    /// Train a twin of this student for the guard.
    Compare {
        /// After whose round.
        student: Student,
        /// Which.
        twin: Twin,
    },
    /// Write down that nothing more will be asked.
    Stop {
        /// Why.
        reason: StopReason,
    },
    /// Nothing.
    Done,
}

/// Every transition so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    transitions: Vec<Transition>,
}

impl History {
    /// The history made of `transitions`, oldest first.
    #[must_use]
    pub fn new(transitions: Vec<Transition>) -> Self {
        Self { transitions }
    }

    /// Adds what just became durable.
    pub fn push(&mut self, transition: Transition) {
        self.transitions.push(transition);
    }

    /// Everything, oldest first.
    #[must_use]
    pub fn transitions(&self) -> &[Transition] {
        &self.transitions
    }

    /// What was chosen for a student's round.
    #[must_use]
    pub fn selection(&self, of: Student) -> Option<&Selection> {
        self.transitions.iter().find_map(|t| match t {
            Transition::Selected { student, selection } if *student == of => Some(selection),
            _ => None,
        })
    }

    /// How a student's query batch was answered.
    #[must_use]
    pub fn asked(&self, of: Student) -> Option<&AskOutcome> {
        self.transitions.iter().find_map(|t| match t {
            Transition::Asked { student, outcome } if *student == of => Some(outcome),
            _ => None,
        })
    }

    /// The teacher's class of each seed image, where the choice depends on it.
    #[must_use]
    pub fn seed_classes(&self) -> &[u32] {
        self.asked(Student::new(Arm::Active, 0))
            .map_or(&[], |outcome| &outcome.classes)
    }

    /// What was generated for the pool.
    #[must_use]
    pub fn generated(&self) -> Option<&GenerateOutcome> {
        self.transitions.iter().find_map(|t| match t {
            Transition::Generated { outcome } => Some(outcome),
            _ => None,
        })
    }

    /// How a student's training went.
    #[must_use]
    pub fn trained(&self, of: Student) -> Option<&TrainOutcome> {
        self.transitions.iter().find_map(|t| match t {
            Transition::Trained { student, outcome } if *student == of => Some(outcome),
            _ => None,
        })
    }

    /// Why the job stopped, if it did.
    #[must_use]
    pub fn stopped(&self) -> Option<&StopReason> {
        self.transitions.iter().find_map(|t| match t {
            Transition::Stopped { reason } => Some(reason),
            _ => None,
        })
    }

    /// Candidates chosen for `arm` in rounds `1..=through`, in order.
    pub fn batches(&self, arm: Arm, through: u32) -> impl Iterator<Item = Candidate> + '_ {
        (1..=through)
            .filter_map(move |round| self.selection(Student::new(arm, round)))
            .flat_map(|selection| selection.batch.iter().copied())
    }

    /// Pairs already chosen for `arm` before `round`.
    #[must_use]
    pub fn asked_pairs(&self, arm: Arm, round: u32) -> HashSet<PairId> {
        self.batches(arm, round.saturating_sub(1)).map(|c| c.pair).collect()
    }

    /// What a student is trained on: all seed images, then its arm's batches in order.
    #[must_use]
    pub fn transfer_set(&self, student: Student, seeds: u32) -> Vec<Sample> {
        let mixes = self.batches(student.arm, student.round).map(Sample::Mix);
        (0..seeds).map(Sample::Seed).chain(mixes).collect()
    }

    /// The step that follows from this history.
    #[must_use]
    pub fn next_step(&self, plan: &Plan, arms: &[Arm], evaluation: &[u32], rule: Option<StoppingRule>) -> Step {
        let first = Student::new(Arm::Active, 0);
        if self.asked(first).is_none() {
            let held_out = evaluation.iter().copied().map(Sample::Evaluation);
            let samples = (0..plan.seeds).map(Sample::Seed).chain(held_out).collect();
            return Step::Ask {
                student: first,
                samples,
            };
        }
        if plan.generated > 0 && self.generated().is_none() {
            let images = plan.generated;
            return Step::Generate { images };
        }
        if self.trained(first).is_none() {
            return Step::Train { student: first };
        }
        if self.stopped().is_some() {
            return Step::Done;
        }
        let mut bought = 0;
        for round in 1.. {
            let chosen = self
                .selection(Student::new(Arm::Active, round))
                .map(|s| s.batch.len() as u64);
            let size = match chosen {
                Some(size) => size,
                None => match self.next_size(plan, bought, round, rule) {
                    Ok(size) => size,
                    Err(reason) => return Step::Stop { reason },
                },
            };
            bought += size;
            if let Some(step) = arms
                .iter()
                .find_map(|arm| self.step_of(Student::new(*arm, round), size))
            {
                return step;
            }
        }
        Step::Done
    }

    fn step_of(&self, student: Student, size: u64) -> Option<Step> {
        let Some(selection) = self.selection(student) else {
            return Some(Step::Select { student, size });
        };
        if self.asked(student).is_none() {
            let samples = selection.batch.iter().copied().map(Sample::Mix).collect();
            return Some(Step::Ask { student, samples });
        }
        if self.trained(student).is_none() {
            return Some(Step::Train { student });
        }
        // Where nothing was drawn for the guard there is nothing to compare.
        let mut twins = Twin::BOTH.into_iter().filter(|_| selection.drawn > 0);
        let twin = twins.find(|twin| self.compared(student, *twin).is_none())?;
        Some(Step::Compare { student, twin })
    }

    fn next_size(&self, plan: &Plan, bought: u64, round: u32, rule: Option<StoppingRule>) -> Result<u64, StopReason> {
        if let Some(reason) = rule.and_then(|rule| self.converged(rule, round - 1)) {
            return Err(reason);
        }
        plan.next_round(bought).ok_or(if bought >= plan.candidates() {
            StopReason::PoolExhausted
        } else {
            StopReason::BudgetSpent
        })
    }

    /// Whether agreement of the active arm gained too little in the rounds up to `round`.
    fn converged(&self, rule: StoppingRule, round: u32) -> Option<StopReason> {
        let agreement = |round: u32| {
            let outcome = self.trained(Student::new(Arm::Active, round))?;
            outcome.measurements.last()?.agreement()
        };
        let gained = 100.0 * (agreement(round)? - agreement(round.checked_sub(rule.rounds)?)?);
        (gained < rule.gain).then_some(StopReason::Converged {
            gained,
            rounds: rule.rounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            budget: 100,
            seeds: 10,
            evaluation: 0,
            arms: 1,
            per_round: 20,
            pairs: 45,
            generated: 0,
            scored: 45,
            lambdas: 1,
        }
    }

    fn trained(round: u32, agreed: u64) -> Transition {
        let measurement = Measurement {
            asked: 1_000,
            agreed,
            ..Measurement::default()
        };
        Transition::Trained {
            student: Student::new(Arm::Active, round),
            outcome: TrainOutcome {
                weights: String::new(),
                loss: 0.1,
                measurements: vec![measurement],
                steps: 1,
                parameters: 1,
                millis: 1,
            },
        }
    }

    #[test]
    fn a_job_stops_when_agreement_no_longer_grows() {
        let rule = StoppingRule { gain: 0.2, rounds: 2 };
        let history = |agreed: [u64; 3]| History::new((0..3).map(|r| trained(r, agreed[r as usize])).collect());
        assert_eq!(history([900, 901, 903]).converged(rule, 2), None);
        assert!(history([900, 950, 901]).converged(rule, 2).is_some());
        assert_eq!(history([900, 900, 900]).converged(rule, 1), None);
    }

    #[test]
    fn the_seed_images_are_asked_first_and_trained_on_before_any_round() {
        let mut history = History::default();
        let step = |history: &History| history.next_step(&plan(), &[Arm::Active], &[], None);
        assert!(matches!(step(&history), Step::Ask { samples, .. } if samples.len() == 10));
        let first = Student::new(Arm::Control, 0);
        let outcome = AskOutcome {
            labelled: 10,
            millis: 1,
            ..AskOutcome::default()
        };
        history.push(Transition::Asked {
            student: first,
            outcome,
        });
        assert_eq!(step(&history), Step::Train { student: first });
        history.push(trained(0, 900));
        let student = Student::new(Arm::Active, 1);
        assert_eq!(step(&history), Step::Select { student, size: 20 });
    }
    #[test]
    fn images_are_generated_once_after_the_seed_images_were_asked() {
        let plan = Plan { generated: 7, ..plan() };
        let first = Student::new(Arm::Active, 0);
        let mut history = History::default();
        let step = |history: &History| history.next_step(&plan, &[Arm::Active], &[], None);
        assert!(matches!(step(&history), Step::Ask { .. }));
        let outcome = AskOutcome {
            labelled: 10,
            millis: 1,
            ..AskOutcome::default()
        };
        history.push(Transition::Asked {
            student: first,
            outcome,
        });
        assert_eq!(step(&history), Step::Generate { images: 7 });
        history.push(Transition::Generated {
            outcome: GenerateOutcome {
                images: 7,
                digest: String::new(),
                loss: 1.0,
                millis: 1,
            },
        });
        assert_eq!(step(&history), Step::Train { student: first });
    }
}
