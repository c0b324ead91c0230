//! A disk that is full: the ledger stops, and nothing more may be sent.

use std::path::Path;
use std::process::{Command, Stdio};

use stillhouse_ledger::LedgerError;

use crate::{REQUEST, label, open, permitted, request, send};

/// Names the ledger's folder to a child process.
const CHILD: &str = "STILLHOUSE_TEST_FULL_LEDGER";

/// Not a test of its own: the body of a child process that may write small files only.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let ledger = open(Path::new(&dir), 1_000_000);
    let permits = permitted(&ledger, 0..2).await;
    send(&ledger, &permits[..1]).await;
    ledger.commit(vec![(permits[0], label(0))]).await.expect("written");
    let mut written = 0;
    let error = loop {
        match ledger.append(vec![7; 64 << 10]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the limit does not hold");
    };
    assert!(matches!(error, LedgerError::StorageFull { .. }), "{error:?}");
    // What needs no more room is refused too: what is on disk is unknown now.
    let sent = ledger.mark_sent(REQUEST, permits[1..].to_vec()).await;
    assert!(matches!(sent, Err(LedgerError::Stopped { .. })), "{sent:?}");
    let admitted = ledger.admit(vec![request(9)]).await;
    assert!(matches!(admitted, Err(LedgerError::Stopped { .. })), "{admitted:?}");
    println!("written {written}");
}

#[tokio::test]
async fn a_full_disk_stops_the_ledger_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("a test runs from a file");
    // Blocks of 512 or 1024 bytes, as the shell likes; a write beyond them fails as on a full disk.
    let limited = r#"trap "" XFSZ; ulimit -f 8192; exec "$0" --exact full::child --nocapture"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", limited])
        .arg(program)
        .env(CHILD, dir.path())
        .stderr(Stdio::inherit());
    let output = command.output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let written = said
        .lines()
        .find_map(|line| line.strip_prefix("written "))
        .expect("it says how many");
    let written: usize = written.parse().expect("a number");

    let ledger = open(dir.path(), 1_000_000);
    let journal = ledger.journal().await.expect("readable").len();
    // The entry that failed may or may not be there.
    assert!(
        (written..=written + 1).contains(&journal),
        "{journal} of {written} entries"
    );
    assert_eq!(
        ledger.labels(vec![request(0).key]).await.expect("readable"),
        [Some(label(0))]
    );
    let counts = ledger.counts().await.expect("open");
    assert_eq!(
        (counts.committed, counts.billed()),
        (1, 1),
        "nothing was sent after the failure"
    );
}
