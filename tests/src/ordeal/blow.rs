//! What can happen to a job's processes and lines, and how often it does.

use std::fmt;
use std::time::Duration;

use stillhouse_core::dice::Dice;

use crate::proxy::{Cut, Direction, Which};

/// Shortest and longest time for which a program is stopped or a line stalls.
const STOPPED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// Shortest and longest time for which a program stays dead.
const DEAD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3));
/// Shortest and longest time for which a teacher misbehaves or a disk is full.
const BAD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Bytes after which a connection is cut: within a heartbeat, a message or a few of them.
const BYTES: u64 = 3_000;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// With its workers, when it is killed.
    Coordinator,
    /// One of the gateways.
    Gateway(usize),
    /// The queue.
    Redis,
    /// The teacher.
    Teacher,
}

/// A line between programs, with a proxy on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Gateways to the coordinator.
    Desk,
    /// Gateways to Redis.
    GatewayQueue,
    /// The coordinator to Redis.
    CoordinatorQueue,
    /// Everybody to the teacher.
    Teacher,
}

impl Line {
    /// Every line.
    pub const ALL: [Self; 4] = [Self::Desk, Self::GatewayQueue, Self::CoordinatorQueue, Self::Teacher];
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, and a new life later.
    Kill(Victim, Duration),
    /// SIGSTOP, and SIGCONT later.
    Stop(Victim, Duration),
    /// Every key of Redis is deleted.
    Flush,
    /// Redis is killed, and comes back later without its files.
    Wipe(Duration),
    /// Redis is killed, and comes back later with an older copy of its files.
    RollBack(Duration),
    /// Connections end.
    Cut(Line, Which, Cut),
    /// Nothing moves on a line for a while.
    Stall(Line, Duration),
    /// A line takes no connections for a while, and loses those it has.
    Refuse(Line, Duration),
    /// The teacher has a fault for a while, named as [`Fault`](crate::teacher::Fault) parses it.
    Misbehave(String, Duration),
    /// For a while the coordinator cannot write files beyond so many hundredths of its ledger's size.
    FillDisk(u64, Duration),
}

/// A blow without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KillCoordinator,
    KillGateway,
    KillRedis,
    KillTeacher,
    StopCoordinator,
    StopGateway,
    StopRedis,
    StopTeacher,
    Flush,
    Wipe,
    RollBack,
    Cut(Line),
    Stall(Line),
    Refuse(Line),
    Busy,
    ServerError,
    Hang,
    Die,
    FillDisk,
}

/// How often each falls, in shares. What leaves requests of unknown fate is rare: two in a row stop
/// the run, as they should, and a job that always stops shows little.
const SHARES: [(Kind, u64); 28] = [
    (Kind::KillCoordinator, 8),
    (Kind::KillGateway, 12),
    (Kind::KillRedis, 6),
    (Kind::KillTeacher, 3),
    (Kind::StopCoordinator, 4),
    (Kind::StopGateway, 8),
    (Kind::StopRedis, 5),
    (Kind::StopTeacher, 2),
    (Kind::Flush, 6),
    (Kind::Wipe, 4),
    (Kind::RollBack, 6),
    (Kind::Cut(Line::Desk), 12),
    (Kind::Cut(Line::GatewayQueue), 8),
    (Kind::Cut(Line::CoordinatorQueue), 6),
    (Kind::Cut(Line::Teacher), 2),
    (Kind::Stall(Line::Desk), 4),
    (Kind::Stall(Line::GatewayQueue), 3),
    (Kind::Stall(Line::CoordinatorQueue), 2),
    (Kind::Stall(Line::Teacher), 1),
    (Kind::Refuse(Line::Desk), 3),
    (Kind::Refuse(Line::GatewayQueue), 2),
    (Kind::Refuse(Line::CoordinatorQueue), 2),
    (Kind::Refuse(Line::Teacher), 2),
    (Kind::Busy, 6),
    (Kind::ServerError, 1),
    (Kind::Hang, 1),
    (Kind::Die, 2),
    (Kind::FillDisk, 4),
];

impl Blow {
    /// The next blow on a job with so many gateways.
    pub(super) fn draw(dice: &mut Dice, gateways: usize) -> Self {
        let gateway = Victim::Gateway(dice.below(gateways as u64) as usize);
        let dead = dice.duration(DEAD.0, DEAD.1);
        let stopped = dice.duration(STOPPED.0, STOPPED.1);
        let bad = dice.duration(BAD.0, BAD.1);
        match kind(dice) {
            Kind::KillCoordinator => Self::Kill(Victim::Coordinator, dead),
            Kind::KillGateway => Self::Kill(gateway, dead),
            Kind::KillRedis => Self::Kill(Victim::Redis, dead),
            Kind::KillTeacher => Self::Kill(Victim::Teacher, dead),
            Kind::StopCoordinator => Self::Stop(Victim::Coordinator, stopped),
            Kind::StopGateway => Self::Stop(gateway, stopped),
            Kind::StopRedis => Self::Stop(Victim::Redis, stopped),
            Kind::StopTeacher => Self::Stop(Victim::Teacher, stopped),
            Kind::Flush => Self::Flush,
            Kind::Wipe => Self::Wipe(dead),
            Kind::RollBack => Self::RollBack(dead),
            Kind::Cut(line) => Self::Cut(line, which(dice), cut(dice)),
            Kind::Stall(line) => Self::Stall(line, stopped),
            Kind::Refuse(line) => Self::Refuse(line, dead),
            Kind::Busy => Self::Misbehave(busy(dice), bad),
            Kind::ServerError => Self::Misbehave("server-error:1".into(), bad),
            Kind::Hang => Self::Misbehave("hang".into(), bad),
            Kind::Die => Self::Misbehave(format!("die-after:{}", dice.between(1, 100)), bad),
            Kind::FillDisk => Self::FillDisk(dice.one_of(&[0, 10, 50, 90, 100, 100]), bad),
        }
    }

