//! What a job will ask, compute and cost, before anything is asked: `run --dry-run`.

use std::fmt::Write;
use std::time::Duration;

use stillhouse_core::Job;
use stillhouse_core::guard::Verdict;
use stillhouse_core::image::ImageShape;
use stillhouse_core::job::{Architecture, OneDeploy, Scan, Student};
use stillhouse_core::plan::Plan;
use stillhouse_core::score::Acquisition;

/// Student forward passes a second and thread, scanning and training, at the architecture's own
/// image size. LeNet-5 and ResNet-20 are rounded down from docs/benchmarks.md (two cores of a 2023
/// server processor); the others are scaled from those by their operations and have not been
/// measured. The order of magnitude is what a dry run is for.
fn rates(architecture: Architecture) -> (f64, f64) {
    match architecture {
        Architecture::Lenet5 => (200_000.0, 14_000.0),
        Architecture::Lenet5Half => (350_000.0, 20_000.0),
        Architecture::Alexnet => (3_000.0, 700.0),
        Architecture::AlexnetHalf => (9_000.0, 2_000.0),
        Architecture::Resnet20 => (3_500.0, 350.0),
        Architecture::Resnet32 => (2_100.0, 210.0),
        Architecture::Vgg16Bn => (250.0, 50.0),
    }
}

/// Image size that [`rates`] refers to, in pixels.
fn reference_pixels(architecture: Architecture) -> f64 {
    match architecture {
        Architecture::Lenet5 | Architecture::Lenet5Half => 784.0,
        Architecture::Alexnet
        | Architecture::AlexnetHalf
        | Architecture::Resnet20
        | Architecture::Resnet32
        | Architecture::Vgg16Bn => 1024.0,
    }
}

/// Part of an architecture's operations that a branch has for itself, counted.
fn branched_part(architecture: Architecture) -> f64 {
    match architecture {
        Architecture::Lenet5 | Architecture::Lenet5Half => 0.8,
        Architecture::Alexnet | Architecture::AlexnetHalf => 0.5,
        Architecture::Resnet20 | Architecture::Resnet32 => 0.33,
        Architecture::Vgg16Bn => 0.1,
    }
}

/// Rates of scanning and training for what a job makes of the architecture: branches cost their part,
/// and what is not one plain network is scanned by libtorch, forward at about three times the rate of
/// training.
fn rates_of(job: &Job, architecture: Architecture) -> (f64, f64) {
    let (scan, train) = rates(architecture);
    let Some(one) = &job.spec.student.one else {
        return (scan, train);
    };
    let train = train / (1.0 + f64::from(one.branches - 1) * branched_part(architecture));
    let is_plain = one.deploy == OneDeploy::Branch && job.spec.acquisition.score != Acquisition::Bald;
    (if is_plain { scan } else { scan.min(3.0 * train) }, train)
}

/// Figures of a dry run.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Queries and rounds.
    pub plan: Plan,
    /// What the queries cost, if a price is given.
    pub cost: Option<f64>,
    /// Memory of one worker at most, in bytes.
    pub worker_bytes: u64,
    /// Time of scanning in all rounds, if the student's speed is known.
    pub scanning: Option<Duration>,
    /// Time of training all students, if known.
    pub training: Option<Duration>,
    /// Time of asking, if the teacher's rate is limited.
    pub asking: Option<Duration>,
}

/// libtorch itself and its buffers, as measured for an idle worker and one training step.
const WORKER_BASE_BYTES: u64 = 450 << 20;
/// Bound of the scorer's cache of first-layer outputs.
const SCORER_CACHE_BYTES: u64 = 256 << 20;

impl Estimate {
    /// The estimate for `threads` threads in all.
    #[must_use]
    pub fn new(job: &Job, plan: Plan, shape: ImageShape, threads: u32) -> Self {
        let queries = plan.queries();
        let images = u64::from(plan.seeds) * shape.len() as u64;
        let labelled = (plan.queries() / u64::from(plan.arms).max(1)).saturating_mul(shape.len() as u64 + 64);
        let per_thread = match &job.student {
            Student::Zoo(architecture) => {
                let scale = reference_pixels(*architecture) * 1.0_f64.max(f64::from(shape.channels) / 3.0)
                    / (f64::from(shape.height) * f64::from(shape.width));
                let (scan, train) = rates_of(job, *architecture);
                Some((scan * scale, train * scale))
            }
            Student::TorchScript(_) => None,
        };
        let seconds = |work: f64, rate: f64| Duration::try_from_secs_f64(work / rate).unwrap_or(Duration::MAX);
        let threads = f64::from(threads.max(1));
        let scans = if job.spec.acquisition.score == Acquisition::Random {
            0
        } else {
            plan.rounds().len()
        };
        let exact = if job.spec.acquisition.scan == Scan::Exact || job.spec.acquisition.sample.is_some() {
            3.0
        } else {
            1.0
        };
        let forwards = scans as f64 * plan.forwards_a_round() as f64 * exact;
        Self {
            cost: job.spec.teacher.price_per_query.map(|price| price * queries as f64),
            worker_bytes: WORKER_BASE_BYTES + SCORER_CACHE_BYTES + images + labelled,
            scanning: per_thread.map(|(scan, _)| seconds(forwards, scan * threads)),
            training: per_thread.map(|(_, train)| seconds(training_passes(job, &plan) as f64, train * threads)),
            asking: job
                .spec
                .teacher
                .rate_per_second
                .map(|rate| seconds(queries as f64, rate)),
            plan,
        }
    }

