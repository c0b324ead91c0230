//! Selection from up to 10^12 pairs by up to 1,024 workers: the real coordinator, and workers whose scores are known and
//! whose time is reckoned.

mod cluster;
mod coordinator;
mod scores;

use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stillhouse_core::pool::{Pairing, Pool};

use self::cluster::{Cluster, Ended, Moved};
use self::coordinator::{Process, Used};
use self::scores::Scores;
use crate::cli::ScaleArgs;
use crate::machine::Machine;
use crate::places::{Places, publish_in};
use crate::table::{Table, grouped, verdict};

/// Weights tried a pair, as the papers have it.
const LAMBDAS: u64 = 11;
/// Bytes a round for a million candidates, both ways, without the student's weights.
const GOAL_BYTES: u64 = 64_000_000;
const GOAL_MEMORY: u64 = 256 << 20;
/// Least scan efficiency with so many workers.
const GOAL_EFFICIENCY: [(u64, f64); 2] = [(256, 0.95), (1_024, 0.90)];

/// One simulation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Setting {
    /// Seed images: their pairs are the pool.
    seeds: u32,
    /// Candidates wanted.
    k: u64,
    workers: u64,
    model: Model,
}

/// What workers and links are taken to be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    /// Pairs that a worker scans in a second.
    scan_pairs_a_second: f64,
    /// Pairs that it scores exactly.
    exact_pairs_a_second: f64,
    /// One worker in so many is slow.
    straggler_in: u64,
    /// So many times.
    straggler_times: f64,
    /// Chance of a worker to die within an hour.
    failures_an_hour: f64,
    /// Until another takes its place.
    replaced_after: Duration,
    /// One way between worker and coordinator.
    latency: Duration,
    /// What a command costs a worker whatever it is.
    command: Duration,
    worker_bytes_a_second: f64,
    coordinator_bytes_a_second: f64,
    /// A message with the student's weights.
    weights_bytes: u64,
}

impl Model {
    /// Workers with two threads that score with LeNet-5, with `candidates` a second in a scan. Exact scores are slower by
    /// what the results of `scoring` have: 1,201 pairs in 0.131 s beside a scan of 422,961 candidates a second.
    fn of(candidates: f64) -> Self {
        let scan_pairs_a_second = candidates / LAMBDAS as f64;
        Self {
            scan_pairs_a_second,
            exact_pairs_a_second: scan_pairs_a_second * (1_201.0 / 0.131) / (422_961.0 / LAMBDAS as f64),
            straggler_in: 20,
            straggler_times: 4.0,
            failures_an_hour: 0.001,
            replaced_after: Duration::from_secs(60),
            latency: Duration::from_micros(500),
            command: Duration::from_millis(1),
            worker_bytes_a_second: 1e9 / 8.0,
            coordinator_bytes_a_second: 1e10 / 8.0,
            // 61,706 values.
            weights_bytes: 250_000,
        }
    }

    fn worker_link(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.worker_bytes_a_second)
    }

    fn coordinator_link(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.coordinator_bytes_a_second)
    }
}

/// One simulation and what came of it.
struct Figures {
    setting: Setting,
    pairs: u64,
    ended: Ended,
    used: Used,
    is_exact: bool,
}

/// Simulates everything that is asked for and publishes the tables.
pub(crate) fn run(places: &Places, args: &ScaleArgs) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for k in &args.k {
        for seeds in &args.seeds {
            let pairs = Pool::new(*seeds, Pairing::All).pairs();
            let scores = Scores::new(pairs, *k);
            for workers in &args.workers {
                eprintln!("{} of {} by {workers}", grouped(*k as f64), grouped(pairs as f64));
                let setting = Setting {
                    seeds: *seeds,
                    k: *k,
                    workers: *workers,
                    model: Model::of(args.rate),
                };
                figures.push(simulate(setting, pairs, &scores)?);
            }
        }
    }
    let data = json!({
        "machine": Machine::this(),
        "model": Model::of(args.rate),
        "simulations": figures.iter().map(Figures::json).collect::<Vec<_>>(),
    });
    let folder = args.out.clone().unwrap_or_else(|| places.results());
    publish_in(&folder, "scale", &table(&figures, args.rate).to_string(), &data)?;
    ensure!(
        figures.iter().all(|figures| figures.is_exact),
        "expected the best of the pool, found another batch"
    );
    Ok(())
}

/// The coordinator's process of one simulation.
pub(crate) fn run_own(setting: &str) -> anyhow::Result<()> {
    coordinator::serve(&serde_json::from_str(setting)?)
}

fn simulate(setting: Setting, pairs: u64, scores: &Scores) -> anyhow::Result<Figures> {
    let mut process = Process::start(&setting)?;
    let ended = Cluster::new(&setting, scores, &mut process).run()?;
    let used = process.end()?;
    let winners = scores.winners(setting.k as usize)?;
    let want = winners.iter().map(|entry| (entry.pair.0, entry.lambda.hundredths()));
    let is_exact = want.eq(ended.chosen.batch.iter().copied()) && ended.chosen.scanned.counted == pairs;
    Ok(Figures {
        setting,
        pairs,
        ended,
        used,
        is_exact,
    })
}

