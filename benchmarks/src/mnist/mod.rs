//! Active Mixup's MNIST setting (arXiv 2003.13960, section 4): LeNet-5 to LeNet-5, 2,000 unlabelled
//! images, 24,000 synthetic queries in four rounds, beside a random control, over seeds.
//!
//! | module | what it is |
//! |---|---|
//! | [`teacher`] | the black box: trained once, served with a bill of its own |
//! | [`job`] | the job file of a seed |
//! | [`summary`] | what is read of a job's `summary.json` |
//! | [`report`] | figures over seeds, beside the published ones |
//! | [`methods`] | ways to choose and to train, side by side at equal queries |
//! | [`papers`] | the papers' tables at their 26,000 queries |
//! | [`runs`] | what either had, kept from call to call |

mod job;
pub(crate) mod methods;
pub(crate) mod papers;
mod report;
mod runs;
mod summary;
pub(crate) mod teacher;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use crate::cli::{MnistArgs, Scale};
use crate::data_set::DataSet;
use crate::machine::Machine;
use crate::mnist::job::Setting;
use crate::mnist::report::{Report, SeedResult};
use crate::mnist::summary::Summary;
use crate::mnist::teacher::{Recipe, Server, Teacher};
use crate::places::{Places, publish_in, write};
use crate::process::{read, run_logged};

/// Workers of a job, one thread each.
const WORKERS: &str = "2";

/// Runs the setting for every seed and publishes the table. Whatever is done already is not done
/// again: the teacher is kept, finished jobs only print their table, begun ones go on.
pub(crate) fn run(places: &Places, args: &MnistArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    let data = DataSet::mnist(places, &args.data)?;
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
        let run = JobRun {
            places,
            teacher: &teacher,
            name: format!("{}-seed-{seed}", setting.name),
        };
        let (summary, text, bill) = run.finish(|url| setting.job(&data, url, seed))?;
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        write(&out.join(format!("{}-seed-{seed}.summary.json", setting.name)), &text)?;
        seeds.push(SeedResult::new(seed, &summary, bill)?);
    }
    let report = Report::new(&setting, &teacher, seeds, Machine::this());
    publish_in(&out, setting.name, &report.markdown(), &serde_json::to_value(&report)?)
}

/// Refuses names of `only` that none of `names` is.
fn check_names<const N: usize>(only: &[String], names: [&str; N]) -> anyhow::Result<()> {
    match only.iter().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => bail!("--only: expected some of {}, found {name}", names.join(", ")),
    }
}

/// Whether `name` is among `only`, or all are wanted.
fn is_wanted(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|wanted| wanted == name)
}

/// One job on MNIST.
struct JobRun<'a> {
    places: &'a Places,
    teacher: &'a Teacher,
    /// Of the job, its directory below `target/bench`, and what lies beside that.
    name: String,
}

impl JobRun<'_> {
    /// Serves the teacher, runs to its end the job that `text` writes for the teacher's address, and
    /// compares its account with the teacher's bill. Returns its summary, the text of that, and the
    /// lines of the bill.
    fn finish(&self, text: impl FnOnce(&str) -> String) -> anyhow::Result<(Summary, String, u64)> {
        let (dir, bill) = (self.path("")?, self.path(".bill")?);
        if !dir.exists() && bill.exists() {
            // The bill of a job that was deleted.
            fs::remove_file(&bill).with_context(|| format!("cannot remove {}", bill.display()))?;
        }
        let server = Server::start(self.places, self.teacher, &bill, &self.path(".teacher.log")?)?;
        let (job, log) = (self.path(".yaml")?, self.path(".log")?);
        write(&job, &text(server.url()))?;
        eprintln!("{}: running, with its log in {}", self.name, log.display());
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
            "{}: the job counts {} queries billed and {} ambiguous of {}, the teacher's own bill has {lines}",
            self.name,
            budget.billed.total,
            budget.ambiguous,
            budget.queries
        );
        Ok((summary, text, lines))
    }

    fn path(&self, suffix: &str) -> anyhow::Result<PathBuf> {
        Ok(self.places.work()?.join(format!("{}{suffix}", self.name)))
    }
}
