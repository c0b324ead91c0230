//! Bars while a job runs. Silent when standard error is no terminal: then only [`ProgressBars::line`]
//! writes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::number::{compact, count, seconds};
use super::terminal::Stage;

/// At most 80 columns, the narrowest terminal that is still common.
const TEMPLATE: &str = "{prefix:>9} {bar:20.cyan/dim} {percent:>3} %  {counts}  {rate}  {left}";

/// One bar each for scoring, querying and training, drawn below everything else that is written.
/// Cheap to clone; every clone is the same bars.
#[derive(Clone, Debug)]
pub struct ProgressBars {
    multi: MultiProgress,
    bars: Arc<Mutex<[Option<ProgressBar>; 4]>>,
}

impl ProgressBars {
    /// Bars on standard error, when that is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    /// No bars, whatever standard error is.
    #[must_use]
    pub fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self {
            multi: MultiProgress::with_draw_target(target),
            bars: Arc::default(),
        }
    }

    /// Candidates scored of all candidates of this round's scan.
    pub fn scoring(&self, done: u64, total: u64) {
        self.advance(Stage::Scoring, done, total);
    }

    /// Queries answered of this round's batch.
    pub fn querying(&self, done: u64, total: u64) {
        self.advance(Stage::Querying, done, total);
    }

    /// Optimiser steps done of the training of a generator of images.
    pub fn generating(&self, done: u64, total: u64) {
        self.advance(Stage::Generating, done, total);
    }

    /// Optimiser steps done of this round's training.
    pub fn training(&self, done: u64, total: u64) {
        self.advance(Stage::Training, done, total);
    }

    /// Moves a bar; it appears with the first call and goes when all is done.
    fn advance(&self, stage: Stage, done: u64, total: u64) {
        if self.multi.is_hidden() {
            return;
        }
        let mut bars = self.lock();
        let slot = &mut bars[stage as usize];
        if done >= total {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
                self.multi.remove(&bar);
            }
            return;
        }
        let bar = slot.get_or_insert_with(|| self.multi.add(bar(stage)));
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Writes one line above the bars, or to standard error when there are none. A line that
    /// cannot be written is lost: a closed terminal is no reason to stop a job.
    pub fn line(&self, text: &str) {
        let written = if self.multi.is_hidden() {
            writeln!(io::stderr(), "{text}")
        } else {
            self.multi.println(text)
        };
        written.ok();
    }

    /// Takes all bars away: the job has ended, or a question follows.
    pub fn clear(&self) {
        for bar in self.lock().iter_mut().filter_map(Option::take) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }

    /// A writer whose lines come out above the bars. Give [`ProgressBars`] itself to
    /// `tracing_subscriber::fmt().with_writer(...)`.
    #[must_use]
    pub fn writer(&self) -> BarWriter {
        BarWriter {
            bars: self.clone(),
            partial: Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Option<ProgressBar>; 4]> {
        // Bars hold no invariant that a panic could break.
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ProgressBars {
    fn default() -> Self {
        Self::new()
    }
}

fn bar(stage: Stage) -> ProgressBar {
    let (name, _) = stage.words();
    let counts = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        write!(out, "{} of {}", brief(state.pos()), brief(state.len().unwrap_or(0))).ok();
    };
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        write!(out, "{}/s", compact(state.per_sec())).ok();
    };
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        write!(out, "{} left", seconds(state.eta().as_secs_f64())).ok();
    };
    let style = ProgressStyle::with_template(TEMPLATE)
        .expect("the template is fixed and valid")
        .with_key("counts", counts)
        .with_key("rate", rate)
        .with_key("left", left)
        .progress_chars("\u{2501}\u{2578}\u{2500}");
    // Hidden until it is added: an unattached bar would draw itself.
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
    bar.with_style(style).with_prefix(name)
}

/// A count in at most six characters.
fn brief(value: u64) -> String {
    if value < 100_000 {
        count(value)
    } else {
        compact(value as f64)
    }
}

/// Writes whole lines above the bars; what follows the last line end waits for more.
#[derive(Debug)]
pub struct BarWriter {
    bars: ProgressBars,
    partial: Vec<u8>,
}

impl Write for BarWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.bars.line(&String::from_utf8_lossy(&line[..end]));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BarWriter {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.bars.line(&String::from_utf8_lossy(&self.partial));
        }
    }
}

impl<'a> MakeWriter<'a> for ProgressBars {
    type Writer = BarWriter;

    fn make_writer(&'a self) -> BarWriter {
        self.writer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    fn bars() -> (ProgressBars, InMemoryTerm) {
        let term = InMemoryTerm::new(12, 120);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        (ProgressBars::on(target), term)
    }

    #[test]
    fn a_bar_shows_how_far_a_stage_is_and_goes_when_it_is_done() {
        let (bars, term) = bars();
        bars.scoring(5_500, 21_989_000);
        let shown = term.contents();
        assert!(shown.contains("scoring"), "{shown}");
        assert!(shown.contains("  0 %  5,500 of 22.0 M  "), "{shown}");
        assert!(
            shown.trim_end().ends_with(" left") && shown.chars().count() <= 80,
            "{shown}"
        );
        bars.scoring(21_989_000, 21_989_000);
        assert_eq!(term.contents(), "");
        bars.scoring(1_000, 1_000);
        bars.training(0, 0);
        assert_eq!(term.contents(), "");
    }

    #[test]
    fn lines_stand_above_the_bars_and_stay() {
        let (bars, term) = bars();
        bars.querying(1, 6_000);
        bars.line("round 1 done");
        let shown = term.contents();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "round 1 done");
        assert!(lines[1].contains("querying"), "{shown}");
        bars.clear();
        assert_eq!(term.contents(), "round 1 done");
    }

    #[test]
    fn a_log_line_does_not_tear_the_bars() {
        let (bars, term) = bars();
        bars.training(1, 10);
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_writer(bars.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(target: "job", worker = 3, "joined"));
        let mut writer = bars.writer();
        writer.write_all(b"one\ntw").expect("lines are lost at worst");
        writer.write_all(b"o\nrest").expect("lines are lost at worst");
        drop(writer);
        let shown = term.contents();
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert_eq!(
            lines[..4],
            ["INFO job: joined worker=3", "one", "two", "rest"],
            "{shown}"
        );
        assert!(lines[4].contains("training"), "{shown}");
    }

    #[test]
    fn hidden_bars_draw_nothing() {
        let bars = ProgressBars::hidden();
        bars.scoring(1, 2);
        assert!(bars.lock().iter().all(Option::is_none));
    }
}
