//! What is not as it was written: a torn end is cut off, anything else is refused.

use std::path::Path;

use stillhouse_ledger::{LedgerError, Reader};

use crate::{file, genesis, label, open, permitted, refused, request, send};

/// Bytes of a frame without items, which ends the log of a process that ended well.
const END: usize = 28;

/// The bytes of a log after each of its frames, the last one as a process leaves it that ends well.
async fn logs(dir: &Path) -> Vec<Vec<u8>> {
    let now = || std::fs::read(file(dir)).expect("readable");
    let ledger = open(dir, 10);
    let mut logs = vec![now()];
    let permits = permitted(&ledger, 0..2).await;
    logs.push(now());
    send(&ledger, &permits).await;
    logs.push(now());
    ledger.commit(vec![(permits[0], label(0))]).await.expect("written");
    logs.push(now());
    ledger.append(b"what was done".to_vec()).await.expect("written");
    logs.push(now());
    drop(ledger);
    logs.push(now());
    logs
}

/// Puts `bytes` in place of the log.
fn replace(dir: &Path, bytes: &[u8]) {
    std::fs::write(file(dir), bytes).expect("writable");
}

#[tokio::test]
async fn no_bit_of_a_log_that_ended_well_changes_unnoticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let logs = logs(dir.path()).await;
    let whole = logs.last().expect("some");
    for at in 0..whole.len() - END {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        replace(dir.path(), &damaged);
        let error = refused(dir.path(), &genesis(10));
        assert!(matches!(error, LedgerError::Damaged { .. }), "byte {at}: {error:?}");
        assert!(
            matches!(Reader::open(dir.path()), Err(LedgerError::Damaged { .. })),
            "byte {at}"
        );
        assert_eq!(
            std::fs::read(file(dir.path())).expect("readable"),
            damaged,
            "it is left alone"
        );
    }
    replace(dir.path(), whole);
    assert_eq!(open(dir.path(), 10).epoch(), 2, "the undamaged file still opens");
}

#[tokio::test]
async fn what_a_crash_tore_off_the_end_is_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let logs = logs(dir.path()).await;
    let entries = || Reader::open(dir.path()).expect("closed").entries().expect("readable");
    for (before, after) in logs.iter().zip(&logs[1..]) {
        replace(dir.path(), before);
        let acknowledged = entries();
        for length in (before.len()..after.len()).step_by(5) {
            // Bytes that did not arrive are missing, or zero.
            let mut padded = after[..length].to_vec();
            padded.resize(after.len(), 0);
            for torn in [&after[..length], &padded] {
                replace(dir.path(), torn);
                if torn != after {
                    assert_eq!(entries(), acknowledged, "all of a group or nothing");
                }
                drop(open(dir.path(), 10));
                let kept = std::fs::read(file(dir.path())).expect("readable");
                assert_eq!(&kept[..before.len()], before, "acknowledged frames stay");
            }
        }
    }
    let first = &logs[0];
    for length in (0..first.len()).step_by(3) {
        replace(dir.path(), &first[..length]);
        let error = refused(dir.path(), &genesis(10));
        assert!(
            matches!(error, LedgerError::Damaged { .. }),
            "{length} bytes: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_hole_in_the_middle_is_refused_even_after_a_crash() {
    let dir = tempfile::tempdir().expect("a folder");
    let logs = logs(dir.path()).await;
    let crashed = &logs[logs.len() - 2];
    for (before, after) in logs.iter().zip(&logs[1..logs.len() - 2]) {
        for hole in [before.len()..after.len(), before.len()..before.len() + 10] {
            let mut damaged = crashed.clone();
            damaged[hole].fill(0);
            replace(dir.path(), &damaged);
            let error = refused(dir.path(), &genesis(10));
            assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
        }
        // A frame that is missing altogether.
        replace(dir.path(), &[before, &crashed[after.len()..]].concat());
        let error = refused(dir.path(), &genesis(10));
        assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
    }
    replace(dir.path(), crashed);
    let labels = open(dir.path(), 10)
        .labels(vec![request(0).key])
        .await
        .expect("readable");
    assert_eq!(labels, [Some(label(0))]);
    replace(dir.path(), b"not a ledger");
    let error = refused(dir.path(), &genesis(10));
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
}
