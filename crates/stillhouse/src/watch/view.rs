//! Text for the terminal. Pure: what is seen in, text out.

use std::time::Duration;

use super::Now;
use crate::report::number::{compact, seconds};
use crate::report::summary::Summary;
use crate::report::terminal::{self, Color, Live};

/// Cells of a bar.
const BAR: usize = 40;
/// A rate needs at least so long to be told.
const LEAST: Duration = Duration::from_millis(500);

/// How fast a stage goes, from two looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    first: Option<(Duration, Live)>,
    rate: Option<f64>,
}

impl Pace {
    /// Takes in what is seen at `at`, the time since some fixed moment.
    pub fn look(&mut self, at: Duration, live: Option<Live>) {
        let same = |a: &Live, b: &Live| (a.arm, a.round, a.stage) == (b.arm, b.round, b.stage) && a.done <= b.done;
        match (self.first, live) {
            (Some((begun, first)), Some(live)) if same(&first, &live) => {
                let elapsed = at.saturating_sub(begun);
                if elapsed >= LEAST {
                    self.rate = Some((live.done - first.done) as f64 / elapsed.as_secs_f64());
                }
            }
            (_, live) => {
                *self = Self {
                    first: live.map(|live| (at, live)),
                    rate: None,
                }
            }
        }
    }

    /// Per second, and the seconds that are left at that rate.
    #[must_use]
    pub fn told(self, live: &Live) -> Option<(f64, f64)> {
        let rate = self.rate.filter(|rate| *rate > 0.0)?;
        Some((rate, live.total.saturating_sub(live.done) as f64 / rate))
    }
}

/// The whole view, at most `rows` lines.
#[must_use]
pub fn screen(summary: &Summary, now: &Now, pace: Pace, rows: usize, color: Color) -> String {
    let mut text = terminal::status(summary, now.live.as_ref(), color);
    if let Some(live) = &now.live {
        text += &format!("\n  {}\n", bar(live, pace, color));
    }
    text += &format!("\n{}", crew(now, color));
    let room = rows.saturating_sub(text.lines().count() + 2);
    let latest = &now.events[now.events.len().saturating_sub(room.min(8))..];
    if !latest.is_empty() {
        text.push('\n');
    }
    for event in latest {
        text += &format!("  {}\n", color.soft(&terminal::plain(event)));
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.truncate(rows);
    lines.join("\n")
}

/// One line, for when standard output is no terminal.
#[must_use]
pub fn line(summary: &Summary, now: &Now, pace: Pace) -> String {
    let budget = &summary.budget;
    let spent = format!("{} of {} queries", budget.billed.total, budget.queries);
    let workers = now.workers.len();
    match &now.live {
        None => format!("{spent}, {workers} workers"),
        Some(live) => {
            let (stage, unit) = live.stage.words();
            let left = pace.told(live).map_or_else(String::new, |(rate, left)| {
                format!(", {}/s, {} left", compact(rate), seconds(left))
            });
            let Live {
                arm,
                round,
                done,
                total,
                ..
            } = live;
            format!("round {round} {arm}: {stage} {done} of {total} {unit}{left}; {spent}, {workers} workers")
        }
    }
}

fn bar(live: &Live, pace: Pace, color: Color) -> String {
    let share = live.done as f64 / live.total.max(1) as f64;
    let full = ((share * BAR as f64) as usize).min(BAR);
    let bar = format!(
        "{}{}",
        "\u{2501}".repeat(full),
        color.soft(&"\u{2500}".repeat(BAR - full))
    );
    let told = pace.told(live);
    let told = told.map_or_else(String::new, |(rate, left)| {
        format!("  {}/s  {} left", compact(rate), seconds(left))
    });
    format!("{bar} {:>3.0} %{told}", 100.0 * share)
}

fn crew(now: &Now, color: Color) -> String {
    let head = ["worker", "address", "process", "threads", "device", "does"];
    let mut rows = vec![head.map(|name| color.soft(name)).to_vec()];
    for worker in &now.workers {
        rows.push(vec![
            worker.worker.to_string(),
            terminal::plain(&worker.address),
            worker.process.to_string(),
            worker.threads.to_string(),
            terminal::plain(&worker.device),
            terminal::plain(&worker.does),
        ]);
    }
    let mut text = terminal::indent(&terminal::aligned(&rows, |column| matches!(column, 2 | 3)));
    if now.lost > 0 {
        text += &format!("  {}\n", color.soft(&format!("lost since the start: {}", now.lost)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use crate::report::terminal::Stage;
    use crate::watch::WorkerSight;
    use stillhouse_core::plan::Arm;

    fn live(done: u64) -> Live {
        Live {
            arm: Arm::Active,
            round: 2,
            stage: Stage::Scoring,
            done,
            total: 1_000,
            workers: 2,
        }
    }

    fn now(live: Live) -> Now {
        Now {
            live: Some(live),
            scan: None,
            batch: None,
            workers: vec![WorkerSight {
                worker: 3,
                address: "10.0.0.7:4000\u{1b}[2J".into(),
                process: 77,
                threads: 2,
                device: "cpu AVX2".into(),
                does: "scoring".into(),
            }],
            lost: 1,
            events: (0..20).map(|at| format!("event {at}")).collect(),
        }
    }

    #[test]
    fn a_pace_is_told_after_a_while_and_forgotten_with_its_stage() {
        let mut pace = Pace::default();
        pace.look(Duration::ZERO, Some(live(100)));
        assert_eq!(pace.told(&live(100)), None);
        pace.look(Duration::from_secs(2), Some(live(300)));
        assert_eq!(pace.told(&live(300)), Some((100.0, 7.0)));
        let next = Live {
            stage: Stage::Training,
            ..live(300)
        };
        pace.look(Duration::from_secs(3), Some(next));
        assert_eq!(pace.told(&next), None);
        pace.look(Duration::from_secs(9), None);
        assert!(pace.first.is_none());
    }

    #[test]
    fn the_screen_fits_and_names_from_outside_move_nothing() {
        let mut pace = Pace::default();
        pace.look(Duration::ZERO, Some(live(100)));
        pace.look(Duration::from_secs(2), Some(live(300)));
        let summary = example::summary();
        let text = screen(&summary, &now(live(300)), pace, 60, Color::Never);
        assert!(
            text.contains("round 2, active: scoring 300 of 1,000 candidates (30 %), 2 workers"),
            "{text}"
        );
        assert!(text.contains("30 %  100/s  7"), "{text}");
        assert!(
            text.contains("lost since the start: 1") && text.contains("event 19"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
        for rows in [1, 5, 24] {
            assert!(
                screen(&summary, &now(live(300)), pace, rows, Color::Never)
                    .lines()
                    .count()
                    <= rows
            );
        }
        let line = line(&summary, &now(live(300)), pace);
        assert!(
            line.starts_with("round 2 active: scoring 300 of 1000 candidates, 100/s, 7"),
            "{line}"
        );
    }
}
