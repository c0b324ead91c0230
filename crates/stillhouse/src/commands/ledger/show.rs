//! `stillhouse ledger show`: what was spent, on what, and what is in doubt and why.

use serde::Serialize;
use serde_json::json;
use stillhouse_core::key::hex;
use stillhouse_ledger::{Entry, State};

use crate::books::images::Images;
use crate::books::tally::{Tallies, Tally};
use crate::books::{Books, cause, state_name};
use crate::cli::ShowArgs;
use crate::coordinate::results;
use crate::failure::{Failure, Kind};
use crate::labels_file::Columns;
use crate::report::number::{count, counted, money, price};
use crate::report::terminal::{Color, aligned, columns, indent, pairs, plain, spent};
use crate::reuse::{Library, Wanted};

/// A charge that brought no label.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Unanswered {
    key: String,
    kind: Option<&'static str>,
    first: Option<u32>,
    second: Option<u32>,
    lambda: Option<f64>,
    arm: String,
    epoch: u64,
    number: u32,
    state: &'static str,
    request: Option<String>,
    cause: String,
}

/// Everything that is shown.
struct View {
    books: Books,
    tallies: Tallies,
    imported: u64,
    at_hand: u64,
    unanswered: Vec<Unanswered>,
}

/// Shows the books of a job; of one that is running, what it last wrote.
///
/// # Errors
/// When there are none, or they cannot be read.
pub(super) fn show(args: &ShowArgs) -> Result<String, Failure> {
    let books = match Books::read(&args.dir) {
        Ok(books) => books,
        Err(failure) if failure.kind() == Kind::Directory && !args.ambiguous => {
            return running(args).ok_or(failure);
        }
        Err(failure) => return Err(failure),
    };
    let view = View::of(books)?;
    Ok(if args.json {
        view.json(args.limit)
    } else {
        view.text(args, Color::for_stdout())
    })
}

/// What a running job last wrote about its books.
fn running(args: &ShowArgs) -> Option<String> {
    if !stillhouse_ledger::file(&args.dir).is_file() {
        return None;
    }
    let summary = results::read_summary(&args.dir).ok()?;
    if args.json {
        let value = json!({
            "version": 1, "source": "summary", "job": summary.job.name, "updated": summary.updated,
            "fingerprint": summary.teacher.fingerprint, "budget": summary.budget,
        });
        return Some(format!("{value:#}"));
    }
    let (dir, color) = (args.dir.display(), Color::for_stdout());
    let note = format!(
        "a job is running on this ledger; this is what it wrote at {}",
        summary.updated.minute()
    );
    let facts = indent(&pairs(&spent(&summary), color));
    Some(format!(
        "{}  {note}\n\n{facts}\n  stillhouse status {dir} says more",
        color.strong(&plain(&summary.job.name))
    ))
}

impl View {
    fn of(books: Books) -> Result<Self, Failure> {
        let wanted = Wanted {
            fingerprint: books.genesis.fingerprint,
            classes: books.genesis.classes,
        };
        let images = books.job.as_ref().and_then(|job| Images::read(&books.dir, job).ok());
        let unanswered = books
            .entries
            .iter()
            .flat_map(|entry| unanswered(entry, images.as_ref()));
        Ok(Self {
            tallies: Tallies::of(&books.entries),
            imported: books.counts.imported,
            at_hand: Library::gather(&[], &books.dir, wanted)?.len() as u64,
            unanswered: unanswered.collect(),
            books,
        })
    }

    fn json(&self, limit: usize) -> String {
        let (counts, total, price) = (&self.books.counts, self.tallies.total(), self.books.price());
        let cost = |queries: u64| price.map(|price| price * queries as f64);
        let shown = &self.unanswered[..limit.min(self.unanswered.len())];
        let value = json!({
            "version": 1, "source": "ledger", "job": self.books.name(),
            "fingerprint": self.books.genesis.fingerprint.to_string(), "classes": self.books.genesis.classes,
            "jobDigest": hex(&self.books.genesis.job_digest), "onAmbiguous": self.books.genesis.on_ambiguous,
            "budget": {
                "queries": counts.budget, "billed": total.billed(), "inDoubt": total.in_doubt(),
                "reserved": total.reserved, "left": counts.left(), "pricePerQuery": price,
                "cost": cost(total.billed()), "costInDoubt": cost(total.in_doubt()),
            },
            "imported": self.imported, "atHand": self.at_hand, "charges": self.tallies,
            "unanswered": { "total": self.unanswered.len(), "shown": shown },
        });
        format!("{value:#}")
    }

