//! What the terminal shows: one line a round, the closing table, the status. Pure: text in, text
//! out, coloured only when asked. Names from outside cannot move the cursor or hide anything.

use std::fmt::Write;
use std::path::Path;

use console::{Style, measure_text_width};
use serde::{Deserialize, Serialize};
use stillhouse_core::plan::Arm;

use super::number::{count, counted, money, percent, points, price, score, seconds};
use super::summary::{ArmSummary, RoundSummary, State, Summary};
use super::verdict::{comparison_words, difference, twin, verdict};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// With escape sequences.
    Always,
    /// Plain text.
    Never,
}

impl Color {
    /// Colour when standard output is a terminal and the environment does not forbid it.
    #[must_use]
    pub fn for_stdout() -> Self {
        if console::colors_enabled() {
            Self::Always
        } else {
            Self::Never
        }
    }

    fn paint(self, text: &str, style: Style) -> String {
        style.force_styling(self == Self::Always).apply_to(text).to_string()
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint(text, Style::new().bold())
    }

    pub(crate) fn soft(self, text: &str) -> String {
        self.paint(text, Style::new().dim())
    }

    /// A difference in green when it is a gain, in red when it is a loss.
    pub(crate) fn gain(self, text: &str) -> String {
        let style = match text.chars().next() {
            Some('+') => Style::new().green(),
            Some('\u{2212}') => Style::new().red(),
            _ => Style::new(),
        };
        self.paint(text, style)
    }
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Scoring the pool; counted in candidates.
    Scoring,
    /// Asking the teacher; counted in queries.
    Querying,
    /// Training a generator of images; counted in steps.
    Generating,
    /// Training the student; counted in steps.
    Training,
}

impl Stage {
    /// Its name and what it counts.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Scoring => ("scoring", "candidates"),
            Self::Querying => ("querying", "queries"),
            Self::Generating => ("generating", "steps"),
            Self::Training => ("training", "steps"),
        }
    }
}

/// What a running job does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Whose round it is.
    pub arm: Arm,
    /// The round.
    pub round: u32,
    /// Its stage.
    pub stage: Stage,
    /// Done of `total`, in the stage's own unit.
    pub done: u64,
    /// All there is to do in this stage.
    pub total: u64,
    /// Workers that take part.
    pub workers: u32,
}

/// One line about a round that has ended.
#[must_use]
pub fn round_line(arm: Arm, round: &RoundSummary, color: Color) -> String {
    let mut parts = vec![format!("{:>8} queries", count(round.queries_total))];
    if let Some(accuracy) = round.accuracy {
        let last = color.strong(&percent(accuracy.last));
        parts.push(format!("accuracy {last} (best {})", percent(accuracy.best)));
    }
    if let Some(agreement) = round.agreement {
        parts.push(format!("agreement {}", percent(agreement)));
    }
    if let Some(cut) = round.cut {
        parts.push(format!("cut {}", score(cut)));
    }
    if round.held > 0 {
        parts.push(format!("{} held", count(round.held)));
    }
    parts.push(color.soft(&took(round)));
    let head = color.strong(&format!("round {:>2} {:<7}", round.round, arm.to_string()));
    format!("{head}  {}", parts.join("  "))
}

/// The stages of a round that took time: `score 12 s, query 8.1 s, train 41 s`.
fn took(round: &RoundSummary) -> String {
    let timings = &round.timings;
    let stages = [
        ("score", timings.scan_seconds + timings.rescore_seconds),
        ("query", timings.query_seconds),
        ("train", timings.train_seconds),
    ];
    let stages = stages.iter().filter(|(_, value)| *value > 0.0);
    let texts: Vec<String> = stages
        .map(|(name, value)| format!("{name} {}", seconds(*value)))
        .collect();
    texts.join(", ")
}

/// The table that ends a job: what it reached, what it spent, and where the results (`files` in
/// `dir`) lie.
#[must_use]
pub fn closing(summary: &Summary, dir: &Path, files: &[&str], copy: Option<&str>, color: Color) -> String {
    let mut text = format!("{}\n\n{}\n", title(summary, color), indent(&outcome(summary, color)));
    let mut facts = spent(summary);
    facts.extend(guarded(summary));
    facts.push(("results", plain(&dir.display().to_string())));
    facts.push(("", files.join("  ")));
    facts.extend(copy.map(|place| ("copied", plain(place))));
    text += &indent(&pairs(&facts, color));
    text
}

