//! `stillhouse chaos`: disturbs a job on purpose, and says what that came to.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use stillhouse_core::Job;
use stillhouse_runtime::signals;
use tokio_util::sync::CancellationToken;

use crate::chaos::reckon::{Reckoning, reckon};
use crate::chaos::report::{Parts, Report};
use crate::chaos::schedule::{Schedule, Target};
use crate::chaos::trial::{self, FOLDER, Options, Outcome};
use crate::chaos::twin::{self, Twin};
use crate::chaos::undo;
use crate::cli::Cli;
use crate::cli::chaos::ChaosArgs;
use crate::commands::runtime;
use crate::failure::{Failure, Kind};
use crate::job_dir::write_file;
use crate::report::number::seconds;
use crate::report::terminal::{Color, aligned};

/// Blows that a dry run lists when they fall until the job ends.
const LISTED: usize = 20;
/// Where the report is kept, in the job directory.
const REPORT: &str = "report.json";

/// Disturbs a job until it ends; returns what that came to.
///
/// # Errors
/// When there is no job, it does not finish, or something does not hold.
pub fn chaos(args: &ChaosArgs) -> Result<String, Failure> {
    let schedule = schedule(args)?;
    if args.dry_run {
        return Ok(planned(args, &schedule));
    }
    let plan = Plan::of(args)?;
    confirm(args, &plan)?;
    runtime()?.block_on(async {
        let shutdown = signals::install()
            .map_err(|error| Failure::new(Kind::Internal, error).context("cannot listen for signals"))?;
        tokio::select! {
            outcome = perform(args, &plan, schedule, shutdown.drain) => outcome,
            // Dropping the trial lets everything go on, and kills a job that it runs.
            () = shutdown.abort.cancelled() => {
                Err(Failure::message(Kind::Interrupted, "aborted; whatever was stopped goes on"))
            }
        }
    })
}

/// Makes everything go on that its parent stopped, once that has ended: see [`undo`].
///
/// # Errors
/// When its input breaks.
pub fn undo() -> Result<String, Failure> {
    undo::undo(io::stdin().lock()).map(|()| String::new())
}

/// Where the job is, and how it is run if it is to be.
struct Plan {
    dir: PathBuf,
    /// Arguments of `stillhouse`, without those of the trial; none when the job runs already.
    run: Option<Vec<OsString>>,
}

impl Plan {
    fn of(args: &ChaosArgs) -> Result<Self, Failure> {
        if args.job.is_dir() {
            if args.dir.is_some() || args.twin.is_some() || !args.run.is_empty() {
                let message = "--dir, --twin and options of run go with a job file; a job that runs already has them";
                return Err(Failure::message(Kind::Usage, message));
            }
            return Ok(Self {
                dir: args.job.clone(),
                run: None,
            });
        }
        let dir = match &args.dir {
            Some(dir) => dir.clone(),
            None => Path::new("jobs").join(name_of(&args.job)?),
        };
        let mut run: Vec<OsString> = ["run".into(), args.job.clone().into()].into();
        run.extend(args.run.iter().cloned());
        let plan = Self { dir, run: Some(run) };
        // What clap says of wrong options is better said now than in a log.
        let line = std::iter::once("stillhouse".into()).chain(plan.disturbed().unwrap_or_default());
        match Cli::try_parse_from(line) {
            Ok(_) => Ok(plan),
            Err(error) => {
                let said = error.render().to_string();
                let first = said.lines().next().unwrap_or_default();
                Err(Failure::message(Kind::Usage, first.trim_start_matches("error: ")))
            }
        }
    }

    /// Arguments of `stillhouse` that run the job so that it can be disturbed.
    fn disturbed(&self) -> Option<Vec<OsString>> {
        let mut arguments = self.run.clone()?;
        arguments.extend([
            "--quiet".into(),
            "--chaos".into(),
            "--dir".into(),
            self.dir.clone().into(),
        ]);
        Some(arguments)
    }

    /// Arguments of `stillhouse` that run the same job in `twin` with the labels of this one.
    fn unharmed(&self, twin: &Path) -> Option<Vec<OsString>> {
        let mut arguments = self.run.clone()?;
        arguments.extend(["--quiet".into(), "--dir".into(), twin.into()]);
        arguments.extend(["--reuse".into(), self.dir.clone().into()]);
        Some(arguments)
    }
}

fn name_of(job: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(job)
        .map_err(|error| Failure::new(Kind::Usage, error).context(format!("cannot read {}", job.display())))?;
    let job = Job::parse(&text).map_err(|error| Failure::new(Kind::Usage, error).context(job.display().to_string()))?;
    Ok(job.name)
}

