//! The permit protocol as a pure state machine, under random schedules.

mod model;

use model::fault::FAULTS;
use model::search;

/// Seeds of the two tests: failures name the schedule, `permit_schedules` plays more of them.
const SEED: u64 = 1;
const SCHEDULES: u64 = 120_000;
/// A fault is looked for in so many.
const FAULTY: u64 = 60_000;

#[test]
fn no_schedule_overspends_or_loses_a_label() {
    let halves: Vec<_> = (0..2)
        .map(|half| std::thread::spawn(move || search(SEED, (half..SCHEDULES).step_by(2), None)))
        .collect();
    for half in halves {
        if let Some(failure) = half.join().expect("no panic") {
            panic!("seed {SEED}, {failure}");
        }
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    for fault in FAULTS {
        assert!(
            search(SEED, 0..FAULTY, Some(fault)).is_some(),
            "{fault:?} went unnoticed"
        );
    }
}
