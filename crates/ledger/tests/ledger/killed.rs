//! `kill -9` at any moment: what was acknowledged is on disk, and nothing is billed unrecorded.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use stillhouse_ledger::{Ledger, Reader, State};

use crate::{genesis, label, open, permits, requests, send};

/// Names the ledger's folder to a child process.
const CHILD: &str = "STILLHOUSE_TEST_KILLED_LEDGER";
const BUDGET: u64 = 3_000;
const BATCH: u32 = 8;

/// Spends the budget, and says what was acknowledged only after it was.
async fn spend(ledger: &Ledger) {
    let first = ledger.counts().await.expect("open").billed() as u32;
    for from in (first..).step_by(BATCH as usize) {
        let admissions = ledger.admit(requests(from..from + BATCH)).await.expect("written");
        let permits = permits(&admissions);
        if permits.is_empty() {
            return;
        }
        send(ledger, &permits).await;
        let numbers = (from..).take(permits.len());
        numbers.clone().for_each(|number| say(&format!("sent {number}")));
        let labels = permits
            .into_iter()
            .zip(numbers.clone())
            .map(|(permit, n)| (permit, label(n)));
        ledger.commit(labels.collect()).await.expect("written");
        numbers.for_each(|number| say(&format!("kept {number}")));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may have stopped to listen.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Not a test of its own: the body of the child process.
#[tokio::test]
async fn child() {
    if let Ok(dir) = std::env::var(CHILD) {
        say("open");
        spend(&open(Path::new(&dir), BUDGET)).await;
        say("done");
    }
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a test runs from a file"));
    command.args(["--exact", "killed::child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

#[derive(Default)]
struct Heard {
    sent: HashSet<u32>,
    kept: HashSet<u32>,
    done: bool,
}

impl Heard {
    fn line(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("sent", number)) => drop(self.sent.insert(number.parse().expect("a number"))),
            Some(("kept", number)) => drop(self.kept.insert(number.parse().expect("a number"))),
            _ => self.done |= line == "done",
        }
    }

    /// Listens until `lines` were heard, kills, and hears what was said before that.
    fn listen(&mut self, mut child: Child, lines: usize) {
        let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next = || said.next().and_then(Result::ok);
        let mut heard = 0;
        while heard < lines
            && let Some(line) = next()
        {
            // The test harness says things of its own.
            heard += usize::from(["open", "sent", "kept"].iter().any(|word| line.starts_with(word)));
            self.line(&line);
        }
        child.kill().expect("it is ours");
        while let Some(line) = next() {
            // No line is torn: a short write to a pipe is atomic.
            self.line(&line);
        }
        child.wait().expect("it is ours");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut heard = Heard::default();
    // Kills while it opens, between any two acknowledgements, and while a batch is on its way.
    for lines in [1, 1, 1, 2, 3, 9, 10, 17, 40, 41, 90, 131, 200, 260] {
        heard.listen(start(dir.path()), lines);
        assert!(!heard.done, "killed before it was done");
        if !heard.sent.is_empty() {
            // Reading mends the file after a kill.
            let reader = Reader::open(dir.path()).expect("readable after a kill");
            let entries = reader.entries().expect("readable");
            let sent = entries
                .iter()
                .filter(|entry| entry.charges.iter().any(|c| c.state != State::Reserved));
            assert!(sent.count() >= heard.sent.len(), "a sent query was forgotten");
        }
        let ledger = Ledger::create_or_open(dir.path(), &genesis(BUDGET)).expect("opens after a kill");
        let counts = ledger.counts().await.expect("open");
        assert_eq!((counts.reserved, counts.sent), (0, 0), "nothing stays open");
        assert!(counts.billed() >= heard.sent.len() as u64, "a sent query was forgotten");
        assert!(counts.billed() <= BUDGET);
        assert!(
            counts.ambiguous <= u64::from(BATCH) * ledger.epoch(),
            "a batch a life at most"
        );
        let kept: Vec<u32> = heard.kept.iter().copied().collect();
        let keys = kept.iter().map(|number| crate::request(*number).key).collect();
        let labels = ledger.labels(keys).await.expect("readable");
        for (number, found) in kept.into_iter().zip(labels) {
            assert_eq!(found, Some(label(number)), "label {number} was acknowledged");
        }
    }
    assert!(
        heard.kept.len() > 100,
        "the kills let some work through: {}",
        heard.kept.len()
    );
}

#[tokio::test]
async fn a_job_that_is_killed_again_and_again_ends_within_its_budget() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut heard = Heard::default();
    for lines in [300, 301, 307, 313, usize::MAX] {
        heard.listen(start(dir.path()), lines);
    }
    assert!(heard.done, "the last life spends what is left");
    let ledger = open(dir.path(), BUDGET);
    let counts = ledger.counts().await.expect("open");
    assert_eq!(
        (counts.billed(), counts.left()),
        (BUDGET, 0),
        "the budget, to the last query"
    );
    assert_eq!(counts.committed + counts.ambiguous, BUDGET);
    assert!(heard.sent.len() as u64 <= counts.billed());
}
