//! Active Mixup's MNIST setting (arXiv 2003.13960, section 4): LeNet-5 to LeNet-5, 2,000 unlabelled
//! images, 24,000 synthetic queries in four rounds, beside a random control, over seeds.
//!
//! | module | what it is |
//! |---|---|
//! | [`teacher`] | the black box: trained once, served with a bill of its own |
//! | [`job`] | the job file of a seed |
//! | [`summary`] | what is read of a job's `summary.json` |
//! | [`report`] | figures over seeds, beside the published ones |

mod job;
mod report;
mod summary;
pub(crate) mod teacher;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::cli::{MnistArgs, Scale};
use crate::machine::Machine;
use crate::mnist::job::Setting;
use crate::mnist::report::{Report, SeedResult};
use crate::mnist::summary::Summary;
use crate::mnist::teacher::{Recipe, Server, Teacher};
use crate::places::{Mnist, Places, publish_in, write};
use crate::process::{read, run_logged};

/// Workers of a job, one thread each.
const WORKERS: &str = "2";

/// Runs the setting for every seed and publishes the table. Whatever is done already is not done
/// again: the teacher is kept, finished jobs only print their table, begun ones go on.
pub(crate) fn run(places: &Places, args: &MnistArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    let data = Mnist::find(places, &args.data)?;
    let (setting, recipe) = match args.scale {
        Scale::Published => (Setting::PUBLISHED, Recipe::PUBLISHED),
        Scale::Small => (Setting::SMALL, Recipe::SMALL),
    };
    let out = match (&args.out, args.scale) {
        (Some(out), _) => out.clone(),
        (None, Scale::Published) => places.results(),
        (None, Scale::Small) => places.work()?.join("results"),
    };
    let teacher = Teacher::trained(places, &data, &recipe)?;
    let mut seeds = Vec::new();
    for &seed in &args.seeds {
        let run = SeedRun {
            places,
            data: &data,
            setting: &setting,
            teacher: &teacher,
            seed,
        };
        let (result, summary) = run.finish()?;
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        write(
            &out.join(format!("{}-seed-{seed}.summary.json", setting.name)),
            &summary,
        )?;
        seeds.push(result);
    }
    let report = Report::new(&setting, &teacher, seeds, Machine::this());
    publish_in(&out, setting.name, &report.markdown(), &serde_json::to_value(&report)?)
}

/// One job of the setting.
struct SeedRun<'a> {
    places: &'a Places,
    data: &'a Mnist,
    setting: &'a Setting,
    teacher: &'a Teacher,
    seed: u64,
}

impl SeedRun<'_> {
    /// Serves the teacher, runs the job to its end, and compares its account with the teacher's
    /// bill. Returns its figures and the text of its `summary.json`.
    fn finish(&self) -> anyhow::Result<(SeedResult, String)> {
        let (dir, bill) = (self.path("")?, self.path(".bill")?);
        if !dir.exists() && bill.exists() {
            // The bill of a job that was deleted.
            fs::remove_file(&bill).with_context(|| format!("cannot remove {}", bill.display()))?;
        }
        let server = Server::start(self.places, self.teacher, &bill, &self.path(".teacher.log")?)?;
        let (job, log) = (self.path(".yaml")?, self.path(".log")?);
        write(&job, &self.setting.job(self.data, server.url(), self.seed))?;
        eprintln!("seed {}: running, with its log in {}", self.seed, log.display());
        let mut command = self.places.stillhouse()?;
        command
            .arg("run")
            .arg(&job)
            .arg("--dir")
            .arg(&dir)
            .args(["--workers", WORKERS, "--quiet"]);
        run_logged(&mut command, &log)?;
        drop(server);
        let text = read(&dir.join("summary.json"))?;
        let summary = Summary::parse(&text)?;
        let lines = read(&bill)?.lines().count() as u64;
        let budget = &summary.budget;
        ensure!(
            (budget.billed.total..=budget.billed.total + budget.ambiguous).contains(&lines) && lines <= budget.queries,
            "seed {}: the job counts {} queries billed and {} ambiguous of {}, the teacher's own bill has {lines}",
            self.seed,
            budget.billed.total,
            budget.ambiguous,
            budget.queries
        );
        Ok((SeedResult::new(self.seed, &summary, lines)?, text))
    }

    /// `target/bench/SETTING-seed-SEED` and what lies beside it.
    fn path(&self, suffix: &str) -> anyhow::Result<PathBuf> {
        let Self { setting, seed, .. } = self;
        Ok(self
            .places
            .work()?
            .join(format!("{}-seed-{seed}{suffix}", setting.name)))
    }
}
