//! Memory over a pool of a billion pairs: the pool is never stored.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;
use serde_json::json;

use crate::cli::DataArgs;
use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::places::{Places, quoted, write};
use crate::process::{Ended, run as run_program};
use crate::table::{Table, grouped, verdict};

/// N (N - 1) / 2 pairs are just above 10^9.
const SEED_IMAGES: u32 = 44_722;
const PAIRS: &str = "1,000,006,281";
const LAMBDAS: u64 = 11;
const SHARD_PAIRS: u64 = 131_072;
/// First pair of the shard: in the middle of the pool.
const SHARD_START: u64 = 500_000_000;
const LIMIT_BYTES: u64 = 1_000_000_000;

/// What `stillhouse-worker bench score` prints.
#[derive(Deserialize)]
struct Scored {
    candidates: f64,
}

/// One process and what it used.
struct Use {
    what: &'static str,
    wall: Duration,
    peak_bytes: u64,
}

impl Use {
    fn new(what: &'static str, ended: &Ended) -> Self {
        Self {
            what,
            wall: ended.wall,
            peak_bytes: ended.peak_bytes,
        }
    }
}

/// Runs a dry run and a shard, and publishes the table.
///
/// # Errors
/// Also when one of them needs more than 1 GB, after the table was printed.
pub(crate) fn run(places: &Places, args: &DataArgs) -> anyhow::Result<()> {
    let data = DataSet::mnist(places, args)?;
    let path = places.work()?.join("pool-1e9.yaml");
    write(&path, &job(data.train_images()))?;
    eprintln!("a dry run, then a shard of {} pairs", grouped(SHARD_PAIRS as f64));
    let dry = run_program(places.stillhouse()?.arg("run").arg(&path).arg("--dry-run"))?;
    ensure!(
        dry.stdout.contains(PAIRS),
        "expected a dry run over {PAIRS} pairs, found {:?}",
        dry.stdout
    );
    let mut shard = places.worker()?;
    shard
        .args(["bench", "score", "--k", "6000", "--threads", "2"])
        .arg("--images")
        .arg(data.train_images());
    shard.args(["--seeds", &SEED_IMAGES.to_string(), "--pairs", &SHARD_PAIRS.to_string()]);
    shard.args(["--start", &SHARD_START.to_string()]);
    let shard = run_program(&mut shard)?;
    let Scored { candidates } = shard.json()?;
    let want = (SHARD_PAIRS * LAMBDAS) as f64;
    ensure!(
        candidates == want,
        "expected {want} candidates to be scored, found {candidates}"
    );
    let uses = [
        Use::new("stillhouse run --dry-run", &dry),
        Use::new("scoring one shard", &shard),
    ];
    let data: Vec<_> = uses
        .iter()
        .map(|u| json!({ "process": u.what, "peakBytes": u.peak_bytes, "seconds": u.wall.as_secs_f64() }))
        .collect();
    places.publish(
        "pool-1e9",
        &table(&uses),
        &json!({ "machine": Machine::this(), "processes": data }),
    )?;
    ensure!(
        within(&uses),
        "expected at most {} bytes of memory a process, found more",
        grouped(LIMIT_BYTES as f64)
    );
    Ok(())
}

fn within(uses: &[Use]) -> bool {
    uses.iter().all(|process| process.peak_bytes <= LIMIT_BYTES)
}

fn table(uses: &[Use]) -> Table {
    let title = format!("A pool of {PAIRS} pairs x {LAMBDAS} lambdas (44,722 MNIST images)");
    let mut table = Table::new(title, ["process", "peak memory MB", "seconds"]);
    for Use { what, wall, peak_bytes } in uses {
        let peak = grouped(*peak_bytes as f64 / 1e6);
        table.row([(*what).to_owned(), peak, format!("{:.1}", wall.as_secs_f64())]);
    }
    table.note(verdict("each process below 1 GB", within(uses)));
    table.note(format!(
        "The shard is {} pairs from pair {} on, LeNet-5, the 6,000 best kept; its start, and the exact rescore of the band \
         around the cut, are in the time.",
        grouped(SHARD_PAIRS as f64),
        grouped(SHARD_START as f64)
    ));
    table.note(Machine::this().line());
    table
}

/// A job over `images`; nobody answers at the teacher's address, and nobody is asked.
fn job(images: &Path) -> String {
    let images = quoted(images);
    format!(
        r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: pool-1e9 }}
spec:
  images:  {{ source: idx, path: {images}, take: {SEED_IMAGES} }}
  teacher: {{ protocol: open-inference, url: "http://127.0.0.1:9", model: nobody }}
  student: {{ architecture: lenet5 }}
  budget:  {{ queries: 100000, perRound: 6000 }}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::job::Job;
    use stillhouse_core::plan::Plan;

    #[test]
    fn the_job_is_valid_and_its_pool_has_a_billion_pairs() {
        let job = Job::parse(&job(Path::new("/data/train images.gz"))).expect("valid");
        let plan = Plan::new(&job, SEED_IMAGES).expect("budget");
        assert_eq!(grouped(plan.pairs as f64), PAIRS);
        assert_eq!(u64::from(plan.lambdas), LAMBDAS);
        assert!(SHARD_START + SHARD_PAIRS <= plan.pairs);
    }

    #[test]
    fn a_process_above_the_limit_is_a_miss() {
        let of = |peak_bytes| {
            [Use {
                what: "scoring",
                wall: Duration::from_secs(1),
                peak_bytes,
            }]
        };
        assert!(within(&of(LIMIT_BYTES)) && !within(&of(LIMIT_BYTES + 1)));
        assert!(table(&of(2_000_000_000)).to_string().contains("missed"));
    }
}
