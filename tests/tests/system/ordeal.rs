//! Half a minute of the ordeal; `make ordeal` is a longer one.

use std::time::Duration;

use stillhouse_tests::ordeal::{self, Options};
use stillhouse_tests::redis;

use crate::world::{TEACHER, alone, skipped};

#[test]
fn nothing_is_overspent_sent_twice_or_lost_whatever_is_killed_cut_wiped_or_full() {
    let _alone = alone();
    let Some(redis) = redis::program() else {
        return skipped("redis-server is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        seed: 3,
        time: Duration::from_secs(30),
        folder: folder.path().to_owned(),
        teacher: TEACHER.into(),
        redis,
    };
    let report = ordeal::run(&options).unwrap();
    println!("{report}");
    if !report.violations.is_empty() {
        panic!(
            "everything is kept in {}: {:#?}",
            folder.keep().display(),
            report.violations
        );
    }
    assert!(report.finished > 0 && report.billed > 0, "{report}");
}
