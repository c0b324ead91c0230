//! What rounds are chosen from, and what a guard makes of it, round by round.

use std::collections::HashSet;

use stillhouse_core::diversity::Diversity;
use stillhouse_core::guard::{Evidence, Guard, Twin, Verdict};
use stillhouse_core::one_shot::BetaMixup;
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::sample::Sample;
use stillhouse_core::score::Acquisition;

use crate::coordinator::{Coordinator, Settings};
use crate::history::{CompareOutcome, GenerateOutcome, History, Selection, Student, Transition};
use crate::random_schedules::{GENERATED, settings};

/// A job of FS-BBT: random mixes and generated images, a few a round.
fn one_shot_settings() -> Settings {
    let mut settings = settings();
    settings.arms = vec![Arm::Active];
    settings.acquisition = Acquisition::Random;
    settings.one_shot = Some(BetaMixup { alpha: 1.0, margin: 5 });
    settings.plan.arms = 1;
    settings.guard = None;
    settings
}

#[test]
fn random_acquisition_buys_every_generated_image_spread_over_the_rounds() {
    let settings = one_shot_settings();
    let mut history = History::new(vec![Transition::Generated {
        outcome: GenerateOutcome {
            images: GENERATED,
            digest: String::new(),
            loss: 1.0,
            millis: 1,
        },
    }]);
    let mut shares = Vec::new();
    for (round, size) in (1..).zip(settings.plan.rounds()) {
        let coordinator = Coordinator::new(settings.clone(), history.clone(), 1);
        let student = Student::new(Arm::Active, round);
        let selection = coordinator.random_batch(student, size).expect("a random one");
        assert_eq!(selection.batch.len() as u64, size);
        let pool = settings.pool.with_generated(GENERATED);
        let is_generated = |c: &&Candidate| pool.generated_at(c.pair).is_some();
        shares.push(selection.batch.iter().filter(is_generated).count());
        history.push(Transition::Selected { student, selection });
    }
    assert_eq!(shares, [6; 5]);
    let all: Vec<Candidate> = history.batches(Arm::Active, 5).collect();
    assert_eq!(
        all.iter().collect::<HashSet<_>>().len(),
        all.len(),
        "nothing is bought twice"
    );
}

/// A round of the active arm with `drawn` of its ten candidates at random, and its twins.
fn guarded_round(round: u32, drawn: u64, right: [u64; 2]) -> Vec<Transition> {
    let student = Student::new(Arm::Active, round);
    let lambda = Lambda::whole();
    let pair = |at: u64| PairId(100 * u64::from(round) + at);
    let selection = Selection {
        batch: (0..10).map(|at| Candidate { pair: pair(at), lambda }).collect(),
        scores: Vec::new(),
        drawn,
        scan: None,
    };
    let outcome = |right| CompareOutcome {
        images: 400,
        right,
        millis: 1,
    };
    let compared = Twin::BOTH
        .into_iter()
        .zip(right)
        .map(|(twin, right)| Transition::Compared {
            student,
            twin,
            outcome: outcome(right),
        });
    [Transition::Selected { student, selection }]
        .into_iter()
        .chain(compared)
        .collect()
}

#[test]
fn batches_shift_to_chance_where_the_choice_harms_and_back_where_it_does_not() {
    let mut settings = settings();
    settings.guard = Some(Guard {
        share: 0.25,
        shifts: true,
    });
    let k = |transitions: &[Transition], round| {
        let coordinator = Coordinator::new(settings.clone(), History::new(transitions.to_vec()), 1);
        coordinator.problem(Student::new(Arm::Active, round), 40).k
    };
    assert_eq!(k(&[], 1), 30, "a quarter is drawn from the first round on");
    let mut history = guarded_round(1, 3, [360, 300]);
    assert_eq!(History::new(history.clone()).evidence(1).verdict(), Verdict::Harms);
    assert_eq!(k(&history, 2), 10);
    history.extend(guarded_round(2, 7, [330, 380]));
    assert_eq!(History::new(history.clone()).evidence(2).verdict(), Verdict::Undecided);
    assert_eq!(k(&history, 3), 30);
}

