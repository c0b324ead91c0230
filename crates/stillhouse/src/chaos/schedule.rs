//! Which blows fall when. Pure: the same seed, the same blows.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use stillhouse_core::dice::Dice;
use stillhouse_core::sampler::{Purpose, Stream};

/// For how long a process is stopped when its coordinator is not to miss it: it does after 15 s of silence.
const SHORT_STOP: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// For how long when it is.
const LONG_STOP: (Duration, Duration) = (Duration::from_secs(16), Duration::from_secs(20));
/// Of a hundred stops, so many are long.
const LONG_STOPS: u64 = 25;
/// How long every read and write of a slow link waits.
const SLOW_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// For how long a link is slow.
const SLOW_TIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after a while: one time in four longer than the 15 s of silence that a coordinator bears.
    Stop,
    /// A link ends, wherever in a message it is.
    Cut,
    /// For a while, whatever moves over a link waits first.
    Slow,
}

/// To what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A worker on this machine; killed or stopped.
    Worker,
    /// The coordinator; killed or stopped.
    Coordinator,
    /// A link between the coordinator and a worker or gateway; cut or slowed.
    Link,
}

/// What is killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One of the workers.
    Worker,
    /// The coordinator.
    Coordinator,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill(Victim),
    /// SIGSTOP, and SIGCONT later.
    Stop(Victim, Duration),
    /// The link ends.
    Cut,
    /// Every read and write of the link waits for `pause`, for `time`.
    Slow {
        /// How long each waits.
        pause: Duration,
        /// For how long.
        time: Duration,
    },
}

impl Blow {
    /// What is done.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Kill(_) => Kind::Kill,
            Self::Stop(..) => Kind::Stop,
            Self::Cut => Kind::Cut,
            Self::Slow { .. } => Kind::Slow,
        }
    }

    /// To what.
    #[must_use]
    pub fn target(self) -> Target {
        match self {
            Self::Kill(Victim::Worker) | Self::Stop(Victim::Worker, _) => Target::Worker,
            Self::Kill(Victim::Coordinator) | Self::Stop(Victim::Coordinator, _) => Target::Coordinator,
            Self::Cut | Self::Slow { .. } => Target::Link,
        }
    }

    /// How long it lasts; none when it is over at once.
    #[must_use]
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Stop(_, time) | Self::Slow { time, .. } => Some(time),
            Self::Kill(_) | Self::Cut => None,
        }
    }

    /// What happens to `name`, in words.
    #[must_use]
    pub fn words(self, name: &str) -> String {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Self::Kill(_) => format!("{name} killed"),
            Self::Stop(_, time) => format!("{name} stopped for {}", seconds(time)),
            Self::Cut => format!("link of {name} cut"),
            Self::Slow { pause, time } => {
                format!(
                    "link of {name} slowed by {} ms for {}",
                    pause.as_millis(),
                    seconds(time)
                )
            }
        }
    }
}

impl fmt::Display for Blow {
    /// Before anybody is chosen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(match self.target() {
            Target::Worker => "a worker",
            Target::Coordinator => "the coordinator",
            Target::Link => "a worker or gateway",
        }))
    }
}

/// A blow that is to fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// So long after the one before has fallen, or after the beginning. It waits for somebody to hit.
    pub after: Duration,
    /// What.
    pub blow: Blow,
    /// Chooses whom: this number modulo how many there are.
    pub pick: u64,
}

/// Blows without end, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    dice: Dice,
    mean: Duration,
    choices: Vec<(Kind, Target)>,
}

impl Schedule {
    /// Blows of these `kinds` to these `targets`, `mean` apart; `None` when none of the kinds is one for any of the targets.
    #[must_use]
    pub fn new(seed: u64, mean: Duration, kinds: &[Kind], targets: &[Target]) -> Option<Self> {
        // In a fixed order, so that it does not matter in which they were named.
        let possible = [
            (Kind::Kill, Target::Worker),
            (Kind::Kill, Target::Coordinator),
            (Kind::Stop, Target::Worker),
            (Kind::Stop, Target::Coordinator),
            (Kind::Cut, Target::Link),
            (Kind::Slow, Target::Link),
        ];
        let is_wanted = |(kind, target): &(Kind, Target)| kinds.contains(kind) && targets.contains(target);
        let choices: Vec<_> = possible.into_iter().filter(is_wanted).collect();
        (!choices.is_empty()).then(|| Self {
            dice: Dice::new(Stream::new(seed, Purpose::Blows, 0)),
            mean,
            choices,
        })
    }

    /// The blows that fall within `time` when each finds somebody at once, with the times at which they do.
    #[must_use]
    pub fn within(&self, time: Duration) -> Vec<(Duration, Blow)> {
        self.times().take_while(|(at, _)| *at <= time).collect()
    }

    /// The first `n` blows in the same way.
    #[must_use]
    pub fn first(&self, n: usize) -> Vec<(Duration, Blow)> {
        self.times().take(n).collect()
    }

    fn times(&self) -> impl Iterator<Item = (Duration, Blow)> {
        self.clone().scan(Duration::ZERO, |at, planned| {
            *at += planned.after;
            Some((*at, planned.blow))
        })
    }

