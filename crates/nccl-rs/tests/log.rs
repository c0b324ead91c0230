//! The log of the real library. A program of its own: the environment is set before there is any thread.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::mpsc;
use std::time::Duration;

use nccl_rs::log::{Level, Log};
use nccl_rs::{Communicator, Nccl, Place};

mod found;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let Some(path) = found::nccl() else { return };
    let (lines, heard) = mpsc::channel();
    let log = Log::divert().unwrap();
    log.read(move |level, line: &str| {
        let _ended = lines.send((level, line.to_owned()));
    })
    .unwrap();
    let nccl = Nccl::open_at(&path).unwrap();
    let place = Place { rank: 0, world_size: 1 };
    let joined = nccl
        .unique_id()
        .and_then(|id| Communicator::join(nccl, place, &id, PATIENCE));
    if joined.is_ok() {
        return println!("skipped: this machine has a card, and nothing to warn of");
    }
    let (level, line) = heard.recv_timeout(PATIENCE).expect("a warning");
    assert_eq!(level, Level::Warn, "{line}");
    assert!(line.contains("NCCL WARN"), "{line}");
    println!("heard: {line}");
}
