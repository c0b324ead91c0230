//! Damage of every kind is found, named, and left as it is.

use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};
use stillhouse_core::Key;
use stillhouse_ledger::store::file;
use stillhouse_ledger::{Audit, LedgerError};

use crate::{REQUEST, label, open, permitted, request, send};

const RECORDS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("records");
const LABELS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("labels");

fn key(number: u32) -> Key {
    request(number).key
}

/// A ledger of ten labels, one query in doubt and one that is only reserved.
async fn sound() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 12);
    let permits = permitted(&ledger, 0..12).await;
    send(&ledger, &permits[..11]).await;
    let labels = permits[..10]
        .iter()
        .zip(0..)
        .map(|(permit, number)| (*permit, label(number)));
    ledger.commit(labels.collect()).await.expect("written");
    ledger
        .ambiguous(REQUEST, permits[10..11].to_vec(), "cut")
        .await
        .expect("written");
    drop(ledger);
    dir
}

/// What an audit finds, a line each.
fn found(dir: &Path) -> Vec<String> {
    let audit = Audit::of(dir).expect("it can be read");
    let line = |finding: &stillhouse_ledger::Finding| match finding.key {
        Some(key) => format!("{}: {}", key.0[0], finding.what),
        None => finding.what.clone(),
    };
    audit.findings.iter().map(line).collect()
}

/// Rewrites one row, or removes it.
fn change(
    dir: &Path,
    table: TableDefinition<'_, &'static [u8; 32], &'static [u8]>,
    of: Key,
    change: impl FnOnce(&mut Vec<u8>),
) {
    let database = Database::open(file(dir)).expect("it opens");
    let read = database.begin_read().expect("readable");
    let row = read.open_table(table).expect("there").get(&of.0).expect("readable");
    let mut bytes = row.map_or_else(Vec::new, |row| row.value().to_vec());
    change(&mut bytes);
    let write = database.begin_write().expect("writable");
    let mut open = write.open_table(table).expect("there");
    match bytes.is_empty() {
        true => drop(open.remove(&of.0).expect("writable")),
        false => drop(open.insert(&of.0, bytes.as_slice()).expect("writable")),
    }
    drop(open);
    write.commit().expect("writable");
}

#[tokio::test]
async fn a_sound_ledger_has_no_findings_and_its_queries_in_order() {
    let dir = sound().await;
    let before = std::fs::read(file(dir.path())).expect("readable");
    let audit = Audit::of(dir.path()).expect("it can be read");
    assert_eq!(audit.findings, []);
    assert_eq!(audit.entries.iter().filter(|entry| entry.label.is_some()).count(), 10);
    assert!(audit.entries.is_sorted_by_key(|entry| entry.key));
    assert_eq!(
        std::fs::read(file(dir.path())).expect("readable"),
        before,
        "it is only looked at"
    );
}

#[tokio::test]
async fn each_damage_of_a_row_is_found_with_its_query() {
    let dir = sound().await;
    let dir = dir.path();
    change(dir, LABELS, key(0), Vec::clear);
    assert_eq!(found(dir), ["0: a query that was answered has no label"]);
    let bytes: Vec<u8> = label(0).probabilities().iter().flat_map(|p| p.to_le_bytes()).collect();
    change(dir, LABELS, key(0), |row| row.extend(&bytes));
    change(dir, LABELS, key(10), |row| row.extend(&bytes));
    assert_eq!(found(dir), ["10: a label that no charge paid for and nobody imported"]);
    change(dir, LABELS, key(10), Vec::clear);
    change(dir, LABELS, key(99), |row| row.extend(&bytes));
    assert_eq!(found(dir), ["99: a label of a query that was never asked"]);
    change(dir, LABELS, key(99), Vec::clear);
    change(dir, LABELS, key(1), |row| row[3] ^= 0x40);
    let unnormal = found(dir);
    assert!(
        unnormal[0].starts_with("1: the ledger is damaged: label: "),
        "{unnormal:?}"
    );
    change(dir, LABELS, key(1), |row| row[3] ^= 0x40);
    change(dir, RECORDS, key(2), |row| row.truncate(15));
    let cut = found(dir);
    assert_eq!(cut, ["2: the ledger is damaged: a record ends too early"]);
}

#[tokio::test]
async fn charges_that_cannot_be_are_found() {
    let dir = sound().await;
    let dir = dir.path();
    change(dir, RECORDS, key(3), |row| {
        let charge = row[16..].to_vec();
        row.extend(charge);
    });
    let found = found(dir);
    assert!(
        found.contains(&"3: 2 charges brought the label, expected at most one".to_owned()),
        "{found:?}"
    );
    assert!(
        found.contains(&"3: two charges have one number".to_owned()),
        "{found:?}"
    );
    assert!(
        found.contains(&"13 charges, but the budget is 12 queries".to_owned()),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_bit_that_rots_anywhere_in_a_label_is_found_by_the_checksums() {
    let dir = sound().await;
    let path = file(dir.path());
    let whole = std::fs::read(&path).expect("readable");
    let needle: Vec<u8> = label(7).probabilities().iter().flat_map(|p| p.to_le_bytes()).collect();
    let at = whole
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("it is there");
    let mut rotten = whole;
    rotten[at] ^= 1;
    std::fs::write(&path, &rotten).expect("writable");
    match Audit::of(dir.path()) {
        Ok(audit) => assert_eq!(audit.findings[0].what, "the checksums of the file's pages do not hold"),
        Err(error) => assert!(matches!(error, LedgerError::Damaged { .. }), "{error}"),
    }
    assert_eq!(std::fs::read(&path).expect("readable"), rotten, "looking mends nothing");
}
