//! When a running job will end, if its rounds go on as the last ones did.

use stillhouse_core::plan::Plan;

use super::summary::{ArmSummary, RoundSummary, State, Summary, Timings};

/// Where a running job is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// When it will be done, in milliseconds since 1970-01-01 in UTC.
    pub end_unix_ms: u64,
    /// Queries that will have been billed then.
    pub billed: u64,
}

/// What a round costs, from one that is over.
struct Costs {
    /// Seconds of scoring a round.
    scoring: f64,
    /// Seconds a query of the batch.
    query: f64,
    /// Seconds of training an image of the transfer set.
    image: f64,
}

impl Costs {
    fn of(round: &RoundSummary) -> Self {
        let Timings {
            scan_seconds,
            rescore_seconds,
            query_seconds,
            train_seconds,
            ..
        } = round.timings;
        Self {
            scoring: scan_seconds + rescore_seconds,
            query: query_seconds / round.size.max(1) as f64,
            image: train_seconds / round.queries_total.max(1) as f64,
        }
    }
}

/// The end of the job that `summary` describes, by its `plan`; none before a round with candidates is over, nor
/// once the job is.
#[must_use]
pub fn projection(summary: &Summary, plan: &Plan) -> Option<Projection> {
    if !matches!(summary.state, State::Running | State::Paused { .. }) {
        return None;
    }
    let rounds = plan.rounds();
    let mut seconds = 0.0;
    let mut queries = 0;
    for (_, arm) in summary.arms() {
        let costs = Costs::of(last(arm).or_else(|| last(&summary.active))?);
        let (took, asks) = left(arm, &rounds, &costs);
        seconds += took;
        queries += asks;
    }
    let spent = summary.budget.billed.total + summary.budget.ambiguous;
    Some(Projection {
        end_unix_ms: summary.updated.unix_ms.saturating_add((seconds * 1e3) as u64),
        billed: (spent + queries).min(summary.budget.queries),
    })
}

/// The last round with candidates that is over.
fn last(arm: &ArmSummary) -> Option<&RoundSummary> {
    arm.rounds
        .iter()
        .rev()
        .find(|round| round.round > 0 && is_trained(round))
}

fn is_trained(round: &RoundSummary) -> bool {
    round.loss.is_some()
}

/// Seconds and queries that are left to one student.
fn left(arm: &ArmSummary, rounds: &[u64], costs: &Costs) -> (f64, u64) {
    let mut total = arm.rounds.last().map_or(0, |round| round.queries_total);
    let (mut seconds, mut queries) = (0.0, 0);
    // One that is asked and not trained yet.
    if arm.rounds.last().is_some_and(|round| !is_trained(round)) {
        seconds += total as f64 * costs.image;
    }
    let asked = arm.rounds.len().saturating_sub(1);
    for size in rounds.iter().skip(asked) {
        total += size;
        queries += size;
        seconds += costs.scoring + *size as f64 * costs.query + total as f64 * costs.image;
    }
    (seconds, queries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn plan() -> Plan {
        Plan {
            budget: 50_500,
            seeds: 2_000,
            evaluation: 500,
            arms: 2,
            per_round: 6_000,
            pairs: 1_999_000,
            generated: 0,
            scored: 1_999_000,
            lambdas: 11,
        }
    }

    /// As the job of the example was before its last `rounds` rounds.
    fn before(rounds: usize) -> Summary {
        let mut summary = example::summary();
        summary.state = State::Running;
        let arms = [Some(&mut summary.active), summary.control.as_mut()];
        for arm in arms.into_iter().flatten() {
            arm.rounds.truncate(arm.rounds.len() - rounds);
        }
        summary.budget.billed.total -= 2 * 6_000 * rounds as u64;
        summary
    }

    #[test]
    fn what_is_left_costs_what_the_last_round_did_and_more_training() {
        let plan = plan();
        assert_eq!(plan.rounds().len(), 4, "{:?}", plan.rounds());
        let summary = before(1);
        let told = projection(&summary, &plan).expect("rounds are over");
        let seconds = (told.end_unix_ms - summary.updated.unix_ms) as f64 / 1e3;
        let mut expected = 0.0;
        for (_, arm) in summary.arms() {
            let round = arm.rounds.last().expect("rounds");
            let timings = round.timings;
            expected += timings.scan_seconds + timings.rescore_seconds + timings.query_seconds;
            expected += timings.train_seconds * (round.queries_total + 6_000) as f64 / round.queries_total as f64;
        }
        assert!((seconds - expected).abs() < 0.1, "{seconds} {expected}");
        assert!(expected > 1.0);
        assert!(told.billed <= summary.budget.queries);
        let earlier = before(2);
        let longer = projection(&earlier, &plan).expect("rounds are over");
        assert!(longer.end_unix_ms - earlier.updated.unix_ms > told.end_unix_ms - summary.updated.unix_ms);
    }

    #[test]
    fn nothing_is_foretold_without_a_round_or_after_the_end() {
        assert_eq!(projection(&example::summary(), &plan()), None);
        assert_eq!(projection(&before(4), &plan()), None);
    }

    #[test]
    fn a_round_that_is_asked_is_only_trained_any_more() {
        let mut asked = before(0);
        for arm in [Some(&mut asked.active), asked.control.as_mut()].into_iter().flatten() {
            arm.rounds.last_mut().expect("rounds").loss = None;
        }
        let told = projection(&asked, &plan()).expect("rounds are over");
        assert_eq!(told.billed, asked.budget.billed.total + asked.budget.ambiguous);
        assert!(told.end_unix_ms > asked.updated.unix_ms);
    }
}
