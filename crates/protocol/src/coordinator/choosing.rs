//! What a round is chosen from, and what is chosen without scores.

use std::collections::HashSet;

use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId, Pool};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::score::Acquisition;

use super::Coordinator;
use crate::fault::Fault;
use crate::history::{Selection, Student};
use crate::selecting::{Problem, calibration_size};

impl Coordinator {
    /// The pool with what was generated.
    fn pool(&self) -> Pool {
        let generated = self.history.generated().map_or(0, |outcome| outcome.images);
        self.settings.pool.with_generated(generated)
    }

    /// The batch of the control, and of the active arm under random acquisition: the one draws mixes alone, the
    /// other takes every generated image in the end, as many a round as is its part of what is still to be bought.
    pub(crate) fn random_batch(&self, student: Student, size: u64) -> Option<Selection> {
        let is_control = student.arm == Arm::Control;
        if !is_control && self.settings.acquisition != Acquisition::Random {
            return None;
        }
        let asked = self.history.asked_pairs(student.arm, student.round);
        let generated = match is_control {
            true => Vec::new(),
            false => self.generated_left(&asked),
        };
        let planned: u64 = self.settings.plan.rounds().iter().sum();
        let to_buy = planned.saturating_sub(self.bought(student));
        let share = (u128::from(size) * generated.len() as u128).div_ceil(u128::from(to_buy.max(1)));
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut batch = self.random_mixes(student, size.saturating_sub(share), &asked);
        let rest = size - batch.len();
        batch.extend(generated.into_iter().take(rest));
        Some(Selection {
            batch,
            scores: Vec::new(),
            drawn: 0,
            scan: None,
        })
    }

    fn random_mixes(&self, student: Student, size: usize, asked: &HashSet<PairId>) -> Vec<Candidate> {
        let (pool, seed) = (self.settings.pool, self.settings.seed);
        if let Some(mixup) = self.settings.one_shot {
            let asked = self.history.batches(student.arm, student.round.saturating_sub(1));
            return mixup.batch(seed, pool, size, &asked.collect());
        }
        let stream = Stream::new(seed, Purpose::RandomPairs, u64::from(student.round));
        stream.candidates(pool, &self.settings.grid, size, asked)
    }

    /// Generated images that were not asked, in order.
    fn generated_left(&self, asked: &HashSet<PairId>) -> Vec<Candidate> {
        let lambda = Lambda::whole();
        let new = self.pool().generated_ids().filter(|id| !asked.contains(id));
        new.map(|pair| Candidate { pair, lambda }).collect()
    }

    /// What the arm of `student` bought in the rounds before.
    fn bought(&self, student: Student) -> u64 {
        self.history
            .batches(student.arm, student.round.saturating_sub(1))
            .count() as u64
    }

    /// How many of a batch of `size` are drawn at random for the guard.
    fn drawn(&self, student: Student, size: u64) -> u64 {
        let verdict = || self.history.evidence(student.round.saturating_sub(1)).verdict();
        self.settings.guard.map_or(0, |guard| guard.random(size, verdict()))
    }

    /// How many are chosen for a batch of `size`, beside those that are drawn.
    fn chosen(&self, student: Student, size: u64) -> u64 {
        size - self.drawn(student, size)
    }

    /// The batch, of what was selected for it.
    pub(crate) fn diverse(&self, student: Student, mut selection: Selection) -> Selection {
        let Some(diversity) = self.settings.diversity else {
            return selection;
        };
        let wanted = self.chosen(student, self.size_of(student));
        let shortlist: Vec<PairId> = selection.batch.iter().map(|candidate| candidate.pair).collect();
        let classes = self.history.seed_classes();
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let chosen = diversity.choose(&shortlist, wanted, self.pool(), classes);
        selection.batch = chosen.iter().map(|at| selection.batch[*at]).collect();
        selection.scores = chosen.iter().map(|at| selection.scores[*at]).collect();
        if let (Some(scan), Some(last)) = (&mut selection.scan, selection.scores.last()) {
            scan.cut = *last;
        }
        selection
    }

    /// The chosen candidates, and beside them those that the guard has drawn: never one of them, nor one that was asked.
    pub(super) fn with_drawn(&self, student: Student, mut selection: Selection) -> Selection {
        let mut asked = self.history.asked_pairs(student.arm, student.round);
        asked.extend(selection.batch.iter().map(|candidate| candidate.pair));
        let size = self.drawn(student, self.size_of(student));
        let drawn = self.random_mixes(student, usize::try_from(size).unwrap_or(usize::MAX), &asked);
        selection.drawn = drawn.len() as u64;
        selection.batch.extend(drawn);
        selection
    }

    /// The size of a student's batch, as the plan has it.
    fn size_of(&self, student: Student) -> u64 {
        self.settings.plan.next_round(self.bought(student)).unwrap_or(0)
    }

    pub(crate) fn problem(&self, student: Student, size: u64) -> Problem {
        let candidates = self.pool().candidates();
        let stream = Stream::new(self.settings.seed, Purpose::Calibration, u64::from(student.round));
        let calibration = (0..calibration_size(candidates)).map(|at| PairId(stream.below(at, candidates)));
        let asked = if self.planted(Fault::ForgetAsked) {
            HashSet::default()
        } else {
            self.history.asked_pairs(student.arm, student.round)
        };
        let chosen = self.chosen(student, size);
        let k = match self.settings.diversity {
            Some(diversity) => diversity.shortlist_of(chosen, self.settings.sample),
            None => chosen,
        };
        let sample = self.settings.sample.map(|count| self.sample(student, count, &asked));
        let mut asked: Vec<PairId> = asked.into_iter().collect();
        asked.sort_unstable();
        Problem {
            student,
            scorer: Student::new(student.arm, student.round - 1),
            k,
            pairs: candidates,
            asked,
            sample,
            exact: self.settings.exact_scan,
            range: match self.settings.stochastic {
                Some(stochastic) => stochastic.range(self.settings.acquisition, self.settings.classes),
                None => self.settings.acquisition.range(self.settings.classes),
            },
            cutting: self.settings.cutting,
            calibration: calibration.collect(),
            planted: self.planted,
        }
    }

    /// `count` pairs, drawn anew, and every generated image, none of them asked.
    fn sample(&self, student: Student, count: u64, asked: &HashSet<PairId>) -> Vec<PairId> {
        let stream = Stream::new(self.settings.seed, Purpose::Sample, u64::from(student.round));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let drawn = stream.candidates(self.settings.pool, &self.settings.grid, count, asked);
        let generated = self.generated_left(asked);
        drawn
            .into_iter()
            .chain(generated)
            .map(|candidate| candidate.pair)
            .collect()
    }
}
