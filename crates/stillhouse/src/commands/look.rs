//! `stillhouse status` and `stillhouse watch`: how far a job is, once or all the time.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};
use stillhouse_runtime::link::Target;

use crate::cli::LookArgs;
use crate::commands::runtime;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};
use crate::report::summary::{State, Summary};
use crate::report::terminal::{self, Color};
use crate::watch::client::{Watcher, coordinator_at, coordinator_of};
use crate::watch::view::{self, Pace};

/// Between two lines of a watcher that has no terminal.
const LINES: Duration = Duration::from_secs(1);
/// Between two attempts to find a coordinator again.
const AGAIN: Duration = Duration::from_millis(500);
/// The other screen, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// How far a job is: of a directory also when it does not run.
///
/// # Errors
/// When there is no job, or the coordinator cannot be asked.
pub fn status(args: &LookArgs) -> Result<String, Failure> {
    let color = Color::for_stdout();
    if let Some(target) = target(args)? {
        match runtime()?.block_on(Watcher::connect(&target)) {
            Ok(Watcher {
                summary: Some(summary),
                now,
                ..
            }) => return Ok(view::screen(&summary, &now, Pace::default(), usize::MAX, color)),
            // A coordinator that was killed leaves its whereabouts behind.
            _ if args.dir.is_some() => {}
            Ok(_) => return Err(Failure::message(Kind::Internal, "the coordinator told nothing")),
            Err(failure) => return Err(failure),
        }
    }
    let summary = results::read_summary(args.dir.as_deref().unwrap_or(Path::new("")))?;
    Ok(terminal::status(&summary, None, color))
}

/// Looks on until the job is over; returns its last state. A coordinator that goes away is waited
/// for.
///
/// # Errors
/// When there is no job to look at, or its token is another.
pub fn watch(args: &LookArgs) -> Result<String, Failure> {
    let screen = Screen::open();
    let last = runtime()?.block_on(async {
        tokio::select! {
            last = follow(args, &screen) => last,
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    drop(screen);
    Ok(last?.map_or_else(String::new, |summary| {
        terminal::status(&summary, None, Color::for_stdout())
    }))
}

async fn follow(args: &LookArgs, screen: &Screen) -> Result<Option<Summary>, Failure> {
    let (begun, mut pace) = (Instant::now(), Pace::default());
    let mut was_there = false;
    loop {
        let connected = match target(args)? {
            Some(target) => Watcher::connect(&target).await,
            None => Err(Failure::message(Kind::Directory, "no coordinator runs this job now")
                .hint("stillhouse status shows what it left; stillhouse run or coordinator goes on with it")),
        };
        let mut watcher = match connected {
            Ok(watcher) => watcher,
            Err(failure) if was_there => {
                if let Some(over) = over(args) {
                    return Ok(Some(over));
                }
                screen.wait(&failure);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        was_there = true;
        loop {
            pace.look(begun.elapsed(), watcher.now.live);
            if let Some(summary) = &watcher.summary {
                screen.show(summary, &watcher, pace);
                if is_over(summary) {
                    return Ok(Some(summary.clone()));
                }
            }
            if !watcher.look().await? {
                break;
            }
        }
    }
}

/// The summary of a job directory whose job is over.
fn over(args: &LookArgs) -> Option<Summary> {
    let summary = results::read_summary(args.dir.as_deref()?).ok()?;
    is_over(&summary).then_some(summary)
}

fn is_over(summary: &Summary) -> bool {
    matches!(summary.state, State::Finished | State::Stopped { .. })
}

fn target(args: &LookArgs) -> Result<Option<Target>, Failure> {
    match (&args.coordinator, &args.dir) {
        (Some(address), _) => coordinator_at(address, &args.tls).map(Some),
        (None, Some(dir)) => Ok(coordinator_of(dir)),
        (None, None) => Err(Failure::message(
            Kind::Usage,
            "name a job directory or --coordinator HOST:PORT",
        )),
    }
}

/// Where it is shown: a screen of its own on a terminal, else lines. Dropping it gives the terminal
/// back.
enum Screen {
    Terminal(Term),
    Lines(std::cell::Cell<Option<Instant>>),
}

impl Screen {
    fn open() -> Self {
        if !io::stdout().is_terminal() {
            return Self::Lines(std::cell::Cell::new(None));
        }
        let term = Term::stdout();
        // A terminal that is gone shows nothing; that is no reason to fail.
        let _entered = term.write_str(ENTER).and_then(|()| term.hide_cursor());
        Self::Terminal(term)
    }

    fn show(&self, summary: &Summary, watcher: &Watcher, pace: Pace) {
        match self {
            Self::Terminal(term) => {
                let (rows, _) = term.size();
                let rows = usize::from(rows).saturating_sub(1);
                self.draw(&view::screen(summary, &watcher.now, pace, rows, Color::for_stdout()));
            }
            Self::Lines(last) => {
                if last.get().is_some_and(|last| last.elapsed() < LINES) && !is_over(summary) {
                    return;
                }
                last.set(Some(Instant::now()));
                let _written = writeln!(io::stdout(), "{}", view::line(summary, &watcher.now, pace));
            }
        }
    }

    /// Says that the coordinator is away.
    fn wait(&self, failure: &Failure) {
        if let Self::Terminal(_) = self {
            self.draw(&format!("waiting for the coordinator: {failure}"));
        }
    }

    /// Writes everything in one go, each line over what was there.
    fn draw(&self, text: &str) {
        let Self::Terminal(term) = self else { return };
        let (_, columns) = term.size();
        let fit = |line| truncate_str(line, usize::from(columns), "\u{2026}");
        let body: String = text.lines().map(|line| format!("{}\u{1b}[K\r\n", fit(line))).collect();
        let _drawn = term.write_str(&format!("\u{1b}[H{body}\u{1b}[J"));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Terminal(term) = self {
            let _left = term.show_cursor().and_then(|()| term.write_str(LEAVE));
        }
    }
}