fn schedule(args: &ChaosArgs) -> Result<Schedule, Failure> {
    let targets = match (&args.targets[..], args.job.is_dir()) {
        ([], true) => &[Target::Worker, Target::Link][..],
        ([], false) => &[Target::Worker, Target::Coordinator, Target::Link],
        (named, _) => named,
    };
    Schedule::new(args.seed, args.mtbf, &args.kinds, targets).ok_or_else(|| {
        let message = "expected a kind that one of the targets can suffer, found none";
        Failure::message(Kind::Usage, message)
            .hint("workers and the coordinator are killed and stopped, links are cut and slowed")
    })
}

/// The blows, when each finds somebody at once.
fn planned(args: &ChaosArgs, schedule: &Schedule) -> String {
    let blows = match args.time {
        Some(time) => schedule.within(time),
        None => schedule.first(LISTED),
    };
    let row = |at: String, blow: String| vec![at, blow];
    let head = row("at".to_owned(), "blow".to_owned());
    let rows = blows
        .iter()
        .map(|(at, blow)| row(seconds(at.as_secs_f64()), blow.to_string()));
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut text = aligned(&rows, |column| column == 0);
    if args.time.is_none() {
        text += &format!(
            "and so on until the job ends, one every {} on average\n",
            words(args.mtbf)
        );
    }
    text + "a blow waits until there is somebody to hit, and those after it with it; whatever is stopped goes on when its time \
            is over, and at once when this command ends in whatever way"
}

fn words(time: Duration) -> String {
    seconds(time.as_secs_f64())
}

/// Asks before anybody is hurt.
fn confirm(args: &ChaosArgs, plan: &Plan) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    let dir = plan.dir.display();
    if !io::stdin().is_terminal() {
        let message = format!("the job in {dir} is about to be disturbed on purpose, and nobody is there to be asked");
        return Err(
            Failure::message(Kind::Usage, message).hint("--yes says that this is meant; --dry-run lists the blows")
        );
    }
    let mut ask = io::stderr();
    let what = format!(
        "The job in {dir} is about to be disturbed, once every {} on average. The budget is safe; queries that are under way \
         when a coordinator dies may end in doubt, and then count as billed.\nGo on? [y/N] ",
        words(args.mtbf)
    );
    let mut answer = String::new();
    let asked = write!(ask, "{what}")
        .and_then(|()| ask.flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    match asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(Failure::message(Kind::Interrupted, "nothing was disturbed")),
    }
}

async fn perform(
    args: &ChaosArgs,
    plan: &Plan,
    schedule: Schedule,
    shutdown: CancellationToken,
) -> Result<String, Failure> {
    let options = Options {
        dir: plan.dir.clone(),
        schedule,
        time: args.time,
        arguments: plan.disturbed(),
    };
    let mut outcome = trial::run(options, shutdown.clone()).await?;
    let is_over = outcome.obstacle.is_none() || plan.run.is_some();
    let reckoning = reckon(&plan.dir, &outcome.seen, args.bill.as_deref(), is_over)?;
    let twin = match &args.twin {
        Some(twin) if outcome.obstacle.is_none() => unharmed(plan, twin, &reckoning, &shutdown).await?,
        _ => None,
    };
    let report = Report::new(Parts {
        directory: plan.dir.clone(),
        seed: args.seed,
        mtbf: args.mtbf,
        outcome: &outcome,
        reckoning,
        twin,
    });
    write_file(&plan.dir.join(FOLDER).join(REPORT), report.json().as_bytes())?;
    let text = if args.json {
        report.json()
    } else {
        report.text(Color::for_stdout()).trim_end().to_owned()
    };
    conclude(&mut outcome, &report, text)
}

fn conclude(outcome: &mut Outcome, report: &Report, text: String) -> Result<String, Failure> {
    if let Some(failure) = outcome.obstacle.take() {
        return Err(failure.with_findings(text));
    }
    if report.holds {
        return Ok(text);
    }
    let message = "a job that was disturbed does not hold what it promises";
    Err(Failure::message(Kind::Internal, message).with_findings(text))
}

/// Runs the job unharmed, unless that would cost something.
async fn unharmed(
    plan: &Plan,
    dir: &Path,
    reckoning: &Reckoning,
    shutdown: &CancellationToken,
) -> Result<Option<Twin>, Failure> {
    let Some(arguments) = plan.unharmed(dir) else {
        return Ok(None);
    };
    let in_doubt = reckoning.spent.map_or(0, |spent| spent.in_doubt);
    if in_doubt > 0 {
        tracing::warn!(
            in_doubt,
            "no unharmed job is run: it would have to ask what is in doubt, and its student may differ"
        );
        return Ok(None);
    }
    tracing::info!(dir = %dir.display(), "the job runs again, unharmed");
    twin::run(&plan.dir, dir, &arguments, shutdown).await.map(Some)
}
