//! Sums over the charges of every record: what the budget is checked against.

use stillhouse_core::Sample;
use stillhouse_core::plan::Arm;

use crate::permit::{Record, State};

/// Charges by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries that may be billed.
    pub budget: u64,
    /// Charges that may be sent.
    pub reserved: u64,
    /// Charges of which a byte may have left.
    pub sent: u64,
    /// Charges in doubt.
    pub ambiguous: u64,
    /// Those among them that may be sent again.
    pub renewed: u64,
    /// Charges billed without a label.
    pub spent: u64,
    /// Charges billed with a label.
    pub committed: u64,
    /// Labels of other jobs, at no charge.
    pub imported: u64,
    /// Charges billed for certain, with a label or without, by what was asked.
    pub by_category: Categories,
}

/// Charges by what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories {
    /// Seed images.
    pub seed: u64,
    /// Candidates of the active arm.
    pub synthetic_active: u64,
    /// Candidates of the control.
    pub synthetic_control: u64,
    /// Evaluation images.
    pub evaluation: u64,
}

impl Counts {
    /// Charges that are or may be billed: everything but what is only reserved.
    #[must_use]
    pub fn billed(&self) -> u64 {
        self.sent + self.ambiguous + self.spent + self.committed
    }

    /// Permits given out and not used: what gateways have to be told of.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.reserved + self.renewed
    }

    /// Permits that may still be given out.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.budget.saturating_sub(self.reserved + self.billed())
    }

    pub(crate) fn add(&mut self, record: &Record) {
        self.tally(record, |count| *count += 1);
    }

    pub(crate) fn remove(&mut self, record: &Record) {
        self.tally(record, |count| {
            *count = count.checked_sub(1).expect("a record is added before it is removed");
        });
    }

    fn tally(&mut self, record: &Record, step: impl Fn(&mut u64)) {
        if record.imported {
            step(&mut self.imported);
        }
        for charge in &record.charges {
            if let State::Renewed(_) = charge.state {
                step(&mut self.renewed);
            }
            let (state, is_billed) = match charge.state {
                State::Reserved => (&mut self.reserved, false),
                State::Sent => (&mut self.sent, false),
                State::Ambiguous(_) | State::Renewed(_) => (&mut self.ambiguous, false),
                State::Spent(_) => (&mut self.spent, true),
                State::Committed => (&mut self.committed, true),
            };
            step(state);
            if is_billed {
                step(self.by_category.of(record));
            }
        }
    }
}

impl Categories {
    fn of(&mut self, record: &Record) -> &mut u64 {
        match (record.sample, record.arm) {
            (Sample::Seed(_), _) => &mut self.seed,
            (Sample::Evaluation(_), _) => &mut self.evaluation,
            (Sample::Mix(_), Arm::Active) => &mut self.synthetic_active,
            (Sample::Mix(_), Arm::Control) => &mut self.synthetic_control,
        }
    }
}
