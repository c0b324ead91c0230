//! Measures what the ledger takes: admission of new keys in bulk, whole lives (reserved, sent,
//! committed with a label of ten classes), and a restart with everything outstanding. Every figure
//! is from the first request to the last answer, each answer after fsync.
//!
//! Usage: `commit_rate DIR [QUERIES]` (a folder on the disk to measure; 1,000,000 queries a row).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use stillhouse_ledger::{Admission, Genesis, Ledger, OnAmbiguous, Permit, Request, RequestId};

const CLASSES: u32 = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("usage: commit_rate DIR [QUERIES]")?;
    let queries = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = Path::new(&dir);
    for chunk in [1_024, 4_096, 16_384] {
        admit(&dir.join(format!("admit-{chunk}")), queries, chunk).await?;
    }
    restart(&dir.join("admit-16384"), queries).await?;
    for (callers, batch) in [(256, 64), (64, 64), (8, 64), (1, 64), (1, 1_024), (64, 1)] {
        // One query at a time is slow enough with fewer.
        let queries = if callers * batch < 4_096 { queries / 20 } else { queries };
        lives(&dir.join(format!("lives-{callers}-{batch}")), queries, callers, batch).await?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Ledger> {
    let genesis = Genesis {
        job_digest: [0; 32],
        fingerprint: Fingerprint([0; 32]),
        budget: u64::MAX,
        classes: CLASSES,
        on_ambiguous: OnAmbiguous::Hold,
    };
    Ok(Ledger::create_or_open(dir, &genesis)?)
}

/// A query of its own number, with a key as well mixed as a digest.
fn request(number: u64) -> Request {
    let mut key = [0; 32];
    let mut state = number;
    for word in key.chunks_exact_mut(8) {
        // SplitMix64, a bijection of the state.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    let lambda = Lambda::from_hundredths(50).expect("at most 100");
    Request {
        key: Key(key),
        sample: Sample::Mix(Candidate {
            pair: PairId(number),
            lambda,
        }),
        arm: Arm::Active,
    }
}

fn permits(admissions: Vec<Admission>) -> Vec<Permit> {
    let permit = |admission| match admission {
        Admission::Permitted(permit) => Some(permit),
        Admission::Known(_) | Admission::InFlight | Admission::Held { .. } | Admission::Exhausted => None,
    };
    admissions.into_iter().filter_map(permit).collect()
}

async fn admit(dir: &Path, queries: u64, chunk: u64) -> Result<()> {
    let ledger = open(dir)?;
    let begun = Instant::now();
    for from in (0..queries).step_by(chunk as usize) {
        let requests: Vec<Request> = (from..queries.min(from + chunk)).map(request).collect();
        let wanted = requests.len();
        ensure!(permits(ledger.admit(requests).await?).len() == wanted, "keys are new");
    }
    tell(&format!("admit, chunks of {chunk}"), queries, begun);
    Ok(())
}

async fn restart(dir: &Path, queries: u64) -> Result<()> {
    let begun = Instant::now();
    let ledger = open(dir)?;
    println!(
        "open with {queries} outstanding: {:.2} s",
        begun.elapsed().as_secs_f64()
    );
    ensure!(ledger.counts().await?.reserved == 0, "what was reserved is void");
    Ok(())
}

async fn lives(dir: &Path, queries: u64, callers: u64, batch: u64) -> Result<()> {
    let ledger = open(dir)?;
    let begun = Instant::now();
    let each = queries / callers / batch;
    let callers: Vec<_> = (0..callers)
        .map(|caller| tokio::spawn(live(ledger.clone(), caller * each * batch, each, batch)))
        .collect();
    let count = callers.len() as u64;
    for caller in callers {
        caller.await??;
    }
    tell(
        &format!("lives, {count} callers, batches of {batch}"),
        count * each * batch,
        begun,
    );
    ensure!(
        ledger.counts().await?.committed == count * each * batch,
        "each is committed"
    );
    Ok(())
}

async fn live(ledger: Ledger, first: u64, rounds: u64, batch: u64) -> Result<()> {
    let label = SoftLabel::from_probabilities(vec![0.1; CLASSES as usize], CLASSES as usize)?;
    for from in (0..rounds).map(|round| first + round * batch) {
        let admissions = ledger.admit((from..from + batch).map(request).collect()).await?;
        let sent = ledger.mark_sent(RequestId(from.into()), permits(admissions)).await?;
        let labels = sent.into_iter().map(|permit| (permit, label.clone()));
        ledger.commit(labels.collect()).await?;
    }
    Ok(())
}

fn tell(what: &str, queries: u64, begun: Instant) {
    let rate = queries as f64 / begun.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} queries/s");
}
