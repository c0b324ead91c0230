//! Draws the parts of the page that changed, once for everybody who looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use stillhouse_core::plan::Arm;

use crate::coordinate::results;
use crate::coordinate::shell::unix_ms;
use crate::inputs::Inputs;
use crate::report::html::{Moment, Report, Section};
use crate::report::picture::ContactSheet;
use crate::report::projection::projection;
use crate::report::summary::{Hardest, Summary};
use crate::watch::Now;
use crate::watch::serve::Glance;
use crate::watch::view::Pace;

/// A part of the page, and how often it was drawn anew.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) section: Section,
    pub(super) html: Arc<str>,
    pub(super) version: u64,
}

/// The page at one moment.
#[derive(Clone, Debug)]
pub(super) struct Painted {
    pub(super) summary: Arc<Summary>,
    pub(super) parts: Vec<Part>,
}

/// Who draws.
#[derive(Debug)]
pub(super) struct Painter {
    inputs: Arc<Inputs>,
    dir: PathBuf,
    glance: Glance,
    begun: Instant,
    pace: Pace,
    /// Pictures of the rounds so far: they never change.
    sheets: Vec<ContactSheet>,
    events: Vec<String>,
    now: Now,
    painted: Option<Painted>,
}

impl Painter {
    pub(super) fn new(inputs: Arc<Inputs>, dir: PathBuf, glance: Glance) -> Self {
        Self {
            inputs,
            dir,
            glance,
            begun: Instant::now(),
            pace: Pace::default(),
            sheets: Vec::new(),
            events: Vec::new(),
            now: Now::default(),
            painted: None,
        }
    }

    /// The page as it is now; none before the coordinator has a summary. Blocks for as long as new pictures need.
    pub(super) fn paint(&mut self) -> Option<Painted> {
        let (summary, now) = (self.glance.summary()?, self.glance.now());
        let before = self.painted.as_ref();
        let is_new = before.is_none_or(|painted| !Arc::ptr_eq(&painted.summary, &summary));
        if !is_new && now == self.now {
            return self.painted.clone();
        }
        let is_told = is_new || (&now.events, &now.workers) != (&self.now.events, &self.now.workers);
        if is_told {
            self.events = results::read_events(&self.dir);
        }
        self.now = now;
        self.pace.look(self.begun.elapsed(), self.now.live);
        self.draw_pictures(&summary);
        let wanted: &[Section] = match (is_new, is_told) {
            (true, _) => &Section::ALL,
            (false, true) => &[Section::Now, Section::Workers, Section::Events],
            (false, false) => &[Section::Now],
        };
        let drawn = self.draw(&summary, wanted);
        let mut parts = self.painted.take().map_or_else(Vec::new, |painted| painted.parts);
        for (section, html) in drawn {
            renew(&mut parts, section, html);
        }
        self.painted = Some(Painted { summary, parts });
        self.painted.clone()
    }

    fn draw(&self, summary: &Summary, wanted: &[Section]) -> Vec<(Section, String)> {
        let asking = self.now.batch.as_ref();
        let asking = asking.and_then(|batch| {
            self.sheets
                .iter()
                .find(|sheet| (sheet.arm, sheet.round) == (batch.arm, batch.round))
        });
        let report = Report {
            summary,
            contact: &self.sheets,
            events: &self.events,
            moment: Some(Moment {
                now: &self.now,
                pace: self.pace,
                projection: projection(summary, &self.inputs.plan),
                asking,
                unix_ms: unix_ms(),
            }),
            job_file: Some(&self.inputs.text),
        };
        wanted.iter().map(|section| (*section, section.draw(&report))).collect()
    }

    /// Draws the candidates of rounds that were not drawn yet.
    fn draw_pictures(&mut self, summary: &Summary) {
        let asking = self
            .now
            .batch
            .iter()
            .map(|batch| (batch.arm, batch.round, &batch.hardest));
        let rounds = summary
            .arms()
            .flat_map(|(arm, of)| of.rounds.iter().map(move |round| (arm, round.round, &round.hardest)));
        let is_known = |arm: Arm, round: u32| self.sheets.iter().any(|sheet| (sheet.arm, sheet.round) == (arm, round));
        let new: Vec<(Arm, u32, &Vec<Hardest>)> = rounds
            .chain(asking)
            .filter(|(arm, round, hardest)| !hardest.is_empty() && !is_known(*arm, *round))
            .collect();
        let (seeds, generated) = (&self.inputs.seeds, self.inputs.generated.get());
        let drawn: Vec<ContactSheet> = new
            .into_iter()
            .map(|(arm, round, hardest)| ContactSheet::draw(arm, round, hardest, seeds, generated))
            .collect();
        self.sheets.extend(drawn);
    }
}

/// Puts a part in its place; one that looks as before keeps its version.
fn renew(parts: &mut Vec<Part>, section: Section, html: String) {
    match parts.iter_mut().find(|part| part.section == section) {
        Some(part) if *part.html == *html => {}
        Some(part) => {
            part.html = html.into();
            part.version += 1;
        }
        None => parts.push(Part {
            section,
            html: html.into(),
            version: 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_different_is_sent_again() {
        let mut parts = Vec::new();
        renew(&mut parts, Section::Now, "a".into());
        renew(&mut parts, Section::Now, "a".into());
        assert_eq!((parts.len(), parts[0].version), (1, 1));
        renew(&mut parts, Section::Now, "b".into());
        assert_eq!((&*parts[0].html, parts[0].version), ("b", 2));
    }
}
