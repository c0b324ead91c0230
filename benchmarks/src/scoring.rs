//! Candidates scored a second, beside two PyTorch loops.

use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::DataArgs;
use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::mnist::teacher::{Recipe, Teacher};
use crate::places::Places;
use crate::process::{Ended, run as run_program};
use crate::python;
use crate::statistics::{Spread, interleaved};
use crate::table::{Table, grouped, verdict};

const SEED_IMAGES: u32 = 2_000;
const THREADS: &str = "2";
/// Goals on LeNet-5, against the authors' loop and the best plain PyTorch; elsewhere never slower
/// than the latter.
const GOALS: (f64, f64) = (20.0, 3.0);

/// How long each program runs on one network: a few seconds a repetition.
struct Setting {
    architecture: &'static str,
    repetitions: usize,
    /// Pairs of our scan and candidates wanted of them: the share that the MNIST job wants.
    pairs: u64,
    wanted: u64,
    /// Pairs of the scan that is compared with the exact one, and candidates wanted.
    verified: (u64, u64),
    /// Pairs of the authors' loop and of the best PyTorch.
    authors: u64,
    best: u64,
}

const SETTINGS: [Setting; 2] = [
    Setting {
        architecture: "lenet5",
        repetitions: 5,
        pairs: 400_000,
        wanted: 1_200,
        verified: (20_000, 500),
        authors: 2_000,
        best: 20_000,
    },
    Setting {
        architecture: "resnet20",
        repetitions: 3,
        pairs: 4_000,
        wanted: 12,
        verified: (500, 25),
        authors: 100,
        best: 500,
    },
];

/// What `stillhouse-worker bench score` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ours {
    candidates_per_second: f64,
    scan_candidates_per_second: f64,
    deviation: f64,
    rescored: u64,
    seconds: Seconds,
    same_as_exact: Option<bool>,
}

/// Where our time went.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seconds {
    calibration: f64,
    scan: f64,
    rescore: f64,
}

/// What the peer prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Peer {
    candidates_per_second: f64,
    /// The fastest way to run the network, where the peer tried several.
    combination: Option<String>,
}

/// One network's figures, a repetition each.
struct Measured {
    ours: Vec<Ours>,
    authors: Vec<Peer>,
    best: Vec<Peer>,
}

/// Measures both networks and publishes the table.
pub(crate) fn run(places: &Places, args: &DataArgs) -> anyhow::Result<()> {
    let data = DataSet::mnist(places, args)?;
    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
    let header = [
        "network",
        "Stillhouse",
        "its scan alone",
        "authors' loop",
        "best PyTorch",
        "x authors",
        "x best",
    ];
    let mut table = Table::new("Candidates (pairs x lambdas) scored a second, two threads", header);
    let mut networks = Vec::new();
    for setting in &SETTINGS {
        eprintln!("{}: is the choice that of an exact scan?", setting.architecture);
        verify(places, setting, &data, &teacher)?;
        eprintln!("{}: which way is PyTorch's best?", setting.architecture);
        let combination = best_combination(places, setting)?;
        eprintln!(
            "{}: {combination}; {} repetitions, interleaved",
            setting.architecture, setting.repetitions
        );
        let measured = measure(places, setting, &data, &teacher, &combination)?;
        networks.push(summarize(setting, &measured, &mut table));
    }
    table.note(format!(
        "2,000 seed images, 11 lambdas, medians of {} (LeNet-5) and {} interleaved repetitions; ratios are of runs side by \
         side, with the smallest and the largest. LeNet-5 with the trained weights of the MNIST teacher on MNIST, ResNet-20 \
         with initial weights on noise. *Stillhouse* counts everything from the first candidate to the final choice: scan, \
         exact rescore, and of the guard's calibration, which is done once for all 1,999,000 pairs, the share of the pairs \
         that are scanned. On a part of the pool, {} pairs for LeNet-5 and {} for ResNet-20, \
         it chose exactly what a scan of every candidate on its exact bytes chooses.",
        SETTINGS[0].repetitions,
        SETTINGS[1].repetitions,
        grouped(SETTINGS[0].verified.0 as f64),
        grouped(SETTINGS[1].verified.0 as f64),
    ));
    table.note(Machine::this().line());
    places.publish(
        "scoring",
        &table,
        &json!({ "machine": Machine::this(), "networks": networks }),
    )
}

/// Stops unless the guarded scan chooses exactly what the exact scan chooses.
fn verify(places: &Places, setting: &Setting, data: &DataSet, teacher: &Teacher) -> anyhow::Result<()> {
    let (pairs, wanted) = setting.verified;
    let mut command = ours(places, setting, data, teacher)?;
    command.args(["--pairs", &pairs.to_string(), "--k", &wanted.to_string(), "--verify"]);
    let found: Ours = run_program(&mut command)?.json()?;
    ensure!(
        found.same_as_exact == Some(true),
        "{}: the guarded scan of {pairs} pairs does not choose what the exact scan chooses: {found:?}",
        setting.architecture
    );
    Ok(())
}

/// `bench score` on 2,000 images: MNIST and a trained network where the network is the teacher's.
fn ours(places: &Places, setting: &Setting, data: &DataSet, teacher: &Teacher) -> anyhow::Result<Command> {
    let mut command = places.worker()?;
    command.args([
        "bench",
        "score",
        "--architecture",
        setting.architecture,
        "--threads",
        THREADS,
    ]);
    command.args(["--seeds", &SEED_IMAGES.to_string()]);
    if setting.architecture == Teacher::ARCHITECTURE {
        command
            .arg("--images")
            .arg(data.train_images())
            .arg("--weights")
            .arg(&teacher.weights);
    }
    Ok(command)
}

