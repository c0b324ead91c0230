//! Charges by what was asked and by state.

use serde::Serialize;
use stillhouse_core::Sample;
use stillhouse_core::plan::Arm;
use stillhouse_ledger::{Entry, State};

/// Charges of one kind of query, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Billed, with a label.
    pub committed: u64,
    /// Billed without a label.
    pub spent: u64,
    /// In doubt.
    pub ambiguous: u64,
    /// On their way when the process died: in doubt from the next start on.
    pub sent: u64,
    /// Permits not used yet: given back at the next start.
    pub reserved: u64,
}

impl Tally {
    /// Billed for certain.
    #[must_use]
    pub fn billed(self) -> u64 {
        self.committed + self.spent
    }

    /// Billed or not, nobody knows.
    #[must_use]
    pub fn in_doubt(self) -> u64 {
        self.ambiguous + self.sent
    }

    fn count(&mut self, state: &State) {
        let count = match state {
            State::Committed => &mut self.committed,
            State::Spent(_) => &mut self.spent,
            State::Ambiguous(_) | State::Renewed(_) => &mut self.ambiguous,
            State::Sent => &mut self.sent,
            State::Reserved => &mut self.reserved,
        };
        *count += 1;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            committed: self.committed + other.committed,
            spent: self.spent + other.spent,
            ambiguous: self.ambiguous + other.ambiguous,
            sent: self.sent + other.sent,
            reserved: self.reserved + other.reserved,
        }
    }
}

/// Charges of a job, by what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tallies {
    /// Seed images.
    pub seed: Tally,
    /// Candidates of the active arm.
    pub active: Tally,
    /// Candidates of the control.
    pub control: Tally,
    /// Evaluation images.
    pub evaluation: Tally,
}

impl Tallies {
    /// Adds up the charges of `entries`.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        let mut tallies = Self::default();
        for entry in entries {
            let tally = match (entry.sample, entry.arm) {
                (Sample::Seed(_), _) => &mut tallies.seed,
                (Sample::Evaluation(_), _) => &mut tallies.evaluation,
                (Sample::Mix(_), Arm::Active) => &mut tallies.active,
                (Sample::Mix(_), Arm::Control) => &mut tallies.control,
            };
            entry.charges.iter().for_each(|charge| tally.count(&charge.state));
        }
        tallies
    }

    /// All of them, with their names.
    #[must_use]
    pub fn named(self) -> [(&'static str, Tally); 4] {
        [
            ("seed images", self.seed),
            ("candidates, active", self.active),
            ("candidates, control", self.control),
            ("evaluation images", self.evaluation),
        ]
    }

    /// Their sum.
    #[must_use]
    pub fn total(self) -> Tally {
        self.named()
            .into_iter()
            .fold(Tally::default(), |sum, (_, tally)| sum.plus(tally))
    }
}