    fn text(&self, args: &ShowArgs, color: Color) -> String {
        let name = color.strong(&plain(&self.books.name()));
        let mut text = format!(
            "{name}\n\n{}\n{}",
            indent(&pairs(&self.facts(), color)),
            indent(&self.table(color))
        );
        if args.ambiguous {
            text += &format!("\n{}", indent(&self.list(args.limit, color)));
        } else if !self.unanswered.is_empty() {
            let many = counted(self.unanswered.len() as u64, "query", "queries");
            text += &format!("\n  {many} brought no label: --ambiguous lists them with the reason\n");
        }
        text.trim_end().to_owned()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let (counts, total) = (&self.books.counts, self.tallies.total());
        let queries = counted(counts.budget, "query", "queries");
        let (billed, left) = (count(total.billed()), count(counts.left()));
        let mut budget = format!("{billed} of {queries} billed, {left} left");
        if total.in_doubt() > 0 {
            budget += &format!(", {} in doubt and counted as billed", count(total.in_doubt()));
        }
        let mut facts = vec![("budget", budget)];
        if let Some(each) = self.books.price() {
            let cost = |queries: u64| money(each * queries as f64);
            let mut text = format!("{} at {} a query", cost(total.billed()), price(each));
            if total.in_doubt() > 0 {
                text += &format!(", and perhaps {} for those in doubt", cost(total.in_doubt()));
            }
            facts.push(("cost", text));
        }
        if self.imported + self.at_hand > 0 {
            let labels = counted(self.imported, "label", "labels");
            let mut text = format!("{labels} of other jobs used at no cost");
            if self.at_hand > 0 {
                text += &format!("; {} imported and at hand", count(self.at_hand));
            }
            facts.push(("reused", text));
        }
        facts.push(("teacher", self.books.genesis.fingerprint.to_string()));
        facts
    }

    fn table(&self, color: Color) -> String {
        let head = ["", "label", "billed, no label", "in doubt", "not sent"];
        let mut rows = vec![head.map(|name| color.soft(name)).to_vec()];
        let row = |name: &str, tally: Tally| {
            let counts = [tally.committed, tally.spent, tally.in_doubt(), tally.reserved];
            std::iter::once(name.to_owned()).chain(counts.map(count)).collect()
        };
        let kinds = self
            .tallies
            .named()
            .into_iter()
            .filter(|(_, tally)| *tally != Tally::default());
        rows.extend(kinds.map(|(name, tally)| row(name, tally)));
        rows.push(row("together", self.tallies.total()));
        columns(&rows)
    }

    fn list(&self, limit: usize, color: Color) -> String {
        if self.unanswered.is_empty() {
            return "every query that was sent brought its label".into();
        }
        let head = ["query", "state", "image", "for", "request", "reason"];
        let mut rows = vec![head.map(|name| color.soft(name)).to_vec()];
        rows.extend(self.unanswered.iter().take(limit).map(Unanswered::row));
        let mut text = aligned(&rows, |_| false);
        if self.unanswered.len() > limit {
            let more = count((self.unanswered.len() - limit) as u64);
            text += &format!("and {more} more: --limit N shows them");
        }
        text
    }
}

impl Unanswered {
    fn row(&self) -> Vec<String> {
        let image = match (self.kind, self.first, self.second, self.lambda) {
            (Some("mix"), Some(first), Some(second), Some(lambda)) => format!("mix {lambda:.2} {first}+{second}"),
            (Some(kind), Some(first), ..) => format!("{kind} {first}"),
            _ => "unknown".to_owned(),
        };
        let request = self.request.clone().unwrap_or_else(|| "\u{2013}".to_owned());
        let key = self.key.chars().take(10).collect();
        vec![
            key,
            self.state.to_owned(),
            image,
            self.arm.clone(),
            request,
            plain(&self.cause),
        ]
    }
}

/// Charges of `entry` that brought no label.
fn unanswered(entry: &Entry, images: Option<&Images>) -> Vec<Unanswered> {
    let of = images.and_then(|images| Columns::of(&images.pool(), entry.sample));
    let one = |charge: &stillhouse_ledger::Charge| {
        let why = match &charge.state {
            State::Reserved | State::Committed => return None,
            state @ (State::Sent | State::Ambiguous(_) | State::Renewed(_) | State::Spent(_)) => cause(state)?,
        };
        Some(Unanswered {
            key: entry.key.to_string(),
            kind: of.map(Columns::kind_name),
            first: of.map(|of| of.first),
            second: of.map(|of| of.second),
            lambda: of.map(|of| f64::from(of.lambda) / 100.0),
            arm: entry.arm.to_string(),
            epoch: charge.epoch,
            number: charge.number,
            state: state_name(&charge.state),
            request: charge.request.map(|request| request.to_string()),
            cause: why.to_owned(),
        })
    };
    entry.charges.iter().filter_map(one).collect()
}