#[test]
fn a_diverse_batch_is_chosen_from_a_longer_list_that_is_exact() {
    let mut settings = settings();
    let guard = Guard {
        share: 0.25,
        shifts: false,
    };
    settings.guard = Some(guard);
    settings.diversity = Some(Diversity {
        per_image: Some(1.0),
        ..Diversity::default()
    });
    let student = Student::new(Arm::Active, 1);
    let size = settings.plan.next_round(0).expect("a round");
    let wanted = size - guard.random(size, Verdict::Undecided);
    assert!(wanted < size, "a part of the batch is drawn");
    let coordinator = Coordinator::new(settings.clone(), History::default(), 1);
    assert_eq!(coordinator.problem(student, size).k, 4 * wanted, "four times as many");
    let listed = 4 * wanted;
    let lambda = Lambda::whole();
    let selection = Selection {
        batch: (0..listed)
            .map(|at| Candidate {
                pair: PairId(at),
                lambda,
            })
            .collect(),
        scores: (0..listed).map(|at| at as f32).collect(),
        drawn: 0,
        scan: None,
    };
    let diverse = coordinator.diverse(student, selection);
    assert_eq!(
        (diverse.batch.len() as u64, diverse.scores.len() as u64),
        (wanted, wanted)
    );
    let pairs: Vec<PairId> = diverse.batch.iter().map(|candidate| candidate.pair).collect();
    let list: Vec<PairId> = (0..listed).map(PairId).collect();
    let want = settings
        .diversity
        .expect("set")
        .choose(&list, wanted as usize, settings.pool, &[]);
    assert_eq!(pairs, want.iter().map(|at| PairId(*at as u64)).collect::<Vec<_>>());
    assert!(
        diverse
            .scores
            .iter()
            .zip(&pairs)
            .all(|(score, pair)| *score == pair.0 as f32)
    );
    settings.sample = Some(500);
    assert_eq!(
        Coordinator::new(settings, History::default(), 1)
            .problem(student, size)
            .k,
        500
    );
}

#[test]
fn twins_learn_from_equally_many_candidates_and_from_no_image_that_was_kept_back() {
    let history = History::new([guarded_round(1, 3, [1, 1]), guarded_round(2, 7, [1, 1])].concat());
    let student = Student::new(Arm::Active, 2);
    let [random, active] = Twin::BOTH.map(|twin| history.twin_set(student, twin, 20));
    assert_eq!(random.len(), active.len());
    let mixes = |set: &[Sample]| -> Vec<u64> {
        let pair = |sample: &Sample| match sample {
            Sample::Mix(candidate) => Some(candidate.pair.0),
            Sample::Seed(_) | Sample::Evaluation(_) => None,
        };
        set.iter().filter_map(pair).collect()
    };
    assert_eq!(mixes(&random), [107, 108, 109, 203, 205, 207]);
    assert_eq!(mixes(&active), [100, 102, 104, 200, 201, 202]);
    let seeds = active.iter().filter(|sample| matches!(sample, Sample::Seed(_)));
    assert_eq!(seeds.count(), 16, "a fifth of 20 is kept back");
    assert!(!active.contains(&Sample::Seed(2)) && !random.contains(&Sample::Seed(17)));
}

#[test]
fn one_twin_alone_or_one_that_never_learnt_is_no_evidence() {
    let one = History::new(guarded_round(1, 3, [360, 300])[..2].to_vec());
    assert_eq!(one.evidence(1), Evidence::default());
    let mut dead = guarded_round(1, 3, [360, 300]);
    if let Some(Transition::Compared { outcome, .. }) = dead.last_mut() {
        outcome.images = 0;
    }
    assert_eq!(History::new(dead).evidence(1), Evidence::default());
}