/// What `stillhouse status` prints; `live` when the job can be asked what it does right now.
#[must_use]
pub fn status(summary: &Summary, live: Option<&Live>, color: Color) -> String {
    let teacher = format!("{} at {}", plain(&summary.teacher.model), plain(&summary.teacher.url));
    let parameters = counted(summary.student.parameters, "parameter", "parameters");
    let student = format!("{}, {parameters}", plain(&summary.student.architecture));
    let mut facts = vec![("teacher", teacher), ("student", student)];
    if let Some(live) = live {
        facts.push(("now", now(live)));
    }
    facts.extend(spent(summary));
    facts.extend(guarded(summary));
    let mut text = format!("{}\n\n{}", title(summary, color), indent(&pairs(&facts, color)));
    if !summary.active.rounds.is_empty() {
        text += &format!("\n{}", indent(&rounds(summary, color)));
    }
    text
}

fn guarded(summary: &Summary) -> Option<(&'static str, String)> {
    let found = summary.comparison.as_ref()?;
    Some(("guard", comparison_words(found)))
}

fn now(live: &Live) -> String {
    let (stage, unit) = live.stage.words();
    let share = 100.0 * live.done as f64 / live.total.max(1) as f64;
    let workers = counted(u64::from(live.workers), "worker", "workers");
    let Live { arm, round, .. } = live;
    let (done, total) = (count(live.done), count(live.total));
    format!("round {round}, {arm}: {stage} {done} of {total} {unit} ({share:.0} %), {workers}")
}

/// `name  finished after 41 min 12 s`, and why when it was stopped.
fn title(summary: &Summary, color: Color) -> String {
    let lasted = seconds(summary.lasted_seconds());
    let state = match &summary.state {
        State::Running => format!("running for {lasted}"),
        State::Paused { reason } => format!("paused after {lasted}: {}", plain(reason)),
        State::Finished => format!("finished after {lasted}"),
        State::Stopped { reason } => format!("stopped after {lasted}: {}", plain(reason)),
    };
    format!("{}  {state}", color.strong(&plain(&summary.job.name)))
}

/// Accuracy and agreement, beside the control's at equal queries when there is one.
fn outcome(summary: &Summary, color: Color) -> String {
    let Some(verdict) = verdict(summary) else {
        return alone(&summary.active, color);
    };
    let (active, control) = (verdict.active, verdict.control);
    let last = |round: &RoundSummary| round.accuracy.map(|a| a.last);
    let best = |round: &RoundSummary| round.accuracy.map(|a| a.best);
    let row = |name: &str, ours: Option<f64>, theirs: Option<f64>| {
        let gain = or_dash(difference(ours, theirs).map(points));
        let ours = color.strong(&or_dash(ours.map(percent)));
        vec![name.to_owned(), ours, or_dash(theirs.map(percent)), color.gain(&gain)]
    };
    let queries = count(verdict.queries);
    let head = ["", "active", "random", "difference"]
        .map(|name| color.soft(name))
        .to_vec();
    let rows = [
        head,
        row("accuracy, last epoch", last(active), last(control)),
        row("accuracy, best epoch", best(active), best(control)),
        row("agreement with the teacher", active.agreement, control.agreement),
        vec!["queries each".to_owned(), queries.clone(), queries],
    ];
    columns(&rows)
}

fn alone(arm: &ArmSummary, color: Color) -> String {
    let row = |name: &str, value: Option<f64>| vec![name.to_owned(), color.strong(&or_dash(value.map(percent)))];
    columns(&[
        row("accuracy, last epoch", arm.accuracy.map(|a| a.last)),
        row("accuracy, best epoch", arm.accuracy.map(|a| a.best)),
        row("agreement with the teacher", arm.agreement),
        vec!["queries".to_owned(), count(arm.queries)],
    ])
}

/// Budget and cost.
pub(crate) fn spent(summary: &Summary) -> Vec<(&'static str, String)> {
    let budget = &summary.budget;
    let billed = &budget.billed;
    let (total, queries) = (count(billed.total), counted(budget.queries, "query", "queries"));
    let (real, synthetic) = (count(billed.real), count(billed.synthetic));
    let evaluation = count(billed.evaluation);
    let mut left = format!("{} left", count(budget.left));
    if budget.ambiguous > 0 {
        left += &format!(", {} ambiguous ({} held)", count(budget.ambiguous), count(budget.held));
    }
    let mut facts = vec![
        ("budget", format!("{total} of {queries} billed, {left}")),
        (
            "",
            format!("{real} real, {synthetic} synthetic, {evaluation} evaluation"),
        ),
    ];
    if budget.reused > 0 {
        let labels = counted(budget.reused, "label", "labels");
        facts.push(("reused", format!("{labels} of other jobs at no cost")));
    }
    if let (Some(cost), Some(each)) = (budget.cost, budget.price_per_query) {
        facts.push(("cost", format!("{} at {} a query", money(cost), price(each))));
    }
    facts
}

