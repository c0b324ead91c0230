//! The permit protocol under random schedules: crashes at any point, answers that nobody heard, two
//! coordinators, a queue that delivers twice, forgets, and is rolled back, zombie gateways that go on
//! with permits of an earlier life, reports that come late, twice or from others, timeouts of queries
//! that were billed. The teacher keeps a bill of its own. Named invariants hold after every step,
//! and every planted fault breaks one.
//!
//! | module | what it is |
//! |---|---|
//! | [`step`] | what can happen |
//! | [`fault`] | ways to get the protocol wrong |
//! | `disk` | what survives a crash |
//! | `sending` | gateways up to the moment when bytes leave |
//! | `reporting` | what comes back |
//! | `invariants` | what must hold |

pub(crate) mod fault;
pub(crate) mod step;

mod disk;
mod invariants;
mod reporting;
mod sending;

use std::collections::HashSet;
use std::fmt;

use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};
use stillhouse_ledger::book::Book;
use stillhouse_ledger::permit::{Charge, Decision, OnAmbiguous, Permit, Record, RequestId, State};

use disk::Disk;
use fault::Fault;
use step::{Fate, KEYS, Op, Step, schedule};

const BUDGET: u64 = 5;
const ATTEMPTS: u32 = 2;

/// Every policy is played.
pub(crate) const POLICIES: [OnAmbiguous; 3] = [
    OnAmbiguous::Hold,
    OnAmbiguous::Resend { attempts: ATTEMPTS },
    OnAmbiguous::IdempotencyKey { attempts: ATTEMPTS },
];

/// The name of the broken rule.
pub(crate) type Check = Result<(), &'static str>;

fn check(holds: bool, broken: &'static str) -> Check {
    if holds { Ok(()) } else { Err(broken) }
}

fn key(number: u8) -> Key {
    Key([number; 32])
}

/// Where the key of `permit` stands in tables of [`KEYS`].
fn number(key: &Key) -> usize {
    usize::from(key.0[0])
}

fn pick<T: Copy>(all: &[T], at: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[at % all.len()])
}

/// How far a request of a gateway came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It announced its permit and heard nothing.
    Unheard,
    /// It may send, and has not.
    Cleared,
    /// Bytes left.
    Sent(Fate),
    /// It gave up, or was refused.
    Over,
}

/// One request of a gateway.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: RequestId,
    permit: Permit,
    stage: Stage,
}

/// Everything there is.
struct World {
    policy: OnAmbiguous,
    fault: Option<Fault>,
    /// Queries that were granted.
    budget: u64,
    disk: Disk,
    /// Coordinators that go on, by age; the last one is the rightful.
    books: Vec<Book>,
    /// Which of them is asked now, and whether it dies before its answer.
    who: usize,
    dies: bool,
    /// Whether the one asked found out that another life began.
    is_over: bool,
    queue: Vec<Permit>,
    saved: Vec<Permit>,
    /// What gateways ever leased.
    held: Vec<Permit>,
    requests: Vec<Asked>,
    /// Charges that somebody announced, and those on the teacher's bill.
    announced: HashSet<(Key, u32)>,
    billed_charges: HashSet<(Key, u32)>,
    /// Queries on the teacher's bill, by key.
    billed: [u64; KEYS as usize],
    /// Keys whose label the ledger acknowledged.
    kept: [bool; KEYS as usize],
}

