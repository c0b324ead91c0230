//! The ledger on a real disk: opening, settling, groups of callers, kills, damage and a full disk.

mod damaged;
mod full;
mod killed;
mod opening;
mod settling;

use std::path::{Path, PathBuf};

use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use stillhouse_ledger::{Admission, Genesis, Ledger, LedgerError, OnAmbiguous, Permit, Request, RequestId};

/// A job of `budget` queries and three classes, under hold.
fn genesis(budget: u64) -> Genesis {
    Genesis {
        job_digest: [1; 32],
        fingerprint: Fingerprint([2; 32]),
        budget,
        classes: 3,
        on_ambiguous: OnAmbiguous::Hold,
    }
}

fn request(number: u32) -> Request {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    Request {
        key: Key(key),
        sample: Sample::Seed(number),
        arm: Arm::Active,
    }
}

fn requests(numbers: std::ops::Range<u32>) -> Vec<Request> {
    numbers.map(request).collect()
}

/// One request, where it does not matter which.
const REQUEST: RequestId = RequestId(7);

/// Marks `permits` as sent by [`REQUEST`]: all of them, or the test is wrong.
async fn send(ledger: &Ledger, permits: &[Permit]) {
    let sent = ledger.mark_sent(REQUEST, permits.to_vec()).await.expect("written");
    assert_eq!(sent, permits, "all of them may be sent");
}

/// A label that only query `number` has.
fn label(number: u32) -> SoftLabel {
    let first = (number % 1_000) as f32 / 1_000.0;
    SoftLabel::from_probabilities(vec![first, 1.0 - first, 0.0], 3).expect("sums to one")
}

fn permits(admissions: &[Admission]) -> Vec<Permit> {
    let permit = |admission: &Admission| match admission {
        Admission::Permitted(permit) => Some(*permit),
        _ => None,
    };
    admissions.iter().filter_map(permit).collect()
}

/// Permits for all of `numbers`.
async fn permitted(ledger: &Ledger, numbers: std::ops::Range<u32>) -> Vec<Permit> {
    let wanted = numbers.len();
    let permits = permits(&ledger.admit(requests(numbers)).await.expect("written"));
    assert_eq!(permits.len(), wanted, "all of them are permitted");
    permits
}

fn open(dir: &Path, budget: u64) -> Ledger {
    Ledger::create_or_open(dir, &genesis(budget)).expect("it opens")
}

fn refused(dir: &Path, genesis: &Genesis) -> LedgerError {
    Ledger::create_or_open(dir, genesis).expect_err("it must not open")
}

fn file(dir: &Path) -> PathBuf {
    dir.join("ledger").join("ledger.log")
}