    /// The estimate as a table.
    #[must_use]
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let rounds = plan.rounds();
        let mut text = String::new();
        let mut row =
            |name: &str, value: String| writeln!(text, "  {name:<24}{value}").expect("a String takes everything");
        row("budget", format!("{} queries", grouped(plan.budget)));
        row("seed images", format!("{} queries", grouped(u64::from(plan.seeds))));
        row(
            "evaluation slice",
            format!("{} queries", grouped(u64::from(plan.evaluation))),
        );
        row(
            "rounds",
            format!(
                "{} of up to {} for each of {} arm(s)",
                rounds.len(),
                grouped(plan.per_round),
                plan.arms
            ),
        );
        row("queries in all", format!("at most {}", grouped(plan.queries())));
        row(
            "cost",
            self.cost.map_or("no teacher.pricePerQuery given".into(), |cost| {
                format!("at most {cost:.2}")
            }),
        );
        row("pool", pool_words(plan));
        if plan.scored < plan.candidates() {
            row(
                "scored a round",
                format!("{} of them, drawn anew", grouped(plan.scored)),
            );
        }
        row("forwards a round", grouped(plan.forwards_a_round()));
        row(
            "memory a worker",
            format!("about {} MiB", grouped(self.worker_bytes >> 20)),
        );
        row(
            "time to scan",
            self.scanning.map_or("unknown for a TorchScript student".into(), about),
        );
        row(
            "time to train",
            self.training.map_or("unknown for a TorchScript student".into(), about),
        );
        row(
            "time to ask",
            self.asking.map_or("as fast as the teacher answers".into(), |t| {
                format!("at least {}", about(t))
            }),
        );
        text
    }
}

/// Samples that pass through a training step, over all students, and over the guard's twins.
fn training_passes(job: &Job, plan: &Plan) -> u64 {
    let passes = |samples: u64| samples * u64::from(job.spec.training.epochs_over(samples));
    // Two twins, each a quarter as long, on what was drawn, or as much of what was chosen.
    let twins = |known: u64, drawn: u64| job.guard().map_or(0, |_| passes(known + drawn) / 2);
    let seeds = u64::from(plan.seeds);
    let (mut known, mut drawn) = (seeds, 0);
    let later = plan.rounds().into_iter().map(|size| {
        known += size;
        drawn += job.guard().map_or(0, |guard| guard.random(size, Verdict::Undecided));
        passes(known) * u64::from(plan.arms) + twins(seeds, drawn)
    });
    passes(seeds) + later.sum::<u64>()
}

/// 1,234,567 for 1234567.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let rest = digits.as_bytes()[first..]
        .chunks(3)
        .map(|c| std::str::from_utf8(c).expect("digits"));
    std::iter::once(&digits[..first])
        .chain(rest)
        .collect::<Vec<_>>()
        .join(",")
}

fn about(time: Duration) -> String {
    match time.as_secs() {
        0..=89 => format!("about {} s", time.as_secs().max(1)),
        90..=5_399 => format!("about {} min", time.as_secs() / 60),
        5_400..=172_799 => format!("about {:.1} h", time.as_secs_f64() / 3600.0),
        _ => format!("about {} days", grouped(time.as_secs() / 86_400)),
    }
}

/// What candidates are made from.
fn pool_words(plan: &Plan) -> String {
    let pairs = format!("{} pairs x {} lambdas", grouped(plan.pairs), plan.lambdas);
    match plan.generated {
        0 => pairs,
        images => format!("{pairs}, {} generated images", grouped(u64::from(images))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::init::TEMPLATE;

    #[test]
    fn a_pool_of_a_billion_pairs_is_estimated_without_walking_it() {
        let job = Job::parse(&TEMPLATE.replace("queries: 10000", "queries: 100000")).expect("valid");
        let plan = Plan::new(&job, 44_722).expect("budget");
        assert!(plan.pairs > 1_000_000_000);
        let shape = ImageShape {
            channels: 1,
            height: 28,
            width: 28,
        };
        let table = Estimate::new(&job, plan, shape, 2).table();
        assert!(table.contains("1,000,006,281 pairs x 11 lambdas"), "{table}");
        assert!(table.contains("forwards a round        11,000,069,091"), "{table}");
    }

    #[test]
    fn a_sample_and_branches_are_part_of_the_estimate() {
        let estimate = |changes: &[(&str, &str)]| {
            let template = changes
                .iter()
                .fold(TEMPLATE.to_owned(), |text, (from, to)| text.replace(from, to));
            let job = Job::parse(&template).expect("valid");
            let shape = ImageShape {
                channels: 1,
                height: 28,
                width: 28,
            };
            let plan = Plan::new(&job, 2_000).expect("budget");
            Estimate::new(&job, plan, shape, 2)
        };
        let whole = estimate(&[]);
        let sample = ("  # acquisition: {", "  acquisition: { sample: 40000 } # {");
        let sampled = estimate(&[sample]);
        assert_eq!(sampled.plan.forwards_a_round(), 440_000);
        assert!(sampled.scanning < whole.scanning);
        assert!(
            sampled.table().contains("40,000 of them, drawn anew"),
            "{}",
            sampled.table()
        );
        let branched = estimate(&[
            sample,
            (
                "architecture: lenet5",
                "architecture: lenet5\n    one: { deploy: ensemble }",
            ),
        ]);
        assert!(branched.training > sampled.training && branched.scanning > sampled.scanning);
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567].map(grouped).each_ref().map(String::as_str)
        );
    }
}
