//! What is worth an Event: the difference between two statuses.

use crate::crd::Status;

/// Shares of the budget at which something is said, in percent.
const THRESHOLDS: [u64; 4] = [50, 80, 95, 100];

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// In one word, as `kubectl describe` shows it.
    pub reason: &'static str,
    /// What makes it different from others of the same reason: equal ones are counted as one.
    pub action: String,
    /// In a sentence.
    pub note: String,
    /// Whether somebody should look.
    pub is_warning: bool,
}

/// What happened between `old` and `new`.
#[must_use]
pub fn between(old: &Status, new: &Status) -> Vec<News> {
    let mut news = Vec::new();
    if old.phase != new.phase {
        let is_warning = ["Failed", "Invalid", "Paused"].contains(&new.phase.as_str());
        if let Some(reason) = named(&new.phase) {
            news.push(News {
                reason,
                action: reason.to_owned(),
                note: new.message.clone(),
                is_warning,
            });
        }
    }
    // Rounds and queries that an operator sees for the first time were not made now.
    if let (Some(before), Some(after)) = (old.round, new.round)
        && before < after
    {
        let agreement = if new.agreement.is_empty() {
            String::new()
        } else {
            format!(", agreement {}", new.agreement)
        };
        news.push(News {
            reason: "RoundTrained",
            action: format!("Round{after}"),
            note: format!("round {after} is trained: {} queries{agreement}", new.queries),
            is_warning: false,
        });
    }
    if let (Some(before), Some(after), Some(budget)) = (old.queried, new.queried, new.budget)
        && let Some(share) = crossed(before, after, budget)
    {
        news.push(News {
            reason: "BudgetSpent",
            action: format!("Budget{share}"),
            note: format!("{share} % of the budget is spent: {} queries", new.queries),
            is_warning: false,
        });
    }
    news
}

fn named(phase: &str) -> Option<&'static str> {
    ["Running", "Paused", "Suspended", "Succeeded", "Failed", "Invalid"]
        .into_iter()
        .find(|known| *known == phase)
}

/// The highest threshold that was passed between the two counts.
fn crossed(before: u64, after: u64, budget: u64) -> Option<u64> {
    let reached = |count: u64, share: u64| u128::from(count) * 100 >= u128::from(budget) * u128::from(share);
    let mut shares = THRESHOLDS.into_iter().rev();
    shares.find(|share| budget > 0 && reached(after, *share) && !reached(before, *share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str, round: u32, queried: u64) -> Status {
        Status {
            phase: phase.into(),
            round: Some(round),
            queried: Some(queried),
            budget: Some(1000),
            ..Status::default()
        }
    }

    #[test]
    fn a_round_a_threshold_and_a_phase_are_said_once() {
        let (old, new) = (status("Pending", 0, 400), status("Running", 1, 810));
        let said: Vec<_> = between(&old, &new).into_iter().map(|news| news.action).collect();
        assert_eq!(said, ["Running", "Round1", "Budget80"]);
        assert!(between(&new, &new).is_empty());
        assert!(between(&Status::default(), &status("Pending", 3, 900)).is_empty());
    }
}
