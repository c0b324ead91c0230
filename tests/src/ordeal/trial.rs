//! One job: torment, peace, reckoning.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use stillhouse_core::dice::Dice;
use stillhouse_core::sampler::{Purpose, Stream};

use super::Options;
use super::blow::{Blow, Victim};
use super::oracle::{self, Books};
use super::report::Report;
use super::stage::Stage;
use super::strike::Relief;

/// How often programs and bill are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Shortest and longest pause between blows.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));
/// Shortest and longest torment of a job, seconds.
const TORMENT_SECONDS: (u64, u64) = (15, 60);
/// A coordinator that ended is started again after so long.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// A job in peace is done within this, on the slowest machine.
const PEACE: Duration = Duration::from_secs(240);
/// Something happens in peace at least every so often: a gateway waits for 32 s until it takes what a
/// dead one had leased.
const IDLE: Duration = Duration::from_secs(50);
/// Starts in peace after which a job cannot go on.
const STARTS_IN_PEACE: u32 = 10;
/// Exit codes of a run that gave up for a reason outside: the queue could not be reached when it
/// began, the teacher failed, the disk was full.
const OUTSIDE: [i32; 3] = [2, 4, 7];

/// How a life of the coordinator ended.
enum Ended {
    /// The job is finished.
    Finished,
    /// It gave up.
    GaveUp,
}

struct Trial<'a> {
    number: u64,
    stage: Stage,
    dice: Dice,
    books: Books,
    report: &'a mut Report,
}

/// Runs job `number` of an ordeal whose blows end at `until`.
pub(super) fn run(options: &Options, number: u64, until: Instant, report: &mut Report) -> anyhow::Result<()> {
    let folder = options.folder.join(format!("job-{number}"));
    let mut dice = Dice::new(Stream::new(options.seed, Purpose::Shuffle, number));
    let stage = Stage::set_up(options, &folder, &mut dice)?;
    report.jobs += 1;
    let books = Books::new(stage.dir(), stage.folder.join("books"), &stage.job.spec.budget);
    let mut trial = Trial {
        number,
        stage,
        dice,
        books,
        report,
    };
    trial.stage.start(Victim::Coordinator)?;
    let torment = Duration::from_secs(trial.dice.between(TORMENT_SECONDS.0, TORMENT_SECONDS.1));
    let finished = trial.torment(until.min(Instant::now() + torment))? || trial.finish()?;
    trial.reckon(finished)?;
    let passed = trial.report.violations.is_empty();
    drop(trial);
    if passed {
        std::fs::remove_dir_all(&folder).with_context(|| format!("delete {}", folder.display()))?;
    }
    Ok(())
}

impl Trial<'_> {
    /// Lets blows fall until then; `true` when the job finished in spite of them.
    fn torment(&mut self, until: Instant) -> anyhow::Result<bool> {
        let mut next = Instant::now();
        while Instant::now() < until && self.report.violations.is_empty() {
            let now = Instant::now();
            self.stage.relieve(now)?;
            if let Some(Ended::Finished) = self.watch(now)? {
                return Ok(true);
            }
            if now >= next {
                let blow = Blow::draw(&mut self.dice, self.stage.gateways.len());
                self.strike(&blow, now)?;
                next = now + self.dice.duration(PAUSES.0, PAUSES.1);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }

    fn strike(&mut self, blow: &Blow, now: Instant) -> anyhow::Result<()> {
        tracing::debug!(job = self.number, "{blow}");
        *self.report.blows.entry(blow.name()).or_default() += 1;
        self.stage.strike(blow, now)?;
        if let Blow::Kill(Victim::Coordinator, _) = blow {
            self.look()?;
        }
        Ok(())
    }

    /// Lets the job finish in peace; `false` when it cannot.
    fn finish(&mut self) -> anyhow::Result<bool> {
        self.stage.relieve_all()?;
        tracing::debug!(job = self.number, "peace");
        let (begun, mut starts) = (Instant::now(), 0);
        let (mut progress, mut moved) = (0, begun);
        while starts < STARTS_IN_PEACE && self.report.violations.is_empty() {
            let now = Instant::now();
            self.stage.relieve(now)?;
            match self.watch(now)? {
                Some(Ended::Finished) => return Ok(true),
                Some(Ended::GaveUp) => starts += 1,
                None => {}
            }
            let reached = self.progress()?;
            if reached > progress {
                (progress, moved) = (reached, now);
            }
            if moved.elapsed() > IDLE {
                self.report.violations.add(format!("no progress for {IDLE:?} in peace"));
            }
            if begun.elapsed() > PEACE {
                self.report
                    .violations
                    .add(format!("not finished after {PEACE:?} of peace"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }

    /// A number that grows with every query billed and every step of the job.
    fn progress(&self) -> anyhow::Result<usize> {
        Ok(self.stage.bill()?.len() + self.stage.outcome().events().len())
    }

    /// Sees to programs that ended by themselves, and to the bill.
    fn watch(&mut self, now: Instant) -> anyhow::Result<Option<Ended>> {
        self.stage.supervise(now);
        self.books.check_bill(&self.stage.bill()?, &mut self.report.violations);
        let Some(status) = self.stage.coordinator.ended() else {
            return Ok(None);
        };
        self.look()?;
        if status.success() {
            return Ok(Some(Ended::Finished));
        }
        self.gave_up(status);
        self.stage
            .later(now + RESTART_PAUSE, Relief::Start(Victim::Coordinator));
        Ok(Some(Ended::GaveUp))
    }

    fn gave_up(&mut self, status: ExitStatus) {
        tracing::debug!(job = self.number, %status, "the coordinator gave up");
        *self.report.gave_up.entry(status.to_string()).or_default() += 1;
        if !status.code().is_some_and(|code| OUTSIDE.contains(&code)) {
            self.report
                .violations
                .add(format!("the coordinator ended with {status}"));
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        self.books.look(&self.stage.bill()?, &mut self.report.violations)
    }

    /// Compares what the job says of itself with the bill, and adds both up.
    fn reckon(&mut self, finished: bool) -> anyhow::Result<()> {
        self.stage.kill(Victim::Coordinator);
        self.look()?;
        let bill = self.stage.bill()?;
        if finished {
            oracle::settle(&self.stage.outcome(), &bill, &mut self.report.violations);
            self.report.finished += 1;
        } else {
            self.report.ended_early += 1;
        }
        self.report.billed += bill.len() as u64;
        if let Some(counts) = self.books.counts {
            self.report.in_ledgers += counts.billed();
            self.report.in_doubt += counts.ambiguous;
        }
        let panics = panics(&self.stage.folder)?;
        self.report.violations.others.extend(panics);
        Ok(())
    }
}

/// Lines in which a program says that it panicked.
fn panics(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read(&path)?;
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            found.extend(lines.map(|line| format!("{}: {line}", path.display())));
        }
    }
    Ok(found)
}