impl World {
    fn new(policy: OnAmbiguous, fault: Option<Fault>) -> Self {
        let mut world = Self {
            policy,
            fault,
            budget: BUDGET,
            disk: Disk::new(BUDGET),
            books: Vec::new(),
            who: 0,
            dies: false,
            is_over: false,
            queue: Vec::new(),
            saved: Vec::new(),
            held: Vec::new(),
            requests: Vec::new(),
            announced: HashSet::new(),
            billed_charges: HashSet::new(),
            billed: [0; KEYS as usize],
            kept: [false; KEYS as usize],
        };
        world.start();
        world
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The coordinator that is asked.
    fn book(&mut self) -> &mut Book {
        &mut self.books[self.who]
    }

    fn newest(&self) -> &Book {
        self.books.last().expect("one goes on always")
    }

    fn asks_newest(&self) -> bool {
        self.who + 1 == self.books.len()
    }

    /// A charge as the coordinator that is asked sees it.
    fn charge(&self, permit: Permit) -> Option<&Charge> {
        let charges = &self.books[self.who].record(&permit.key)?.charges;
        charges.iter().find(|charge| charge.number == permit.charge)
    }

    fn state(&self, permit: Permit) -> Option<&State> {
        self.charge(permit).map(|charge| &charge.state)
    }

    fn is_labelled(&self, key: &Key) -> bool {
        self.books[self.who].record(key).is_some_and(Record::is_labelled)
    }

    fn play(&mut self, step: &Step) -> Check {
        self.who = if step.oldest { 0 } else { self.books.len() - 1 };
        self.dies = step.dies;
        self.is_over = false;
        self.apply(step.op)?;
        if self.asks_newest() {
            if self.dies {
                self.crash()?;
            }
        } else if self.dies || self.is_over {
            self.books.remove(self.who);
        }
        self.who = self.books.len() - 1;
        self.invariants()
    }

    fn apply(&mut self, op: Op) -> Check {
        match op {
            Op::Admit { key } => self.admit(key),
            Op::Ask {
                source,
                at,
                gateways,
                heard,
                fate,
            } => self.lease(source, at).map_or(Ok(()), |permit| {
                (0..gateways).try_for_each(|_| self.ask(permit, heard, fate))
            }),
            Op::AskAgain { at, fate } => self.ask_again(at, fate),
            Op::WakeUp { at, fate } => self.wake_up(at, fate),
            Op::GiveUp { at } => self.give_up(at),
            Op::Impostor { at } => self.impostor(at),
            Op::Report { at } => self.report(at),
            Op::TimeOut { at } => self.sent(at).map_or(Ok(()), |(asked, _)| self.time_out(asked)),
            Op::ServerError { at } => self.sent(at).map_or(Ok(()), |(asked, _)| self.server_error(asked)),
            Op::Return { at } => pick(&self.held, at).map_or(Ok(()), |permit| self.return_unsent(permit)),
            Op::Forge { key, number } => self.forge(key, number),
            Op::Crash => self.crash(),
            Op::SecondCoordinator => {
                self.start();
                Ok(())
            }
            Op::Save | Op::RollBack | Op::Wipe | Op::Refill => {
                self.queue_op(op);
                Ok(())
            }
            Op::Reconcile => self.reconcile(),
            Op::Import { key } => self.import(key),
            Op::Raise => self.raise(),
            Op::Grow => self.grow(),
        }
    }

    fn queue_op(&mut self, op: Op) {
        match op {
            Op::Save => self.saved.clone_from(&self.queue),
            Op::RollBack => self.queue.clone_from(&self.saved),
            Op::Wipe => self.queue.clear(),
            _ => {
                let outstanding = self.book().outstanding();
                self.queue.extend(outstanding.into_iter().map(|(permit, _, _)| permit));
            }
        }
    }

    fn admit(&mut self, number: u8) -> Check {
        let decision = self.book().admit(key(number), Sample::Seed(number.into()), Arm::Active);
        if !self.write() {
            return Ok(());
        }
        let Decision::Permitted(permit) = decision else {
            return Ok(());
        };
        if self.has(Fault::RenewForever) {
            self.tamper(permit, |charge| charge.sends = charge.sends.min(1));
        }
        self.queue.push(permit);
        Ok(())
    }

    fn import(&mut self, number: u8) -> Check {
        let key = key(number);
        let is_new = self.book().import(key, Sample::Seed(number.into()), Arm::Active);
        if self.write() {
            self.kept[usize::from(number)] = true;
            check(self.is_labelled(&key), "an imported label was thrown away")?;
            if is_new && self.has(Fault::ChargeImports) {
                self.tamper_record(key, |record| {
                    record.charges.push(Charge {
                        number: u32::MAX,
                        sends: 1,
                        epoch: 0,
                        request: None,
                        state: State::Committed,
                    });
                });
            }
        }
        Ok(())
    }
}

/// Plays `steps`; says which rule broke, if one did.
pub(crate) fn play(steps: &[Step], policy: OnAmbiguous, fault: Option<Fault>) -> Check {
    let mut world = World::new(policy, fault);
    steps.iter().try_for_each(|step| world.play(step))?;
    world.invariant_disk_holds_what_was_answered()
}

/// A schedule that broke a rule, without the steps that are not needed for it.
pub(crate) struct Failure {
    /// Its number.
    pub(crate) number: u64,
    /// The policy under which it was played.
    pub(crate) policy: OnAmbiguous,
    /// The rule.
    pub(crate) broken: &'static str,
    /// What is left of it.
    pub(crate) steps: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number, policy, broken, ..
        } = self;
        writeln!(f, "schedule {number} under {policy:?}: {broken}, by these steps:")?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

/// Plays the schedules of `numbers`; the first failure under any policy.
pub(crate) fn search(seed: u64, mut numbers: impl Iterator<Item = u64>, fault: Option<Fault>) -> Option<Failure> {
    numbers.find_map(|number| {
        let steps = schedule(seed, number);
        POLICIES.into_iter().find_map(|policy| {
            let broken = play(&steps, policy, fault).err()?;
            let steps = minimal(&steps, |fewer| play(fewer, policy, fault) == Err(broken));
            Some(Failure {
                number,
                policy,
                broken,
                steps,
            })
        })
    })
}

/// Leaves steps out, one by one, as long as it still `fails`.
fn minimal(steps: &[Step], fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let mut at = steps.len();
    while at > 0 {
        at -= 1;
        let mut fewer = steps.clone();
        fewer.remove(at);
        if fails(&fewer) {
            steps = fewer;
            // What could not go before may go now.
            at = steps.len();
        }
    }
    steps
}
