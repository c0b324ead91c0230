//! How far a job is, in a few words: served at `/standing`, and left behind by a coordinator that ends.

use stillhouse_core::standing::{Standing, StandingState};
use stillhouse_ledger::Ledger;

use super::Now;
use crate::failure::{Failure, Kind};
use crate::report::summary::{State, Summary};

/// Of a job that runs: the summary of its latest step, with the ledger's figures of this moment.
pub async fn of(summary: Option<&Summary>, now: &Now, ledger: &Ledger, rounds_planned: u32) -> Standing {
    let mut standing = summary.map(from).unwrap_or_default();
    standing.rounds_planned = rounds_planned;
    standing.workers = u32::try_from(now.workers.len()).unwrap_or(u32::MAX);
    standing.stage = now.live.map(|live| live.stage.words().0.to_owned());
    if let Ok(counts) = ledger.counts().await {
        (standing.billed, standing.budget) = (counts.billed(), counts.budget);
    }
    standing.bounded()
}

/// Of a job whose coordinator ends now, with the summary that it left.
#[must_use]
pub fn at_the_end(summary: Option<&Summary>, failure: Option<&Failure>) -> Standing {
    let mut standing = summary.map(from).unwrap_or_default();
    if let Some(failure) = failure {
        standing.state = match failure.kind() {
            Kind::Interrupted => StandingState::Paused,
            _ => StandingState::Stopped,
        };
        standing.reason = Some(failure.to_string());
    }
    standing.bounded()
}

fn from(summary: &Summary) -> Standing {
    let (state, reason) = match &summary.state {
        State::Running => (StandingState::Running, None),
        State::Paused { reason } => (StandingState::Paused, Some(reason.clone())),
        State::Finished => (StandingState::Finished, None),
        State::Stopped { reason } => (StandingState::Stopped, Some(reason.clone())),
    };
    let arm = &summary.active;
    let done = arm.rounds.len().saturating_sub(1);
    Standing {
        state,
        reason,
        rounds: u32::try_from(done).unwrap_or(u32::MAX),
        billed: summary.budget.billed.total + summary.budget.ambiguous,
        budget: summary.budget.queries,
        agreement: arm.agreement,
        accuracy: arm.accuracy.map(|accuracy| accuracy.last),
        ..Standing::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn what_ended_it_is_said_and_what_it_cost_so_far_is_kept() {
        let mut summary = example::summary();
        let failure = Failure::message(Kind::Teacher, "the teacher is away").hint("start it");
        let standing = at_the_end(Some(&summary), Some(&failure));
        assert_eq!(standing.state, StandingState::Stopped);
        assert!(standing.reason.unwrap().contains("the teacher is away"));
        assert_eq!(standing.billed, summary.budget.billed.total + summary.budget.ambiguous);
        assert!(standing.billed > 0);
        summary.state = State::Finished;
        assert_eq!(at_the_end(Some(&summary), None).state, StandingState::Finished);
        let interrupted = Failure::message(Kind::Interrupted, "interrupted");
        assert_eq!(at_the_end(None, Some(&interrupted)).state, StandingState::Paused);
    }
}
