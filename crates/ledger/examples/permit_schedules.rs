//! Plays random schedules of the permit protocol on every core.
//!
//! Usage: `permit_schedules COUNT [SEED]`, or `permit_schedules replay NUMBER [SEED]` for one. Prints
//! one line; a schedule that breaks a rule is printed without the steps that it does not need.
//! `permit_schedules faults` prints by which rule each planted fault is noticed.

#[path = "../tests/schedules/model/mod.rs"]
mod model;

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use model::fault::FAULTS;
use model::{Failure, POLICIES, search};

const USAGE: &str = "usage: permit_schedules COUNT [SEED] | replay NUMBER [SEED] | faults";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().context(USAGE);
    match words[..] {
        ["faults"] => faults(),
        ["replay", schedule] => all(number(schedule)?..number(schedule)? + 1, 1),
        ["replay", schedule, seed] => all(number(schedule)?..number(schedule)? + 1, number(seed)?),
        [count] => all(0..number(count)?, 1),
        [count, seed] => all(0..number(count)?, number(seed)?),
        _ => bail!(USAGE),
    }
}

fn all(schedules: Range<u64>, seed: u64) -> Result<()> {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism()?.get();
    let count = schedules.end - schedules.start;
    let searches: Vec<_> = (0..threads)
        .map(|first| schedules.clone().skip(first).step_by(threads))
        .map(|numbers| std::thread::spawn(move || search(seed, numbers, None)))
        .collect();
    for thread in searches {
        if let Some(failure) = thread.join().map_err(|_| anyhow!("a thread panicked, seed {seed}"))? {
            bail!("seed {seed}, {failure}");
        }
    }
    println!(
        "{count} schedules, each under {} policies, seed {seed}: no rule broken, {:.1} s",
        POLICIES.len(),
        begun.elapsed().as_secs_f64(),
    );
    Ok(())
}

fn faults() -> Result<()> {
    for fault in FAULTS {
        let failure = search(1, 0..u64::MAX, Some(fault)).context("schedules do not end")?;
        let Failure {
            broken, number, steps, ..
        } = failure;
        println!(
            "{fault:?}: {broken} (schedule {number}, {} steps are enough)",
            steps.len()
        );
    }
    Ok(())
}