/// A PyTorch loop on the setting's network.
fn peer(places: &Places, setting: &Setting, style: &str) -> anyhow::Result<Command> {
    let mut command = python::peer(places, "scoring_peer.py")?;
    command.args([
        "--architecture",
        setting.architecture,
        "--threads",
        THREADS,
        "--style",
        style,
    ]);
    Ok(command)
}

/// The fastest way to run the network in plain PyTorch, of all that the peer knows.
fn best_combination(places: &Places, setting: &Setting) -> anyhow::Result<String> {
    let found: Peer = run_program(&mut peer(places, setting, "find")?)?.json()?;
    found.combination.context("the peer names no combination")
}

fn measure(
    places: &Places,
    setting: &Setting,
    data: &DataSet,
    teacher: &Teacher,
    combination: &str,
) -> anyhow::Result<Measured> {
    let mut whole = || {
        let mut command = ours(places, setting, data, teacher)?;
        run_program(command.args([
            "--pairs",
            &setting.pairs.to_string(),
            "--k",
            &setting.wanted.to_string(),
        ]))
    };
    let mut authors = || run_program(peer(places, setting, "authors")?.args(["--pairs", &setting.authors.to_string()]));
    let mut best = || {
        let mut command = peer(places, setting, "best")?;
        run_program(command.args(["--combination", combination, "--pairs", &setting.best.to_string()]))
    };
    let ended = interleaved(setting.repetitions, &mut [&mut whole, &mut authors, &mut best])?;
    Ok(Measured {
        ours: ended[0].iter().map(Ended::json).collect::<Result<_, _>>()?,
        authors: ended[1].iter().map(Ended::json).collect::<Result<_, _>>()?,
        best: ended[2].iter().map(Ended::json).collect::<Result<_, _>>()?,
    })
}

/// Adds the network's row, and its goals, to the table; returns its part of the JSON.
fn summarize(setting: &Setting, measured: &Measured, table: &mut Table) -> serde_json::Value {
    let Measured { ours, authors, best } = measured;
    let rates = |peers: &[Peer]| peers.iter().map(|peer| peer.candidates_per_second).collect::<Vec<_>>();
    let median = |figures: &[f64]| Spread::of(figures.iter().copied()).expect("at least one repetition");
    let (authors_rates, best_rates) = (rates(authors), rates(best));
    let whole: Vec<f64> = ours.iter().map(|run| run.candidates_per_second).collect();
    let scan: Vec<f64> = ours.iter().map(|run| run.scan_candidates_per_second).collect();
    let ratio = |theirs: &[f64]| Spread::of_ratios(&whole, theirs).expect("at least one repetition");
    let (over_authors, over_best) = (ratio(&authors_rates), ratio(&best_rates));
    let middles = [&whole, &scan, &authors_rates, &best_rates].map(|figures| grouped(median(figures).median));
    let name = std::iter::once(setting.architecture.to_owned());
    table.row(
        name.chain(middles)
            .chain([over_authors.as_ratio(), over_best.as_ratio()]),
    );
    if setting.architecture == Teacher::ARCHITECTURE {
        let (authors, best) = GOALS;
        table.note(verdict(
            &format!("{authors} x the authors' loop on LeNet-5"),
            over_authors.median >= authors,
        ));
        table.note(verdict(
            &format!("{best} x the best PyTorch on LeNet-5"),
            over_best.median >= best,
        ));
    } else {
        let goal = format!("never slower than the best PyTorch on {}", setting.architecture);
        table.note(verdict(&goal, over_best.median >= 1.0));
    }
    table.note(format!(
        "The best PyTorch on {}: {} (pooling, memory format, network, images a batch).",
        setting.architecture,
        best.first()
            .and_then(|run| run.combination.as_deref())
            .unwrap_or("unnamed"),
    ));
    json!({
        "architecture": setting.architecture, "pairs": setting.pairs, "seedImages": SEED_IMAGES,
        "stillhouse": ours, "authors": authors, "best": best,
        "timesAuthors": over_authors, "timesBest": over_best,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(rate: f64) -> Ours {
        let printed = json!({
            "architecture": "lenet5", "candidates_per_second": rate, "scan_candidates_per_second": 1.1 * rate,
            "deviation": 1e-6, "rescored": 700, "seconds": { "calibration": 0.4, "scan": 9.0, "rescore": 0.2 },
            "same_as_exact": null, "peak_memory_mib": 200,
        });
        serde_json::from_value(printed).unwrap()
    }

    fn peer(rate: f64) -> Peer {
        serde_json::from_value(json!({ "candidates_per_second": rate })).unwrap()
    }

    #[test]
    fn a_row_has_medians_and_ratios_of_runs_side_by_side_and_says_which_goals_were_missed() {
        let measured = Measured {
            ours: vec![ours(300_000.0), ours(150_000.0), ours(310_000.0)],
            authors: vec![peer(10_000.0), peer(5_000.0), peer(10_000.0)],
            best: vec![peer(120_000.0), peer(60_000.0), peer(120_000.0)],
        };
        let mut table = Table::new("Speed", ["", "ours", "scan", "authors", "best", "x", "x"]);
        let data = summarize(&SETTINGS[0], &measured, &mut table);
        let text = table.to_string();
        assert!(
            text.contains("300,000") && text.contains("30.00 (30.00 to 31.00)"),
            "{text}"
        );
        assert!(text.contains("20 x the authors' loop on LeNet-5: reached."), "{text}");
        assert!(text.contains("3 x the best PyTorch on LeNet-5: **missed**."), "{text}");
        assert_eq!(data["timesBest"]["median"], 2.5);
    }
}
