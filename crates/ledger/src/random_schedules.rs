//! The permit protocol under random schedules: crashes at any point, zombie gateways that go on
//! with permits of an earlier life, duplicated and late reports, timeouts of queries that were
//! billed. Named invariants must hold, and every planted fault must break one.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use stillhouse_core::image::ImageShape;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample};

use crate::permit::{Book, Decision, Fault, OnAmbiguous, Permit, Proof, Record, State};

const BUDGET: u64 = 12;
const KEYS: u32 = 16;

fn key(number: u32) -> Key {
    let shape = ImageShape {
        channels: 1,
        height: 1,
        width: 4,
    };
    Key::of(Fingerprint([1; 32]), shape, &number.to_le_bytes())
}

#[derive(Clone, Debug)]
enum Happening {
    /// The coordinator wants a label.
    Admit(u32),
    /// A gateway announces one of its permits, and sends when it may.
    Send(usize),
    /// A sent query is answered.
    Answer(usize),
    /// A sent query was billed, but the gateway hears nothing in time.
    TimeOut(usize),
    /// A sent query is refused before any work.
    Refuse(usize),
    /// A sent query is answered with nonsense.
    Nonsense(usize),
    /// An answer that a gateway took for lost arrives after all.
    AnswerLate(usize),
    /// A report is delivered a second time.
    Repeat(usize),
    /// The ledger's process dies and is started again; gateways know nothing of it.
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    let at = || any::<usize>();
    prop_oneof![
        6 => (0..KEYS).prop_map(Happening::Admit),
        6 => at().prop_map(Happening::Send),
        4 => at().prop_map(Happening::Answer),
        2 => at().prop_map(Happening::TimeOut),
        1 => at().prop_map(Happening::Refuse),
        1 => at().prop_map(Happening::Nonsense),
        2 => at().prop_map(Happening::AnswerLate),
        1 => at().prop_map(Happening::Repeat),
        1 => Just(Happening::Crash),
    ]
}

struct World {
    book: Book,
    policy: OnAmbiguous,
    fault: Option<Fault>,
    /// What fsync left: every change so far, since nobody gets an answer before it.
    disk: HashMap<Key, Record>,
    /// Permits at gateways, not sent yet.
    held: Vec<Permit>,
    /// Sent and not answered, billed by the teacher.
    sent: Vec<Permit>,
    /// Given up by a gateway, billed by the teacher.
    late: Vec<Permit>,
    /// Permits whose label was reported.
    reported: Vec<Permit>,
    /// Charges on the teacher's own bill.
    bill: BTreeMap<Key, u64>,
    /// Keys whose label the ledger said it keeps.
    kept: HashSet<Key>,
}

fn pick(list: &mut Vec<Permit>, at: usize) -> Option<Permit> {
    if list.is_empty() {
        None
    } else {
        Some(list.swap_remove(at % list.len()))
    }
}

impl World {
    fn new(policy: OnAmbiguous, fault: Option<Fault>) -> Self {
        let mut book = Book::new(BUDGET, policy, 1, HashMap::new());
        book.fault = fault;
        Self {
            book,
            policy,
            fault,
            disk: HashMap::new(),
            held: Vec::new(),
            sent: Vec::new(),
            late: Vec::new(),
            reported: Vec::new(),
            bill: BTreeMap::new(),
            kept: HashSet::new(),
        }
    }

    fn play(&mut self, happening: &Happening) -> Result<(), String> {
        match happening {
            Happening::Admit(number) => {
                if let Decision::Permitted(permit) = self.book.admit(key(*number), Sample::Seed(*number), Arm::Active) {
                    self.held.push(permit);
                }
            }
            Happening::Send(at) => self.send(*at),
            Happening::Answer(at) => {
                if let Some(permit) = pick(&mut self.sent, *at) {
                    self.report_label(permit)?;
                }
            }
            Happening::TimeOut(at) => {
                if let Some(permit) = pick(&mut self.sent, *at) {
                    // A stale report changes nothing.
                    let _ = self.book.ambiguous(permit);
                    self.late.push(permit);
                }
            }
            Happening::Refuse(at) => {
                if let Some(permit) = pick(&mut self.sent, *at) {
                    // A refusal is not on the bill.
                    *self.bill.get_mut(&permit.key).expect("it was sent") -= 1;
                    let _ = self.book.release(permit, Proof::Refused { status: 429 });
                }
            }
            Happening::Nonsense(at) => {
                if let Some(permit) = pick(&mut self.sent, *at) {
                    let _ = self.book.spent(permit);
                }
            }
            Happening::AnswerLate(at) => {
                if let Some(permit) = pick(&mut self.late, *at) {
                    self.report_label(permit)?;
                }
            }
            Happening::Repeat(at) => {
                if !self.reported.is_empty() {
                    let permit = self.reported[at % self.reported.len()];
                    // A report that comes again changes nothing; checked by the invariants.
                    let _ = self.book.commit(permit);
                }
            }
            Happening::Crash => self.crash(),
        }
        for key in self.book.take_dirty() {
            self.disk.insert(key, *self.book.record(&key).expect("it changed"));
        }
        self.invariants()
    }