impl Figures {
    /// Both ways, without the student's weights.
    fn bytes(&self) -> u64 {
        self.ended.moved.reports + self.ended.moved.commands
    }

    /// The time that the scan would take if all workers computed all the time, of the time that it took from the first
    /// calibration to the last shard.
    fn scan_efficiency(&self) -> f64 {
        let ideal = self.pairs as f64 / self.ended.scan_rate;
        ideal / (self.ended.chosen.scanned.scan_ms as f64 / 1e3)
    }

    fn json(&self) -> Value {
        let Moved {
            reports,
            commands,
            weights,
            messages,
        } = self.ended.moved;
        json!({
            "pairs": self.pairs,
            "k": self.setting.k,
            "workers": self.setting.workers,
            "isExact": self.is_exact,
            "seconds": self.ended.lasted.as_secs_f64(),
            "scanMs": self.ended.chosen.scanned.scan_ms,
            "rescoreMs": self.ended.chosen.scanned.rescore_ms,
            "scans": self.ended.chosen.scanned.scans,
            "rescored": self.ended.chosen.scanned.rescored,
            "scanEfficiency": self.scan_efficiency(),
            "reportBytes": reports,
            "commandBytes": commands,
            "weightsBytes": weights,
            "reports": messages,
            "deaths": self.ended.deaths,
            "coordinatorPeakBytes": self.used.peak_bytes,
            "coordinatorProcessorSeconds": self.used.processor.as_secs_f64(),
        })
    }

    fn cells(&self) -> [String; 11] {
        let mega = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        [
            format!(
                "{:.0e}, {:.0e}, {}",
                self.pairs as f64,
                self.setting.k as f64,
                grouped(self.setting.workers as f64)
            ),
            grouped(self.ended.lasted.as_secs_f64()),
            format!("{:.1}", 100.0 * self.scan_efficiency()),
            format!("{:.2}", self.ended.chosen.scanned.rescore_ms as f64 / 1e3),
            mega(self.ended.moved.reports),
            mega(self.ended.moved.commands),
            grouped(self.ended.moved.messages as f64),
            self.ended.deaths.to_string(),
            mega(self.used.peak_bytes),
            format!("{:.1}", self.used.processor.as_secs_f64()),
            if self.is_exact { "yes" } else { "**no**" }.to_owned(),
        ]
    }
}

fn table(figures: &[Figures], rate: f64) -> Table {
    let header = [
        "pairs, k, workers",
        "simulated s",
        "scan efficiency %",
        "rescore s",
        "MB in",
        "MB out",
        "reports",
        "deaths",
        "peak memory MB",
        "processor s",
        "exact",
    ];
    let mut table = Table::new("One round's selection: a real coordinator, simulated workers", header);
    figures.iter().for_each(|figures| table.row(figures.cells()));
    let worst = |of: &dyn Fn(&Figures) -> u64| figures.iter().map(of).max().unwrap_or(0);
    table.note(verdict(
        &format!("at most {} MB a round", GOAL_BYTES / 1_000_000),
        worst(&Figures::bytes) <= GOAL_BYTES,
    ));
    table.note(verdict(
        &format!("the coordinator's memory at most {} MiB", GOAL_MEMORY >> 20),
        worst(&|figures| figures.used.peak_bytes) <= GOAL_MEMORY,
    ));
    for (workers, least) in GOAL_EFFICIENCY {
        let mut such = figures.iter().filter(|figures| figures.setting.workers == workers);
        table.note(verdict(
            &format!(
                "a scan efficiency of at least {:.0} % with {workers} workers",
                100.0 * least
            ),
            such.all(|figures| figures.scan_efficiency() >= least),
        ));
    }
    table.note(verdict(
        "exactly the best of the pool, every pair counted once",
        figures.iter().all(|figures| figures.is_exact),
    ));
    table.note(explanation(rate));
    table.note(Machine::this().line());
    table
}

fn explanation(rate: f64) -> String {
    let model = Model::of(rate);
    format!(
        "A worker scans {} candidates ({LAMBDAS} a pair) a second, and scores {} exactly: two threads with LeNet-5, as measured \
         under *Scoring*. One in {} is {} times slower; each dies with a chance of {} % an hour, and another comes after {} s. \
         A message takes {} ms and its bytes at 1 Gbit/s to or from a worker, 10 Gbit/s to or from the coordinator, whose own \
         measured time for it counts as well. *Scan efficiency*: the time if all workers, slow ones at their speed, scanned \
         all the time, over the time from the first calibration to the last shard, with the weights ({} kB a worker, not in \
         the megabytes) sent meanwhile. *Peak memory* and *processor*: the coordinator's process, by the kernel's account, \
         from its start to the batch as the line that goes into the ledger. Scores lie like least \
         confidence over ten classes, and approximate ones stray by up to 4.3e-6.",
        grouped(rate),
        grouped(model.exact_pairs_a_second * LAMBDAS as f64),
        model.straggler_in,
        model.straggler_times,
        100.0 * model.failures_an_hour,
        model.replaced_after.as_secs(),
        model.latency.as_secs_f64() * 1e3,
        model.weights_bytes / 1_000,
    )
}
