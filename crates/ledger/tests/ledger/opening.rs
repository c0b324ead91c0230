//! Who may open a ledger, and what becomes of what was left open.

use std::path::Path;

use stillhouse_core::Fingerprint;
use stillhouse_ledger::{Admission, Genesis, Ledger, LedgerError, Proof, Reader, State};

use crate::{REQUEST, file, genesis, label, open, permitted, refused, request, requests, send};

#[test]
fn a_second_opener_is_told_that_it_is_in_use() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10);
    assert!(matches!(refused(dir.path(), &genesis(10)), LedgerError::Locked { .. }));
    assert!(matches!(Reader::open(dir.path()), Err(LedgerError::Locked { .. })));
    let clone = ledger.clone();
    drop(ledger);
    assert!(matches!(refused(dir.path(), &genesis(10)), LedgerError::Locked { .. }));
    drop(clone);
    assert_eq!(open(dir.path(), 10).epoch(), 2, "the last clone gives it free");
}

#[test]
fn it_opens_for_the_same_job_and_teacher_only() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path(), 10));
    let job = Genesis {
        job_digest: [9; 32],
        ..genesis(10)
    };
    let teacher = Genesis {
        fingerprint: Fingerprint([9; 32]),
        ..genesis(10)
    };
    let classes = Genesis {
        classes: 4,
        ..genesis(10)
    };
    for (other, what) in [
        (job, "another job"),
        (teacher, "another teacher"),
        (classes, "another teacher"),
    ] {
        let error = refused(dir.path(), &other);
        assert!(matches!(error, LedgerError::OtherJob { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(open(dir.path(), 10).epoch(), 2, "a refused opening is no life");
}

#[tokio::test]
async fn a_budget_may_grow_and_never_shrink() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 2);
    let permits = permitted(&ledger, 0..2).await;
    send(&ledger, &permits).await;
    ledger.spent(REQUEST, permits, "nonsense").await.expect("written");
    assert_eq!(
        ledger.admit(requests(2..3)).await.expect("written"),
        [Admission::Exhausted]
    );
    drop(ledger);
    let ledger = open(dir.path(), 3);
    permitted(&ledger, 2..3).await;
    assert_eq!(
        ledger.admit(requests(3..4)).await.expect("written"),
        [Admission::Exhausted]
    );
    drop(ledger);
    let error = refused(dir.path(), &genesis(2));
    assert!(
        matches!(error, LedgerError::BudgetShrunk { was: 3, found: 2 }),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_reserved_is_released_and_what_was_sent_is_in_doubt() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10);
    let permits = permitted(&ledger, 0..4).await;
    send(&ledger, &permits[2..]).await;
    drop(ledger);

    let ledger = open(dir.path(), 10);
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.reserved, counts.sent, counts.ambiguous), (0, 0, 2));
    let marked = ledger.mark_sent(REQUEST, permits.clone()).await.expect("written");
    assert_eq!(marked, [], "permits of an earlier life are void");
    ledger
        .release(REQUEST, permits[2..3].to_vec(), Proof::NeverConnected)
        .await
        .expect("written");
    assert_eq!(
        ledger.counts().await.expect("open"),
        counts,
        "old reports change nothing"
    );
    let again = ledger.admit(requests(0..4)).await.expect("written");
    assert!(
        matches!(again[..2], [Admission::Permitted(_), Admission::Permitted(_)]),
        "{again:?}"
    );
    for held in &again[2..] {
        let Admission::Held { cause } = held else {
            panic!("{held:?}")
        };
        assert_eq!(cause, "the process died after it was sent");
    }

    // Its label was paid for, so it is welcome in any life.
    ledger.commit(vec![(permits[3], label(3))]).await.expect("written");
    let known = ledger.admit(vec![request(3)]).await.expect("written");
    assert_eq!(known, [Admission::Known(label(3))]);
}

#[tokio::test]
async fn a_raised_budget_outlives_the_process_and_the_jobs_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 2);
    ledger.raise_budget(4).await.expect("more");
    let error = ledger.raise_budget(3).await.expect_err("fewer");
    assert!(
        matches!(error, LedgerError::BudgetShrunk { was: 4, found: 3 }),
        "{error}"
    );
    permitted(&ledger, 0..4).await;
    drop(ledger);
    let reader = Reader::open(dir.path()).expect("closed");
    assert_eq!((reader.genesis().budget, reader.counts().budget), (2, 4));
    drop(reader);
    for (budget, granted) in [(2, 4), (3, 4), (6, 6)] {
        let ledger = open(dir.path(), budget);
        assert_eq!(ledger.counts().await.expect("open").budget, granted);
    }
}

