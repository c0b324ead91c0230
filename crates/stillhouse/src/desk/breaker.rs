//! When to stop asking: pure decisions from what the last requests came to.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest wait after a refusal that names no time.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// Longest such wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Requests in a row of unknown fate that end the asking. One may be an accident of the network;
/// two are a teacher that would burn the budget.
const AMBIGUOUS_IN_A_ROW: u32 = 2;

/// Images in a row that the teacher would not label, which end the asking: some images are not to its
/// taste, but one that labels none of so many only costs.
const DECLINED_IN_A_ROW: usize = 16;

/// What follows a request that was not billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is sent before `until`; `slower` when the rate should fall too.
    Wait {
        /// When to go on.
        until: Instant,
        /// Whether this refusal begins a new, longer wait that the teacher did not ask for.
        slower: bool,
    },
    /// The teacher has been away for longer than our patience.
    GiveUp {
        /// For how long.
        waited: Duration,
    },
}

/// Decides from failures and successes whether the next request is wise.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    patience: Duration,
    refusals: Option<Refusals>,
    ambiguous: u32,
    declined: usize,
    in_doubt: u64,
    proven: bool,
}

/// A row of requests that were refused or never sent.
#[derive(Clone, Copy, Debug)]
struct Refusals {
    began: Instant,
    /// When patience ends. Waits that the teacher asks for do not count against it.
    deadline: Instant,
    attempt: u32,
    /// When the last wait was decided: a request sent before that adds nothing to it.
    decided: Instant,
    resume: Instant,
}

impl Breaker {
    /// A breaker that waits for at most `patience` while a teacher is away.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            refusals: None,
            ambiguous: 0,
            declined: 0,
            in_doubt: 0,
            proven: false,
        }
    }

    /// Whether the teacher has given a sound answer since the start, and since the last request
    /// of unknown fate. Until then the next request should be one image, alone.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// A sound answer.
    pub(super) fn answered(&mut self) {
        self.refusals = None;
        self.ambiguous = 0;
        self.declined = 0;
        self.proven = true;
    }

    /// A request sent at `sent` was refused or never left. `jitter` is uniform in 0..1.
    pub(super) fn refused(
        &mut self,
        sent: Instant,
        now: Instant,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Verdict {
        let fresh = Refusals {
            began: sent,
            deadline: sent + self.patience,
            attempt: 0,
            decided: sent,
            resume: now,
        };
        let row = self.refusals.get_or_insert(fresh);
        if let Some(asked) = retry_after {
            row.resume = row.resume.max(now + asked);
            row.deadline = row.deadline.max(row.resume + self.patience);
            row.decided = now;
            return Verdict::Wait {
                until: row.resume,
                slower: false,
            };
        }
        if sent < row.decided {
            return Verdict::Wait {
                until: row.resume,
                slower: false,
            };
        }
        if now >= row.deadline {
            let waited = now.saturating_duration_since(row.began);
            return Verdict::GiveUp { waited };
        }
        // The last attempt falls on the deadline.
        row.resume = (now + backoff(row.attempt, jitter)).min(row.deadline);
        row.attempt += 1;
        row.decided = now;
        Verdict::Wait {
            until: row.resume,
            slower: true,
        }
    }

    /// A request of `n` images has an unknown fate; `true` when asking must end.
    pub(super) fn ambiguous(&mut self, n: usize) -> bool {
        self.proven = false;
        self.ambiguous += 1;
        self.in_doubt += n as u64;
        self.ambiguous >= AMBIGUOUS_IN_A_ROW
    }

    /// The teacher would not label `n` images; `true` when asking must end.
    pub(super) fn declined(&mut self, n: usize) -> bool {
        self.declined += n;
        self.declined >= DECLINED_IN_A_ROW
    }

    /// Queries of unknown fate since the start.
    pub(super) fn in_doubt(&self) -> u64 {
        self.in_doubt
    }
}

