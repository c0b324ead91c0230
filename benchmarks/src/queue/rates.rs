//! Measures the contestants: tries every setting once, then runs the best in turns.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::cli::Persistence;
use crate::places::Places;
use crate::process::run as run_program;
use crate::queue::contestants::{Contestant, Ready, Run};
use crate::queue::server::Server;
use crate::statistics::interleaved;

/// A setting is tried on so many times fewer jobs than are measured.
const TRIAL_PART: u32 = 4;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Measured runs a contestant.
    pub(crate) repetitions: usize,
    /// Jobs are divided by this.
    pub(crate) part: u32,
}

/// One contestant under one persistence.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    /// Who.
    #[serde(rename = "contestant")]
    pub(crate) name: &'static str,
    /// Whether it is our own path.
    pub(crate) is_ours: bool,
    /// What it promises.
    pub(crate) promise: &'static str,
    /// What Redis keeps.
    pub(crate) persistence: Persistence,
    /// Setting with the best bulk enqueue, and its runs.
    pub(crate) enqueue: Measured,
    /// Setting with the most jobs done, and its runs.
    pub(crate) done: Measured,
    /// Why it was not run, or why some of its runs do not count.
    pub(crate) failures: Vec<String>,
}

/// Jobs a second of the measured runs of one setting; empty when it was not run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// The setting.
    pub(crate) setting: Value,
    /// Jobs of a run.
    pub(crate) jobs: u32,
    /// A figure a repetition; `None` where it failed.
    pub(crate) rates: Vec<Option<f64>>,
}

/// What all runs share.
pub(crate) struct Bench<'a> {
    pub(crate) places: &'a Places,
    pub(crate) persistence: Persistence,
    pub(crate) amount: Amount,
}

/// A contestant with the settings that its trial chose.
struct Chosen<'a> {
    contestant: &'a Contestant,
    ready: &'a Ready,
    enqueue: Value,
    done: Value,
    jobs: u32,
    failures: Vec<String>,
}

impl Bench<'_> {
    /// Measures all contestants, each either ready or with the reason why not.
    pub(crate) fn rates(&self, all: &[(Contestant, Result<Ready, String>)]) -> anyhow::Result<Vec<Rates>> {
        let chosen: Vec<Result<Chosen<'_>, Vec<String>>> = all
            .iter()
            .map(|(contestant, ready)| match ready {
                Ok(ready) => self.choose(contestant, ready),
                Err(reason) => Err(vec![reason.clone()]),
            })
            .collect();
        let mut runs: Vec<_> = chosen
            .iter()
            .flatten()
            .map(|chosen| || Ok(self.run_chosen(chosen)))
            .collect();
        let mut turns: Vec<&mut dyn FnMut() -> anyhow::Result<Turn>> =
            runs.iter_mut().map(|run| run as &mut dyn FnMut() -> _).collect();
        let mut turns = interleaved(self.amount.repetitions, &mut turns)?.into_iter();
        let rates = all.iter().zip(chosen).map(|((contestant, _), chosen)| match chosen {
            Ok(chosen) => self.summed(chosen, turns.next().unwrap_or_default()),
            Err(failures) => self.not_run(contestant, failures),
        });
        Ok(rates.collect())
    }

    fn not_run(&self, contestant: &Contestant, failures: Vec<String>) -> Rates {
        Rates {
            name: contestant.name,
            is_ours: contestant.is_ours(),
            promise: contestant.promise,
            persistence: self.persistence,
            enqueue: Measured::default(),
            done: Measured::default(),
            failures,
        }
    }

    /// Tries every setting on fewer jobs; a setting that fails is out. When all do, why.
    fn choose<'a>(&self, contestant: &'a Contestant, ready: &'a Ready) -> Result<Chosen<'a>, Vec<String>> {
        let jobs = (contestant.jobs / self.amount.part).max(TRIAL_PART);
        let (mut tried, mut failures) = (vec![], vec![]);
        for setting in &contestant.settings {
            match self.run(ready, setting, jobs / TRIAL_PART) {
                Ok(run) => {
                    let (name, enqueued, done) = (contestant.name, run.enqueued(), run.done());
                    eprintln!("{name}, {setting}: {enqueued:.0}/s enqueued, {done:.0}/s done");
                    tried.push((setting, run));
                }
                Err(error) => failures.push(format!("{setting} failed when it was tried: {error:#}")),
            }
        }
        let best = |rate: fn(&Run) -> f64| {
            let best = tried
                .iter()
                .max_by(|(_, one), (_, other)| rate(one).total_cmp(&rate(other)));
            best.map(|(setting, _)| (*setting).clone())
        };
        match (best(Run::enqueued), best(Run::done)) {
            (Some(enqueue), Some(done)) => Ok(Chosen {
                contestant,
                ready,
                enqueue,
                done,
                jobs,
                failures,
            }),
            _ => Err(failures),
        }
    }

    /// One repetition: the best setting of each figure; a run once when that is the same.
    fn run_chosen(&self, chosen: &Chosen<'_>) -> Turn {
        let mut turn = Turn::default();
        let mut run = |setting| match self.run(chosen.ready, setting, chosen.jobs) {
            Ok(run) => Some(run),
            Err(error) => {
                turn.failures.push(format!("{setting} failed: {error:#}"));
                None
            }
        };
        let done = run(&chosen.done);
        let enqueue = if chosen.enqueue == chosen.done {
            done.clone()
        } else {
            run(&chosen.enqueue)
        };
        turn.enqueued = enqueue.as_ref().map(Run::enqueued);
        turn.done = done.as_ref().map(Run::done);
        let figure = |rate: Option<f64>| rate.map_or("failed".to_owned(), |rate| format!("{rate:.0}/s"));
        let (name, enqueued, done) = (chosen.contestant.name, figure(turn.enqueued), figure(turn.done));
        eprintln!("{name}, {}: {enqueued} enqueued, {done} done", self.persistence);
        turn
    }

    /// One run on a server of its own.
    fn run(&self, ready: &Ready, setting: &Value, jobs: u32) -> anyhow::Result<Run> {
        let work = self.places.work()?;
        let server = Server::start(self.persistence, &work)?;
        let scratch = tempfile::TempDir::with_prefix_in("queue-", &work).context("no folder for a run")?;
        let argument = Contestant::argument(setting, jobs, &server.url(), scratch.path());
        let run: Run = run_program(ready.command(self.places)?.arg(argument.to_string()))?.json()?;
        ensure!(run.delivered_once, "not every job was delivered once");
        Ok(run)
    }

    fn summed(&self, chosen: Chosen<'_>, turns: Vec<Turn>) -> Rates {
        let measured = |setting, rates| Measured {
            setting,
            jobs: chosen.jobs,
            rates,
        };
        let enqueued = turns.iter().map(|turn| turn.enqueued).collect();
        let done = turns.iter().map(|turn| turn.done).collect();
        let mut failures = chosen.failures;
        failures.extend(turns.into_iter().flat_map(|turn| turn.failures));
        Rates {
            enqueue: measured(chosen.enqueue, enqueued),
            done: measured(chosen.done, done),
            ..self.not_run(chosen.contestant, failures)
        }
    }
}

/// What one repetition of one contestant gave.
#[derive(Debug, Default)]
struct Turn {
    enqueued: Option<f64>,
    done: Option<f64>,
    failures: Vec<String>,
}