    fn blow(&mut self) -> Blow {
        // All of it is drawn in any case, so that what one blow needs does not move the next.
        let (kind, target) = self.dice.one_of(&self.choices);
        let (shortest, longest) = if self.dice.percent(LONG_STOPS) {
            LONG_STOP
        } else {
            SHORT_STOP
        };
        let stop = self.dice.duration(shortest, longest);
        let pause = self.dice.duration(SLOW_PAUSE.0, SLOW_PAUSE.1);
        let time = self.dice.duration(SLOW_TIME.0, SLOW_TIME.1);
        let victim = match target {
            Target::Coordinator => Victim::Coordinator,
            Target::Worker | Target::Link => Victim::Worker,
        };
        match kind {
            Kind::Kill => Blow::Kill(victim),
            Kind::Stop => Blow::Stop(victim, stop),
            Kind::Cut => Blow::Cut,
            Kind::Slow => Blow::Slow { pause, time },
        }
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let after = self.dice.gap(self.mean);
        let blow = self.blow();
        let pick = self.dice.below(1 << 32);
        Some(Planned { after, blow, pick })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ([Kind; 4], [Target; 3]) = (
        [Kind::Kill, Kind::Stop, Kind::Cut, Kind::Slow],
        [Target::Worker, Target::Coordinator, Target::Link],
    );

    fn all(seed: u64, mean: Duration) -> Schedule {
        Schedule::new(seed, mean, &ALL.0, &ALL.1).expect("blows")
    }

    #[test]
    fn a_seed_fixes_the_blows_and_another_fixes_others() {
        let blows = |seed| all(seed, Duration::from_secs(30)).take(50).collect::<Vec<_>>();
        assert_eq!(blows(7), blows(7));
        assert_ne!(blows(7), blows(8));
        let turned = Schedule::new(
            7,
            Duration::from_secs(30),
            &[Kind::Slow, Kind::Cut, Kind::Stop, Kind::Kill],
            &[Target::Link, Target::Coordinator, Target::Worker],
        );
        assert_eq!(turned.expect("blows").take(50).collect::<Vec<_>>(), blows(7));
    }

    #[test]
    fn another_mean_moves_the_blows_and_changes_nothing_else() {
        let blows = |mean| all(3, Duration::from_secs(mean)).take(50).collect::<Vec<_>>();
        for (one, ten) in blows(1).into_iter().zip(blows(10)) {
            assert_eq!((one.blow, one.pick), (ten.blow, ten.pick));
            let difference = (one.after * 10).abs_diff(ten.after);
            assert!(difference <= Duration::from_millis(10), "{one:?} {ten:?}");
        }
    }

    #[test]
    fn every_kind_falls_on_every_target_that_it_can_and_some_stops_are_missed() {
        let blows: Vec<Blow> = all(1, Duration::from_secs(1))
            .take(600)
            .map(|planned| planned.blow)
            .collect();
        for (kind, target) in [
            (Kind::Kill, Target::Worker),
            (Kind::Kill, Target::Coordinator),
            (Kind::Stop, Target::Worker),
            (Kind::Stop, Target::Coordinator),
            (Kind::Cut, Target::Link),
            (Kind::Slow, Target::Link),
        ] {
            let count = blows
                .iter()
                .filter(|blow| (blow.kind(), blow.target()) == (kind, target))
                .count();
            assert!((60..150).contains(&count), "{kind:?} {target:?}: {count} of 600");
        }
        let stops = blows.iter().filter(|blow| blow.kind() == Kind::Stop);
        let long = stops
            .clone()
            .filter(|blow| blow.time() > Some(Duration::from_secs(15)))
            .count();
        let share = long as f64 / stops.count() as f64;
        assert!((0.15..0.35).contains(&share), "{share} of all stops are long");
    }

    #[test]
    fn only_what_was_asked_for_falls() {
        let only = |kinds: &[Kind], targets: &[Target]| Schedule::new(1, Duration::from_secs(1), kinds, targets);
        let mut cuts = only(&[Kind::Cut, Kind::Kill], &[Target::Link]).expect("cuts");
        assert!(cuts.by_ref().take(50).all(|planned| planned.blow == Blow::Cut));
        assert!(only(&[Kind::Cut], &[Target::Worker]).is_none(), "a worker is not cut");
        assert!(only(&[Kind::Stop], &[Target::Link]).is_none(), "a link is not stopped");
    }

    #[test]
    fn what_falls_within_a_time_is_told_in_advance() {
        let schedule = all(5, Duration::from_secs(2));
        let told = schedule.within(Duration::from_secs(20));
        assert!(!told.is_empty() && told.is_sorted_by_key(|(at, _)| *at));
        assert_eq!(schedule.first(told.len()), told);
        let first: Vec<Blow> = schedule.take(told.len()).map(|planned| planned.blow).collect();
        assert_eq!(told.iter().map(|(_, blow)| *blow).collect::<Vec<_>>(), first);
        assert!(told.iter().all(|(at, _)| *at <= Duration::from_secs(20)));
    }

    #[test]
    fn a_blow_is_told_in_words() {
        let stop = Blow::Stop(Victim::Worker, Duration::from_millis(1_234));
        assert_eq!(stop.words("worker 3"), "worker 3 stopped for 1.2 s");
        let (pause, time) = (Duration::from_millis(40), Duration::from_secs(3));
        let slow = Blow::Slow { pause, time };
        assert_eq!(
            slow.to_string(),
            "link of a worker or gateway slowed by 40 ms for 3.0 s"
        );
    }
}
