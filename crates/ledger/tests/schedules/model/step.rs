//! What can happen, and how it is drawn.

use fastrand::Rng;

/// Queries that anybody may wish for: few, so that steps meet.
pub(crate) const KEYS: u8 = 5;
/// Steps of a schedule.
const LENGTH: std::ops::RangeInclusive<usize> = 4..=72;

/// What really happened to a query that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Billed; a label is on its way.
    Labelled,
    /// Billed; the answer is no label.
    Nonsense,
    /// Not billed; the teacher said so.
    Refused,
    /// Billed, or not; nothing ever comes back.
    Silent { billed: bool },
}

impl Fate {
    pub(crate) fn is_billed(self) -> bool {
        match self {
            Fate::Labelled | Fate::Nonsense => true,
            Fate::Refused => false,
            Fate::Silent { billed } => billed,
        }
    }
}

/// What a gateway makes of the answer that it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It sends.
    AndSends,
    /// It is stopped before it sends.
    AndStops,
    /// The answer is lost.
    Nothing,
}

/// Where a gateway gets its reference from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The queue, which forgets it.
    Queue,
    /// The queue, which delivers it once more later.
    QueueWithoutAck,
    /// What a gateway has held for any time.
    Held,
}

/// One thing that happens. Positions choose among what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The coordinator wants a label, and queues the permit.
    Admit {
        key: u8,
    },
    /// Gateways announce a reference, so many of them, and send when they may; or do not hear it.
    Ask {
        source: Source,
        at: usize,
        gateways: u8,
        heard: Heard,
        fate: Fate,
    },
    /// A request asks again: one that did not hear sends when it may; others were delivered late.
    AskAgain {
        at: usize,
        fate: Fate,
    },
    /// A gateway that was stopped just before it sent goes on.
    WakeUp {
        at: usize,
        fate: Fate,
    },
    /// A request of which no byte left gives up: it never connected.
    GiveUp {
        at: usize,
    },
    /// A request reports on what another one sent: it never connected.
    Impostor {
        at: usize,
    },
    /// What happened to a sent query is reported: for the first time, late, or again.
    Report {
        at: usize,
    },
    /// A gateway hears nothing in time.
    TimeOut {
        at: usize,
    },
    /// A status that proves nothing.
    ServerError {
        at: usize,
    },
    /// A permit is not needed.
    Return {
        at: usize,
    },
    /// A label on a permit that nobody announced.
    Forge {
        key: u8,
        number: u32,
    },
    /// The coordinator dies and is started again.
    Crash,
    /// Another coordinator is started while this one goes on.
    SecondCoordinator,
    /// The queue is saved, is restored as it was saved, or loses everything.
    Save,
    RollBack,
    Wipe,
    /// The coordinator queues again what is permitted and not sent.
    Refill,
    /// The invoice is closed: what is in doubt and not on it is given back.
    Reconcile,
    /// A label comes from another job.
    Import {
        key: u8,
    },
    /// The budget grows, while running or by starting again.
    Raise,
    Grow,
}

/// An op, by whom, and whether its answer is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) op: Op,
    /// Asked of the oldest coordinator that goes on, not of the newest.
    pub(crate) oldest: bool,
    /// The coordinator dies before the change is on disk, and nobody hears of it.
    pub(crate) dies: bool,
}

impl Step {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            op: Op::draw(rng),
            oldest: rng.u8(..8) == 0,
            dies: rng.u8(..48) == 0,
        }
    }
}

fn fate(rng: &mut Rng) -> Fate {
    match rng.u8(..8) {
        0..4 => Fate::Labelled,
        4 => Fate::Nonsense,
        5..7 => Fate::Refused,
        _ => Fate::Silent { billed: rng.bool() },
    }
}

fn ask(rng: &mut Rng) -> Op {
    Op::Ask {
        source: match rng.u8(..6) {
            0..3 => Source::Queue,
            3 => Source::QueueWithoutAck,
            _ => Source::Held,
        },
        at: rng.usize(..),
        gateways: 1 + u8::from(rng.u8(..5) == 0),
        heard: match rng.u8(..10) {
            0..6 => Heard::AndSends,
            6..8 => Heard::AndStops,
            _ => Heard::Nothing,
        },
        fate: fate(rng),
    }
}

impl Op {
    fn draw(rng: &mut Rng) -> Self {
        let key = rng.u8(..KEYS);
        let at = rng.usize(..);
        match rng.u8(..64) {
            0..14 => Op::Admit { key },
            14..26 => ask(rng),
            26..29 => Op::AskAgain { at, fate: fate(rng) },
            29..32 => Op::WakeUp { at, fate: fate(rng) },
            32..34 => Op::GiveUp { at },
            34..36 => Op::Impostor { at },
            36..45 => Op::Report { at },
            45..48 => Op::TimeOut { at },
            48 => Op::ServerError { at },
            49..51 => Op::Return { at },
            51 => Op::Forge {
                key,
                number: rng.u32(..4),
            },
            52..54 => Op::Crash,
            54 => Op::SecondCoordinator,
            55 => Op::Save,
            56 => Op::RollBack,
            57 => Op::Wipe,
            58..60 => Op::Refill,
            60 => Op::Reconcile,
            61 => Op::Import { key },
            62 => Op::Raise,
            _ => Op::Grow,
        }
    }
}

/// The schedule of a number: the same for ever.
pub(crate) fn schedule(seed: u64, number: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let length = rng.usize(LENGTH);
    (0..length).map(|_| Step::draw(&mut rng)).collect()
}