/// One line a round, the control beside it when there is one.
fn rounds(summary: &Summary, color: Color) -> String {
    let mut head = vec!["round", "queries", "accuracy", "agreement"];
    if summary.control.is_some() {
        head.extend(["random", "difference"]);
    }
    let mut rows = vec![head.into_iter().map(|name| color.soft(name)).collect::<Vec<_>>()];
    for round in &summary.active.rounds {
        let last = |round: &RoundSummary| round.accuracy.map(|a| a.last);
        let mut row = vec![round.round.to_string(), count(round.queries_total)];
        row.push(color.strong(&or_dash(last(round).map(percent))));
        row.push(or_dash(round.agreement.map(percent)));
        if let Some(control) = &summary.control {
            let theirs = twin(control, round).and_then(last);
            let gain = or_dash(difference(last(round), theirs).map(points));
            row.extend([or_dash(theirs.map(percent)), color.gain(&gain)]);
        }
        rows.push(row);
    }
    columns(&rows)
}

pub(crate) fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "\u{2013}".to_owned())
}

/// Lines of names and values, the names in one column.
pub(crate) fn pairs(facts: &[(&str, String)], color: Color) -> String {
    facts.iter().fold(String::new(), |mut text, (name, value)| {
        let pad = " ".repeat(9_usize.saturating_sub(name.len()));
        writeln!(text, "{}{pad}{value}", color.soft(name)).expect("writing to a String cannot fail");
        text
    })
}

/// A table: the first column to the left, the others to the right, two spaces between.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    aligned(rows, |column| column > 0)
}

/// A table, two spaces between columns, those to the right that `is_right` names.
pub(crate) fn aligned(rows: &[Vec<String>], is_right: impl Fn(usize) -> bool) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |text| measure_text_width(text));
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (text, width))| {
            let pad = " ".repeat(width - measure_text_width(text));
            let gap = if column == 0 { "" } else { "  " };
            match is_right(column) {
                true => format!("{gap}{pad}{text}"),
                false => format!("{gap}{text}{pad}"),
            }
        });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

pub(crate) fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}").trim_end().to_owned() + "\n")
        .collect()
}

/// `text` on one line without control characters and without marks that turn the writing direction.
pub(crate) fn plain(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(hidden, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn a_round_is_one_line() {
        let summary = example::summary();
        let round = summary.active.rounds.last().expect("rounds");
        let line = round_line(Arm::Active, round, Color::Never);
        golden(
            &line,
            "round  4 active     26,000 queries  accuracy 99.15 % (best 99.21 %)  agreement 99.20 %  cut 0.7660  \
             3 held  score 1 min 36 s, query 12 s, train 2 min 16 s",
        );
        let first = &summary.active.rounds[0];
        golden(
            &round_line(Arm::Active, first, Color::Never),
            "round  0 active      2,000 queries  accuracy 96.02 % (best 96.11 %)  agreement 96.00 %  query 4.1 s, train 12 s",
        );
    }

    #[test]
    fn the_closing_table_sets_the_student_beside_the_control() {
        let text = closing(
            &example::summary(),
            Path::new("jobs/mnist-lenet"),
            &["summary.json", "report.html"],
            Some("s3://lab/mnist-0123456789ab"),
            Color::Never,
        );
        golden(&text, include_str!("testdata/closing.txt"));
    }

    #[test]
    fn without_a_control_the_table_has_one_column() {
        let mut summary = example::summary();
        summary.control = None;
        summary.budget.price_per_query = None;
        let text = closing(&summary, Path::new("out"), &["summary.json"], None, Color::Never);
        golden(&text, include_str!("testdata/closing-alone.txt"));
    }

    #[test]
    fn the_status_says_what_happens_now() {
        let mut summary = example::summary();
        summary.state = State::Running;
        summary.finished = None;
        let live = Live {
            arm: Arm::Active,
            round: 5,
            stage: Stage::Scoring,
            done: 12_000_000,
            total: 21_989_000,
            workers: 2,
        };
        golden(
            &status(&summary, Some(&live), Color::Never),
            include_str!("testdata/status.txt"),
        );
    }

    #[test]
    fn colour_changes_nothing_but_the_colour() {
        let summary = example::summary();
        let plain = status(&summary, None, Color::Never);
        let colored = status(&summary, None, Color::Always);
        assert_ne!(plain, colored);
        assert_eq!(plain, console::strip_ansi_codes(&colored));
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut summary = example::summary();
        summary.job.name = "a\u{1b}[2Jb\u{202e}c\n".to_owned();
        summary.teacher.model = "x\r\u{7}".to_owned();
        let text = status(&summary, None, Color::Never);
        assert!(text.starts_with("a\u{fffd}[2Jb\u{fffd}c\u{fffd}  finished"), "{text}");
        assert!(!text.contains(['\u{1b}', '\r', '\u{7}', '\u{202e}']));
    }

    /// Compares with a golden text and shows both whole.
    #[track_caller]
    fn golden(found: &str, expected: &str) {
        assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
    }
}
