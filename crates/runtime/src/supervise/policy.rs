//! What the death of a child means: a pure decision from its history.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use super::Death;
use crate::exit_code;

/// When to start a child again, and when to leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Pause before the first restart; each further death doubles it.
    pub first_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// This many deaths ...
    pub max_deaths: usize,
    /// ... within this time, without progress in between, and the child is given up.
    pub window: Duration,
    /// What a child gets between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Default for RestartPolicy {
    /// Backoff from 200 ms to 10 s, five deaths within 60 s, 10 s of grace.
    fn default() -> RestartPolicy {
        RestartPolicy {
            first_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(10),
            max_deaths: 5,
            window: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a child is not started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It died this often within this time, without progress in between.
    TooManyDeaths {
        /// How often.
        deaths: usize,
        /// Within what.
        window: Duration,
    },
    /// Its exit code says that it would fail again; see [`exit_code::is_permanent`].
    Permanent {
        /// The code.
        code: i32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::TooManyDeaths { deaths, window } => {
                write!(f, "{deaths} deaths within {window:?} without progress")
            }
            Reason::Permanent { code } => write!(f, "exit code {code} would repeat itself"),
        }
    }
}

/// What to do about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Restart { after: Duration },
    Finish,
    GiveUp { reason: Reason },
}

/// A child's deaths since its last progress.
#[derive(Debug)]
pub(super) struct History {
    policy: RestartPolicy,
    /// Those within the window, oldest first.
    deaths: VecDeque<Instant>,
}

impl History {
    pub(super) fn new(policy: RestartPolicy) -> History {
        History {
            policy,
            deaths: VecDeque::new(),
        }
    }

    /// Forgets all deaths: the child made progress.
    pub(super) fn forgive(&mut self) {
        self.deaths.clear();
    }

    pub(super) fn decide(&mut self, now: Instant, death: &Death) -> Decision {
        match death {
            Death::Exited(status) if status.success() => return Decision::Finish,
            Death::Exited(status) => {
                if let Some(code) = status.code().filter(|&code| exit_code::is_permanent(code)) {
                    return Decision::GiveUp {
                        reason: Reason::Permanent { code },
                    };
                }
            }
            Death::NotStarted(_) => {}
        }
        let RestartPolicy { max_deaths, window, .. } = self.policy;
        self.deaths
            .retain(|&earlier| now.saturating_duration_since(earlier) < window);
        self.deaths.push_back(now);
        if self.deaths.len() >= max_deaths {
            return Decision::GiveUp {
                reason: Reason::TooManyDeaths {
                    deaths: self.deaths.len(),
                    window,
                },
            };
        }
        let doublings = (self.deaths.len() - 1).min(31) as u32;
        let after = self.policy.first_backoff.saturating_mul(1 << doublings);
        Decision::Restart {
            after: after.min(self.policy.max_backoff),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        first_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_millis(500),
        max_deaths: 5,
        window: Duration::from_secs(60),
        grace: Duration::ZERO,
    };

    fn exited(code: i32) -> Death {
        Death::Exited(ExitStatus::from_raw(code << 8))
    }

    fn pauses(history: &mut History, times: &[(Instant, Death)]) -> Vec<Option<u64>> {
        let pause = |decision| match decision {
            Decision::Restart { after } => Some(after.as_millis() as u64),
            Decision::Finish | Decision::GiveUp { .. } => None,
        };
        times
            .iter()
            .map(|(now, death)| pause(history.decide(*now, death)))
            .collect()
    }

    fn every_second(deaths: u64) -> Vec<(Instant, Death)> {
        let start = Instant::now();
        (0..deaths)
            .map(|second| (start + Duration::from_secs(second), exited(1)))
            .collect()
    }

    #[test]
    fn the_pause_doubles_up_to_its_cap_and_the_fifth_death_is_the_last() {
        let mut history = History::new(POLICY);
        assert_eq!(
            pauses(&mut history, &every_second(5)),
            [Some(200), Some(400), Some(500), Some(500), None]
        );
    }

    #[test]
    fn progress_forgives_earlier_deaths() {
        let mut history = History::new(POLICY);
        assert_eq!(pauses(&mut history, &every_second(4)).last(), Some(&Some(500)));
        history.forgive();
        assert_eq!(
            pauses(&mut history, &every_second(4)),
            [Some(200), Some(400), Some(500), Some(500)]
        );
    }

    #[test]
    fn deaths_that_are_far_apart_never_add_up() {
        let mut history = History::new(POLICY);
        let start = Instant::now();
        let rare: Vec<_> = (0..20)
            .map(|i| (start + Duration::from_secs(20 * i), exited(1)))
            .collect();
        assert!(pauses(&mut history, &rare).iter().all(Option::is_some));
    }

    #[test]
    fn a_signal_is_a_death_like_any_other() {
        let killed = Death::Exited(ExitStatus::from_raw(9));
        assert_eq!(
            pauses(&mut History::new(POLICY), &[(Instant::now(), killed)]),
            [Some(200)]
        );
    }

    #[test]
    fn success_and_permanent_failures_are_not_repeated() {
        let decide = |code| History::new(POLICY).decide(Instant::now(), &exited(code));
        assert_eq!(decide(exit_code::OK), Decision::Finish);
        for code in [
            exit_code::USAGE,
            exit_code::INPUT_DATA,
            exit_code::BUDGET,
            exit_code::JOB_DIRECTORY,
        ] {
            assert_eq!(
                decide(code),
                Decision::GiveUp {
                    reason: Reason::Permanent { code }
                }
            );
        }
    }
}