#[tokio::test]
async fn a_reader_sees_everything_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(matches!(Reader::open(dir.path()), Err(LedgerError::Missing { .. })));
    let ledger = open(dir.path(), 10);
    let permits = permitted(&ledger, 0..3).await;
    send(&ledger, &permits[..2]).await;
    ledger.commit(vec![(permits[0], label(0))]).await.expect("written");
    assert_eq!(ledger.append(b"one".to_vec()).await.expect("written"), 0);
    assert_eq!(
        ledger.append_all(vec![b"two".to_vec(), vec![]]).await.expect("written"),
        1..3
    );
    drop(ledger);

    let seen = || {
        let reader = Reader::open(dir.path()).expect("closed");
        assert_eq!(reader.genesis(), &genesis(10));
        assert_eq!(reader.journal().expect("readable"), [&b"one"[..], b"two", b""]);
        (reader.counts(), reader.entries().expect("readable"))
    };
    let (counts, entries) = seen();
    assert_eq!(seen(), (counts, entries.clone()), "looking changes nothing");
    assert_eq!(entries[0].label, Some(label(0)));
    let states: Vec<&State> = entries
        .iter()
        .flat_map(|e| &e.charges)
        .map(|charge| &charge.state)
        .collect();
    assert!(
        matches!(states[..], [State::Committed, State::Ambiguous(_)]),
        "{states:?}"
    );
    let ledger = open(dir.path(), 10);
    assert_eq!(ledger.epoch(), 2, "reading is no life");
    assert_eq!(
        ledger.counts().await.expect("open"),
        counts,
        "as the next start finds it"
    );
    assert_eq!(ledger.entries().await.expect("open"), entries);
    assert_eq!(ledger.append(b"next".to_vec()).await.expect("written"), 3);
}

#[tokio::test]
async fn whoever_opens_it_later_stops_the_other_even_without_a_lock() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = open(dir.path(), 10);
    let permits = permitted(&first, 0..2).await;
    send(&first, &permits[..1]).await;
    std::fs::remove_file(dir.path().join("ledger").join("lock")).expect("it is there");
    let second = open(dir.path(), 10);
    // This needs no write, and is still no answer.
    let again = first.mark_sent(REQUEST, permits[..1].to_vec()).await;
    assert!(matches!(again, Err(LedgerError::Superseded)), "{again:?}");
    let sent = first.mark_sent(REQUEST, permits[1..].to_vec()).await;
    assert!(matches!(sent, Err(LedgerError::Stopped { .. })), "{sent:?}");
    drop(first);
    let again = permitted(&second, 1..2).await;
    send(&second, &again).await;
    drop(second);
    let counts = open(dir.path(), 10).counts().await.expect("open");
    assert_eq!((counts.ambiguous, counts.billed()), (2, 2));
}

#[test]
fn a_ledger_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = dir.path().join("ledger").join("ledger.redb");
    std::fs::create_dir(dir.path().join("ledger")).expect("writable");
    std::fs::write(&old, "a database").expect("writable");
    let error = refused(dir.path(), &genesis(10));
    assert!(matches!(error, LedgerError::OtherFormat { .. }), "{error}");
    assert!(matches!(Reader::open(dir.path()), Err(LedgerError::OtherFormat { .. })));
    assert!(!file(dir.path()).exists());
}

/// Reserves and gives back until the log is mostly garbage.
async fn litter(ledger: &Ledger, dir: &Path) {
    const KEYS: u32 = 8_192;
    while std::fs::metadata(file(dir)).is_ok_and(|log| log.len() < 68 << 20) {
        let permits = permitted(ledger, 0..KEYS).await;
        ledger.give_back(permits).await.expect("written");
    }
}

#[tokio::test]
async fn a_log_that_is_mostly_outdated_is_written_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10_000);
    let permits = permitted(&ledger, 9_000..9_002).await;
    send(&ledger, &permits).await;
    ledger.commit(vec![(permits[0], label(0))]).await.expect("written");
    ledger
        .append_all(vec![b"one".to_vec(), b"two".to_vec()])
        .await
        .expect("written");
    litter(&ledger, dir.path()).await;
    let issued = permitted(&ledger, 0..1).await[0].charge;
    drop(ledger);
    let ledger = open(dir.path(), 10_000);
    assert!(std::fs::metadata(file(dir.path())).expect("there").len() < 2 << 20);
    assert_eq!(ledger.epoch(), 2);
    assert_eq!(
        permitted(&ledger, 0..1).await[0].charge,
        issued + 1,
        "numbers are never used twice"
    );
    drop(ledger);

    let ledger = open(dir.path(), 10_000);
    assert_eq!(ledger.journal().await.expect("readable"), [b"one", b"two"]);
    let known = ledger.admit(vec![request(9_000)]).await.expect("written");
    assert_eq!(known, [Admission::Known(label(0))]);
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.committed, counts.ambiguous, counts.billed()), (1, 1, 2));
}
