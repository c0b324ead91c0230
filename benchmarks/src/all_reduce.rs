//! Sums over a ring of processes on this machine, beside PyTorch's Gloo.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::python;
use crate::statistics::{Spread, interleaved};
use crate::table::{Table, grouped, verdict};

const REPETITIONS: usize = 5;
const RANKS: [u32; 2] = [2, 4];
/// Floats, and how often they are added up in a process's life.
const SIZES: [(u32, u32); 3] = [(60_000, 100), (1_000_000, 20), (25_000_000, 4)];
/// Times as fast as Gloo.
const GOAL: f64 = 1.5;
/// Ranks there see that they are on one host, and share memory.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Ranks there do not: a connection to it comes from another address. What they send goes through sockets.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What rank 0 prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reduced {
    /// Median milliseconds.
    ms: f64,
    /// One of the sums.
    sum: f64,
}

/// Measures every size in every world and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let header = [
        "ranks, floats",
        "ring ms",
        "Gloo ms",
        "Gloo / ring",
        "ring over sockets ms",
        "Gloo / it",
    ];
    let mut table = Table::new(
        "An all-reduce of 32-bit floats on one host, each rank a process",
        header,
    );
    let (mut rows, mut worst) = (Vec::new(), f64::INFINITY);
    for ranks in RANKS {
        for (floats, times) in SIZES {
            eprintln!("{ranks} ranks, {floats} floats: {REPETITIONS} repetitions, interleaved");
            let results = interleaved(
                REPETITIONS,
                &mut [
                    &mut || ours(places, HERE, ranks, floats, times),
                    &mut || theirs(places, ranks, floats, times),
                    &mut || ours(places, ELSEWHERE, ranks, floats, times),
                ],
            )?;
            let expected = f64::from(ranks * (ranks + 1) / 2);
            let all_right = results.iter().flatten().all(|reduced| reduced.sum == expected);
            ensure!(all_right, "expected sums of {expected}, found {results:?}");
            let ms = |at: usize| results[at].iter().map(|reduced| reduced.ms).collect::<Vec<_>>();
            let median = |figures: Vec<f64>| Spread::of(figures).expect("at least one repetition").median;
            let over = |at: usize| Spread::of_ratios(&ms(1), &ms(at)).expect("at least one repetition");
            let (ratio, sockets) = (over(0), over(2));
            worst = worst.min(ratio.median);
            table.row([
                format!("{ranks}, {}", grouped(f64::from(floats))),
                format!("{:.2}", median(ms(0))),
                format!("{:.2}", median(ms(1))),
                ratio.as_ratio(),
                format!("{:.2}", median(ms(2))),
                sockets.as_ratio(),
            ]);
            rows.push(json!({
                "ranks": ranks, "floats": floats, "ring": results[0], "gloo": results[1], "sockets": results[2],
                "ratio": ratio, "socketsRatio": sockets,
            }));
        }
    }
    table.note(verdict(
        &format!("{GOAL} times as fast as Gloo at every size"),
        worst >= GOAL,
    ));
    table.note(format!(
        "Medians of {REPETITIONS} interleaved repetitions, each the median of its sums on rank 0 between barriers; the ratio is \
         of runs side by side, with the smallest and the largest. The sums are compared first. One thread a rank, so four \
         ranks share two cores. Gloo has its TCP transport, the only one of PyTorch's build; the ring between ranks of one host goes through \
         memory that neighbours share, over sockets it goes between hosts."
    ));
    table.note(Machine::this().line());
    places.publish(
        "all-reduce",
        &table,
        &json!({ "machine": Machine::this(), "rows": rows }),
    )
}

fn ours(places: &Places, address: Ipv4Addr, ranks: u32, floats: u32, times: u32) -> anyhow::Result<Reduced> {
    let listeners: Vec<TcpListener> = (0..ranks)
        .map(|_| TcpListener::bind((address, 0)))
        .collect::<Result<_, _>>()?;
    let addresses: Vec<String> = listeners
        .iter()
        .map(|l| l.local_addr().map(|a| a.to_string()))
        .collect::<Result<_, _>>()?;
    // Free from now on; each rank takes its own.
    drop(listeners);
    let peers = addresses.join(",");
    let command = |rank: u32| -> anyhow::Result<std::process::Command> {
        let mut command = places.worker()?;
        command.args(["bench", "all-reduce", "--peers", &peers, "--rank", &rank.to_string()]);
        command.args(["--floats", &floats.to_string(), "--repetitions", &times.to_string()]);
        Ok(command)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..ranks)
            .map(|rank| scope.spawn(move || run_program(&mut command(rank)?).map(drop)))
            .collect();
        let first = run_program(&mut command(0)?)?.json();
        for other in others {
            other.join().ok().context("a rank's thread panicked")??;
        }
        first
    })
}

fn theirs(places: &Places, ranks: u32, floats: u32, times: u32) -> anyhow::Result<Reduced> {
    let mut command = python::peer(places, "all_reduce_peer.py")?;
    command.args(["--ranks", &ranks.to_string(), "--floats", &floats.to_string()]);
    command.args(["--repetitions", &times.to_string()]);
    run_program(&mut command)?.json()
}
