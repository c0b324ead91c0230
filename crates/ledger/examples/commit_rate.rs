//! Measures how many queries a second the ledger takes from reserved to committed, by batch size and
//! number of callers. Usage: `commit_rate DIR` (a folder on the disk to measure).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use stillhouse_ledger::{Admission, Genesis, Ledger, OnAmbiguous, Request, RequestId};

/// Long enough for hundreds of fsyncs.
const MEASURED: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("usage: commit_rate DIR")?;
    for (callers, batch) in [(1, 1), (1, 64), (8, 64), (64, 1), (64, 64), (1, 1_024)] {
        let queries = measure(Path::new(&dir), callers, batch).await?;
        let rate = queries as f64 / MEASURED.as_secs_f64();
        println!("{callers:>3} callers, batches of {batch:>4}: {rate:>9.0} queries/s");
    }
    Ok(())
}

async fn measure(dir: &Path, callers: u32, batch: u32) -> Result<u64> {
    let dir = dir.join(format!("{callers}-{batch}"));
    let genesis = Genesis {
        job_digest: [0; 32],
        fingerprint: Fingerprint([0; 32]),
        budget: u64::MAX,
        classes: 10,
        on_ambiguous: OnAmbiguous::Hold,
    };
    let ledger = Ledger::create_or_open(&dir, &genesis)?;
    let until = Instant::now() + MEASURED;
    let callers: Vec<_> = (0..callers)
        .map(|caller| tokio::spawn(spend(ledger.clone(), caller, batch, until)))
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(ledger.counts().await?.committed)
}

async fn spend(ledger: Ledger, caller: u32, batch: u32, until: Instant) -> Result<()> {
    let label = SoftLabel::from_probabilities(vec![0.1; 10], 10)?;
    for round in 0_u32.. {
        if Instant::now() >= until {
            break;
        }
        let request = |number: u32| {
            let name: Vec<u8> = [caller, round, number]
                .iter()
                .flat_map(|part| part.to_le_bytes())
                .collect();
            let key = Key::of(
                Fingerprint([0; 32]),
                stillhouse_core::ImageShape {
                    channels: 1,
                    height: 1,
                    width: 12,
                },
                &name,
            );
            Request {
                key,
                sample: Sample::Seed(number),
                arm: Arm::Active,
            }
        };
        let admissions = ledger.admit((0..batch).map(request).collect()).await?;
        let permits: Vec<_> = admissions
            .into_iter()
            .filter_map(|admission| {
                if let Admission::Permitted(permit) = admission {
                    Some(permit)
                } else {
                    None
                }
            })
            .collect();
        let request = RequestId(u128::from(caller) << 64 | u128::from(round));
        let permits = ledger.mark_sent(request, permits).await?;
        ledger
            .commit(permits.into_iter().map(|permit| (permit, label.clone())).collect())
            .await?;
    }
    Ok(())
}