/// Doubles with each attempt up to the longest, less up to a half by chance, so that gateways do
/// not come back together.
fn backoff(attempt: u32, jitter: f64) -> Duration {
    let factor = 2_u32.saturating_pow(attempt);
    let whole = FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF);
    whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn wait(verdict: Verdict, now: Instant) -> Duration {
        match verdict {
            Verdict::Wait { until, .. } => until - now,
            Verdict::GiveUp { .. } => panic!("gave up"),
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_end_with_patience() {
        let start = Instant::now();
        let (mut breaker, mut now, mut waits) = (Breaker::new(10 * MINUTE), start, vec![]);
        let waited = loop {
            match breaker.refused(now, now, None, 0.0) {
                Verdict::Wait { until, slower } => {
                    assert!(slower);
                    waits.push((until - now).as_secs_f64());
                    now = until;
                }
                Verdict::GiveUp { waited } => break waited,
            }
        };
        assert_eq!(waits[..8], [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]);
        assert_eq!(waited, 10 * MINUTE, "the last attempt falls on the deadline");
    }

    #[test]
    fn chance_takes_up_to_half_of_a_wait() {
        let (least, most) = (backoff(3, 1.0), backoff(3, 0.0));
        assert_eq!((least.as_secs_f64(), most.as_secs_f64()), (1.0, 2.0));
        assert_eq!(backoff(u32::MAX, 0.0), LONGEST_BACKOFF);
    }

    #[test]
    fn refusals_of_requests_that_were_on_their_way_do_not_add_up() {
        let start = Instant::now();
        let mut breaker = Breaker::new(MINUTE);
        let first = wait(breaker.refused(start, start, None, 0.0), start);
        let later = start + Duration::from_millis(10);
        for _ in 0..9 {
            let verdict = breaker.refused(start - Duration::from_millis(5), later, None, 0.0);
            assert_eq!(
                verdict,
                Verdict::Wait {
                    until: start + first,
                    slower: false
                }
            );
        }
    }

    #[test]
    fn a_time_that_the_teacher_names_is_kept_and_costs_no_patience() {
        let start = Instant::now();
        let mut breaker = Breaker::new(MINUTE);
        let mut now = start;
        for _ in 0..10 {
            let verdict = breaker.refused(now, now, Some(5 * MINUTE), 0.5);
            assert_eq!(wait(verdict, now), 5 * MINUTE);
            now += 5 * MINUTE;
        }
        assert!(wait(breaker.refused(now, now, None, 0.0), now) <= Duration::from_secs(1));
    }

    #[test]
    fn an_answer_ends_a_row_of_refusals() {
        let start = Instant::now();
        let mut breaker = Breaker::new(MINUTE);
        breaker.refused(start, start, None, 0.0);
        breaker.answered();
        let now = start + 2 * MINUTE;
        assert_eq!(wait(breaker.refused(now, now, None, 0.0), now), FIRST_BACKOFF);
    }

    #[test]
    fn a_teacher_that_only_declines_ends_the_asking_and_one_label_forgives() {
        let mut breaker = Breaker::new(MINUTE);
        assert!(!breaker.declined(DECLINED_IN_A_ROW - 1));
        breaker.answered();
        assert!(!breaker.declined(DECLINED_IN_A_ROW - 1));
        assert!(breaker.declined(1));
    }

    #[test]
    fn two_unknown_fates_in_a_row_end_the_asking_and_one_asks_for_proof() {
        let mut breaker = Breaker::new(MINUTE);
        assert!(!breaker.is_proven());
        breaker.answered();
        assert!(breaker.is_proven());
        assert!(!breaker.ambiguous(64));
        assert!(!breaker.is_proven());
        breaker.answered();
        assert!(!breaker.ambiguous(64));
        assert!(breaker.ambiguous(1));
        assert_eq!(breaker.in_doubt(), 129);
    }
}