    /// What it is, for counting.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill(Victim::Coordinator, _) => "coordinator killed",
            Self::Kill(Victim::Gateway(_), _) => "gateway killed",
            Self::Kill(Victim::Redis, _) => "Redis killed",
            Self::Kill(Victim::Teacher, _) => "teacher killed",
            Self::Stop(Victim::Coordinator, _) => "coordinator stopped",
            Self::Stop(Victim::Gateway(_), _) => "gateway stopped",
            Self::Stop(Victim::Redis, _) => "Redis stopped",
            Self::Stop(Victim::Teacher, _) => "teacher stopped",
            Self::Flush => "Redis flushed",
            Self::Wipe(_) => "Redis wiped",
            Self::RollBack(_) => "Redis rolled back",
            Self::Cut(..) => "connections cut",
            Self::Stall(..) => "line stalled",
            Self::Refuse(..) => "connections refused",
            Self::Misbehave(..) => "teacher misbehaved",
            Self::FillDisk(..) => "disk filled",
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(Victim::Gateway(at), dead) => write!(f, "gateway {at} killed for {dead:.1?}"),
            Self::Stop(Victim::Gateway(at), time) => write!(f, "gateway {at} stopped for {time:.1?}"),
            Self::Flush => f.write_str(self.name()),
            Self::Cut(line, which, cut) => write!(f, "{line:?} line cut: {which:?}, {cut:?}"),
            Self::Stall(line, time) => write!(f, "{line:?} line stalled for {time:.1?}"),
            Self::Refuse(line, time) => write!(f, "{line:?} line refuses for {time:.1?}"),
            Self::Misbehave(fault, time) => write!(f, "teacher has {fault} for {time:.1?}"),
            Self::FillDisk(percent, time) => write!(f, "disk full at {percent} % of the ledger for {time:.1?}"),
            Self::Kill(_, time) | Self::Stop(_, time) | Self::Wipe(time) | Self::RollBack(time) => {
                write!(f, "{} for {time:.1?}", self.name())
            }
        }
    }
}

fn kind(dice: &mut Dice) -> Kind {
    let mut at = dice.below(SHARES.iter().map(|(_, share)| share).sum());
    let found = SHARES.iter().find(|(_, share)| match at.checked_sub(*share) {
        Some(beyond) => {
            at = beyond;
            false
        }
        None => true,
    });
    found.expect("drawn below the sum of all shares").0
}

fn which(dice: &mut Dice) -> Which {
    if dice.percent(60) {
        Which::One(dice.below(1 << 20))
    } else {
        Which::All
    }
}

fn cut(dice: &mut Dice) -> Cut {
    let direction = dice.one_of(&[Direction::ToTarget, Direction::ToClient]);
    let bytes = dice.below(BYTES);
    dice.one_of(&[Cut::Now, Cut::After { direction, bytes }, Cut::OneWay(direction)])
}

fn busy(dice: &mut Dice) -> String {
    let times = dice.between(1, 4);
    if dice.percent(50) {
        format!("too-many:{times}:1")
    } else {
        format!("too-many:{times}")
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_core::sampler::{Purpose, Stream};

    use super::*;

    fn blows(seed: u64, n: usize) -> Vec<Blow> {
        let mut dice = Dice::new(Stream::new(seed, Purpose::Shuffle, 0));
        (0..n).map(|_| Blow::draw(&mut dice, 3)).collect()
    }

    #[test]
    fn a_seed_fixes_the_blows() {
        assert_eq!(blows(7, 100), blows(7, 100));
        assert_ne!(blows(7, 100), blows(8, 100));
    }

    #[test]
    fn everything_happens_sooner_or_later() {
        let mut dice = Dice::new(Stream::new(1, Purpose::Shuffle, 0));
        let drawn: Vec<Kind> = (0..10_000).map(|_| kind(&mut dice)).collect();
        for (kind, share) in SHARES {
            let count = drawn.iter().filter(|one| **one == kind).count() as u64;
            let expected = 10_000 * share / SHARES.iter().map(|(_, share)| share).sum::<u64>();
            assert!(
                (expected / 2..expected * 2).contains(&count),
                "{kind:?}: {count} of {expected}"
            );
        }
        let blows = blows(1, 10_000);
        assert!((0..3).all(|at| {
            blows
                .iter()
                .any(|blow| matches!(blow, Blow::Kill(Victim::Gateway(one), _) if *one == at))
        }));
        let faults = blows.iter().filter_map(|blow| match blow {
            Blow::Misbehave(fault, _) => Some(fault),
            _ => None,
        });
        assert!(
            faults
                .into_iter()
                .all(|fault| fault.parse::<crate::teacher::Fault>().is_ok())
        );
    }
}