    /// A gateway keeps a permit that it sent, as one with a bug might.
    fn send(&mut self, at: usize) {
        let Some(permit) = pick(&mut self.held, at) else { return };
        if self.book.mark_sent(permit) {
            *self.bill.entry(permit.key).or_default() += 1;
            self.sent.push(permit);
            self.held.push(permit);
        }
    }

    fn report_label(&mut self, permit: Permit) -> Result<(), String> {
        let kept = self.book.commit(permit);
        self.reported.push(permit);
        if kept {
            self.kept.insert(permit.key);
        }
        if !kept
            && self.policy == OnAmbiguous::Hold
            && self.book.record(&permit.key).map(|r| r.state) != Some(State::Committed)
        {
            return Err("a label that was paid for was thrown away".into());
        }
        Ok(())
    }

    fn crash(&mut self) {
        let epoch = self.book.epoch() + 1;
        self.book = Book::new(BUDGET, self.policy, epoch, self.disk.clone());
        self.book.fault = self.fault;
        self.book.recover();
    }

    fn invariants(&self) -> Result<(), String> {
        self.invariant_bill_within_budget()?;
        self.invariant_ledger_knows_of_every_charge()?;
        self.invariant_nothing_is_billed_twice_under_hold()?;
        self.invariant_labels_stay()?;
        self.invariant_counts_are_sums()
    }

    fn billed(&self) -> u64 {
        self.bill.values().sum()
    }

    fn invariant_bill_within_budget(&self) -> Result<(), String> {
        let counts = self.book.counts();
        let taken = counts.reserved + counts.billed();
        let within = self.billed() <= BUDGET && taken <= BUDGET;
        if within {
            Ok(())
        } else {
            Err(format!("bill {}, taken {taken}, budget {BUDGET}", self.billed()))
        }
    }

    fn invariant_ledger_knows_of_every_charge(&self) -> Result<(), String> {
        let known = self.book.counts().billed();
        if self.billed() <= known {
            Ok(())
        } else {
            Err(format!("bill {}, ledger {known}", self.billed()))
        }
    }

    fn invariant_nothing_is_billed_twice_under_hold(&self) -> Result<(), String> {
        let twice = self.policy == OnAmbiguous::Hold && self.bill.values().any(|count| *count > 1);
        if twice {
            Err("a query was billed twice".into())
        } else {
            Ok(())
        }
    }

    fn invariant_labels_stay(&self) -> Result<(), String> {
        let state = |key: &Key| self.book.record(key).map(|record| record.state);
        let lost = self.kept.iter().any(|key| state(key) != Some(State::Committed));
        if lost { Err("a label was lost".into()) } else { Ok(()) }
    }

    fn invariant_counts_are_sums(&self) -> Result<(), String> {
        let records: HashMap<Key, Record> = self.book.records().map(|(k, r)| (*k, *r)).collect();
        let fresh = Book::new(BUDGET, self.policy, 1, records).counts();
        if fresh == self.book.counts() {
            Ok(())
        } else {
            Err("counts are not the sums of records".into())
        }
    }
}

fn play(happenings: &[Happening], policy: OnAmbiguous, fault: Option<Fault>) -> Result<(), String> {
    let mut world = World::new(policy, fault);
    happenings.iter().try_for_each(|happening| world.play(happening))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_overspends_or_loses_a_label(happenings in prop::collection::vec(happening(), 0..160), resend: bool) {
        let policy = if resend { OnAmbiguous::Resend { attempts: 2 } } else { OnAmbiguous::Hold };
        let outcome = play(&happenings, policy, None);
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let faults = [
        Fault::NoBudgetCheck,
        Fault::ForgetSent,
        Fault::ReleaseOnTimeout,
        Fault::ResendUnderHold,
        Fault::NoEpochCheck,
        Fault::SendTwice,
        Fault::DropLateLabel,
    ];
    for fault in faults {
        let mut runner = TestRunner::deterministic();
        let schedules = prop::collection::vec(happening(), 0..160);
        let noticed = (0..2_000).any(|_| {
            let happenings = schedules.new_tree(&mut runner).expect("no filter").current();
            play(&happenings, OnAmbiguous::Hold, Some(fault)).is_err()
        });
        assert!(noticed, "{fault:?} went unnoticed");
    }
}
