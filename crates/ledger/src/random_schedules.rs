//! The permit protocol under random schedules: crashes at any point, answers of the ledger that
//! nobody heard, zombie gateways that go on with permits of an earlier life, reports that come late,
//! twice or in any order, timeouts of queries that were billed. The teacher keeps a bill of its own.
//! Named invariants must hold after every step, and every planted fault must break one.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

use crate::permit::{Book, Cause, Charge, Decision, OnAmbiguous, Permit, Proof, Record, RequestId, State};

const BUDGET: u64 = 10;
const KEYS: u8 = 12;
const ATTEMPTS: u32 = 2;

/// What really happened to a query that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
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
    fn is_billed(self) -> bool {
        match self {
            Fate::Labelled | Fate::Nonsense => true,
            Fate::Refused => false,
            Fate::Silent { billed } => billed,
        }
    }
}

/// Positions choose among the permits given out, or those sent.
#[derive(Clone, Debug)]
enum Step {
    /// The coordinator wants a label; whether it hears the answer.
    Admit(u8, bool),
    /// Somebody who knows a permit announces it, and sends when it may.
    Send(usize, Fate),
    /// A reference comes to two gateways: both announce it, and send when they may.
    SendTwofold(usize, Fate),
    /// Somebody announces a permit and does not hear the answer.
    Announce(usize),
    /// Who did not hear the answer asks again, and sends when it may and has not.
    Retry(usize, Fate),
    /// Who did not hear the answer gives up: it never connected.
    GiveUp(usize),
    /// A request reports on a charge that another one marked: it knows that it never connected.
    Impostor(usize),
    /// What happened to a sent query is reported: for the first time, late, or again.
    Report(usize),
    /// The gateway hears nothing in time.
    TimeOut(usize),
    /// A status that proves nothing.
    ServerError(usize),
    /// A permit is not needed.
    Return(usize),
    /// A label on a permit that was never sent.
    Forge(u8, u32),
    /// The ledger's process dies and is started again, perhaps with a larger budget.
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let at = || any::<usize>();
    let fate = || {
        prop_oneof![
            4 => Just(Fate::Labelled),
            1 => Just(Fate::Nonsense),
            2 => Just(Fate::Refused),
            1 => any::<bool>().prop_map(|billed| Fate::Silent { billed }),
        ]
    };
    prop_oneof![
        6 => (0..KEYS, prop::bool::weighted(0.9)).prop_map(|(key, heard)| Step::Admit(key, heard)),
        6 => (at(), fate()).prop_map(|(at, fate)| Step::Send(at, fate)),
        2 => (at(), fate()).prop_map(|(at, fate)| Step::SendTwofold(at, fate)),
        2 => at().prop_map(Step::Announce),
        2 => (at(), fate()).prop_map(|(at, fate)| Step::Retry(at, fate)),
        1 => at().prop_map(Step::GiveUp),
        2 => at().prop_map(Step::Impostor),
        6 => at().prop_map(Step::Report),
        3 => at().prop_map(Step::TimeOut),
        1 => at().prop_map(Step::ServerError),
        2 => at().prop_map(Step::Return),
        1 => (0..KEYS, 0_u32..4).prop_map(|(key, number)| Step::Forge(key, number)),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..160)
}

/// Ways to get the protocol wrong, each made of the right one by tampering around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The budget is not looked at.
    NoBudgetCheck,
    /// What was sent when the process died counts as not sent.
    ForgetSent,
    /// What was reserved when the process died stays reserved for ever.
    KeepReserved,
    /// A timeout gives the permit back.
    ReleaseOnTimeout,
    /// Any status is a proof.
    AnyProof,
    /// A proof gives nothing back.
    NoRefund,
    /// Ambiguous queries are sent again under hold.
    ResendUnderHold,
    /// A permit may be sent twice.
    SendTwice,
    /// A number is given out again after its permit was given back.
    ReuseNumbers,
    /// Reports of an earlier life count.
    HeedOldReports,
    /// Late labels are thrown away.
    DropLateLabels,
    /// Late labels are thrown away once their key was sent again.
    DropOvertakenLabels,
    /// A label needs no permit.
    CommitUnknown,
    /// A label that is reported twice is charged twice.
    ChargeTwice,
    /// Anybody's report on a charge counts.
    NoHolderCheck,
    /// Who asks again is told that it may not send.
    ForgetHolder,
}

const FAULTS: [Fault; 16] = [
    Fault::NoBudgetCheck,
    Fault::ForgetSent,
    Fault::KeepReserved,
    Fault::ReleaseOnTimeout,
    Fault::AnyProof,
    Fault::NoRefund,
    Fault::ResendUnderHold,
    Fault::SendTwice,
    Fault::ReuseNumbers,
    Fault::HeedOldReports,
    Fault::DropLateLabels,
    Fault::DropOvertakenLabels,
    Fault::CommitUnknown,
    Fault::ChargeTwice,
    Fault::NoHolderCheck,
    Fault::ForgetHolder,
];

type Check = Result<(), String>;

fn check(holds: bool, broken: &str) -> Check {
    if holds { Ok(()) } else { Err(broken.to_owned()) }
}

fn key(number: u8) -> Key {
    Key([number; 32])
}

fn pick<T: Copy>(all: &[T], at: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[at % all.len()])
}

/// A permit, and the request that announced it.
type Announced = (RequestId, Permit);

struct World {
    book: Book,
    policy: OnAmbiguous,
    fault: Option<Fault>,
    budget: u64,
    /// What fsync left: every change so far, since nobody gets an answer before it.
    disk: HashMap<Key, Record>,
    /// Every permit that somebody knows.
    permits: Vec<Permit>,
    /// Requests so far: no two have the same name.
    requests: u128,
    /// Every permit that somebody announced.
    announced: HashSet<Permit>,
    /// What was announced by requests that did not hear the answer.
    unheard: Vec<Announced>,
    /// Those of which bytes left, in that order, and what really happened.
    sent: Vec<Announced>,
    fates: HashMap<Permit, Fate>,
    /// Keys whose label the ledger keeps.
    kept: HashSet<Key>,
}

impl World {
    fn new(policy: OnAmbiguous, fault: Option<Fault>) -> Self {
        let mut world = Self {
            book: Book::new(0, policy, 1, HashMap::new()),
            policy,
            fault,
            budget: BUDGET,
            disk: HashMap::new(),
            permits: Vec::new(),
            requests: 0,
            announced: HashSet::new(),
            unheard: Vec::new(),
            sent: Vec::new(),
            fates: HashMap::new(),
            kept: HashSet::new(),
        };
        world.open(1, HashMap::new());
        world
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn open(&mut self, epoch: u64, records: HashMap<Key, Record>) {
        let budget = if self.has(Fault::NoBudgetCheck) {
            u64::MAX
        } else {
            self.budget
        };
        let resend = OnAmbiguous::Resend { attempts: ATTEMPTS };
        let policy = if self.has(Fault::ResendUnderHold) {
            resend
        } else {
            self.policy
        };
        self.book = Book::new(budget, policy, epoch, records);
    }

    fn records(&self) -> HashMap<Key, Record> {
        self.book
            .records()
            .map(|(key, record)| (*key, record.clone()))
            .collect()
    }

    /// What a faulty ledger does to the record of `permit`, on disk as well.
    fn tamper(&mut self, permit: Permit, change: impl FnOnce(&mut Record)) {
        let mut records = self.records();
        let Some(record) = records.get_mut(&permit.key) else {
            return;
        };
        change(record);
        self.disk = records.clone();
        self.open(self.book.epoch(), records);
    }

    fn charge(&self, permit: Permit) -> Option<&Charge> {
        let charges = &self.book.record(&permit.key)?.charges;
        charges
            .iter()
            .find(|charge| charge.number == permit.charge && charge.epoch == permit.epoch)
    }

    fn state(&self, permit: Permit) -> Option<State> {
        self.charge(permit).map(|charge| charge.state.clone())
    }

    fn is_labelled(&self, key: &Key) -> bool {
        self.book.record(key).is_some_and(Record::is_labelled)
    }

    fn play(&mut self, step: &Step) -> Check {
        let permit = |world: &Self, at: usize| pick(&world.permits, at);
        let sent = |world: &Self, at: usize| pick(&world.sent, at);
        let unheard = |world: &Self, at: usize| pick(&world.unheard, at);
        match *step {
            Step::Admit(number, heard) => self.admit(number, heard)?,
            Step::Send(at, fate) => permit(self, at).map_or(Ok(()), |permit| self.send(permit, fate))?,
            Step::SendTwofold(at, fate) => {
                let twice = permit(self, at).into_iter().chain(permit(self, at));
                twice.into_iter().try_for_each(|permit| self.send(permit, fate))?;
            }
            Step::Announce(at) => {
                let announced = permit(self, at).map(|permit| (self.request(), permit));
                announced.into_iter().for_each(|(request, permit)| {
                    self.announced.insert(permit);
                    self.book.mark_sent(request, &[permit]);
                    self.unheard.push((request, permit));
                });
            }
            Step::Retry(at, fate) => unheard(self, at).map_or(Ok(()), |from| self.retry(from, fate))?,
            Step::GiveUp(at) => unheard(self, at).map_or(Ok(()), |from| self.give_up(from))?,
            Step::Impostor(at) => sent(self, at).map_or(Ok(()), |(_, permit)| self.impostor(permit))?,
            Step::Report(at) => sent(self, at).map_or(Ok(()), |from| self.report(from))?,
            Step::TimeOut(at) => sent(self, at).map_or(Ok(()), |from| self.time_out(from))?,
            Step::ServerError(at) => sent(self, at).map_or(Ok(()), |from| self.server_error(from))?,
            Step::Return(at) => permit(self, at).map_or(Ok(()), |permit| self.give_back_unsent(permit))?,
            Step::Forge(number, charge) => self.forge(number, charge)?,
            Step::Crash(grow) => self.crash(grow)?,
        }
        self.disk.extend(self.book.take_changes());
        self.invariants()
    }

    fn admit(&mut self, number: u8, heard: bool) -> Check {
        let decision = self.book.admit(key(number), Sample::Seed(number.into()), Arm::Active);
        let Decision::Permitted(permit) = decision else {
            return Ok(());
        };
        check(!self.permits.contains(&permit), "a permit was given out twice")?;
        if heard {
            self.permits.push(permit);
        }
        Ok(())
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// A gateway announces what it leased, the same reference twice, and sends what it may.
    fn send(&mut self, permit: Permit, fate: Fate) -> Check {
        let request = self.request();
        self.announced.insert(permit);
        let again = self.has(Fault::SendTwice) && self.state(permit) == Some(State::Sent);
        let accepted = self.book.mark_sent(request, &[permit, permit]);
        let accepted = if again { vec![permit] } else { accepted };
        accepted
            .into_iter()
            .try_for_each(|permit| self.leave((request, permit), fate))
    }

    fn leave(&mut self, (request, permit): Announced, fate: Fate) -> Check {
        check(
            permit.epoch == self.book.epoch(),
            "a permit of an earlier life was sent",
        )?;
        self.sent.push((request, permit));
        check(self.fates.insert(permit, fate).is_none(), "a permit was sent twice")
    }

    fn retry(&mut self, from: Announced, fate: Fate) -> Check {
        let (request, permit) = from;
        if self.sent.contains(&from) {
            // The network delivers the question again; nobody waits for the answer.
            self.book.mark_sent(request, &[permit]);
            return Ok(());
        }
        let held = |charge: &Charge| charge.state == State::Sent && charge.request == Some(request);
        let is_holder = permit.epoch == self.book.epoch() && self.charge(permit).is_some_and(held);
        let mut accepted = self.book.mark_sent(request, &[permit]);
        if self.has(Fault::ForgetHolder) {
            accepted.clear();
        }
        check(!is_holder || accepted == [permit], "who asked again got another answer")?;
        accepted.into_iter().try_for_each(|_| self.leave(from, fate))
    }

    fn give_up(&mut self, from: Announced) -> Check {
        if self.sent.contains(&from) {
            return Ok(());
        }
        self.unheard.retain(|other| *other != from);
        self.release(from, Proof::NeverConnected)
    }

    fn impostor(&mut self, permit: Permit) -> Check {
        let before = self.charge(permit).cloned();
        let mut request = self.request();
        if self.has(Fault::NoHolderCheck) {
            request = before.as_ref().and_then(|charge| charge.request).unwrap_or(request);
        }
        self.release((request, permit), Proof::NeverConnected)?;
        let same = self.charge(permit) == before.as_ref();
        check(same, "a request changed what another one had sent")
    }

    fn report(&mut self, from: Announced) -> Check {
        let (request, permit) = from;
        match self.fates[&permit] {
            Fate::Labelled => self.label(permit),
            Fate::Nonsense => {
                // A stale report changes nothing; `unchanged_by_old` sees to it.
                let nonsense = Cause::new("nonsense");
                self.unchanged_by_old(permit, |world| drop(world.book.spent(request, permit, &nonsense)))
            }
            Fate::Refused => self.refused(from),
            Fate::Silent { .. } => self.time_out(from),
        }
    }

    fn unchanged_by_old(&mut self, permit: Permit, report: impl FnOnce(&mut Self)) -> Check {
        let before = self.book.record(&permit.key).cloned();
        report(self);
        let same = self.book.record(&permit.key) == before.as_ref();
        let old = permit.epoch != self.book.epoch();
        check(!old || same, "a report of an earlier life changed something")
    }

    fn label(&mut self, permit: Permit) -> Check {
        let is_ambiguous = matches!(self.state(permit), Some(State::Ambiguous(_)));
        let latest = self.book.record(&permit.key).and_then(|record| record.charges.last());
        let is_overtaken = latest.is_some_and(|charge| charge.number != permit.charge);
        let dropped =
            (self.has(Fault::DropLateLabels) && is_ambiguous) || (self.has(Fault::DropOvertakenLabels) && is_overtaken);
        if !dropped {
            // Refused when it was reported before.
            let again = self.book.commit(permit).is_err();
            if again && self.has(Fault::ChargeTwice) {
                self.tamper(permit, |record| record.charges.extend(record.charges.last().cloned()));
            }
        }
        check(
            self.is_labelled(&permit.key),
            "a label that was paid for was thrown away",
        )?;
        self.kept.insert(permit.key);
        Ok(())
    }

    fn refused(&mut self, (request, permit): Announced) -> Check {
        if self.has(Fault::NoRefund) {
            self.book.spent(request, permit, &Cause::new("refused")).ok();
        }
        let in_flight = self.state(permit) == Some(State::Sent);
        self.release((request, permit), Proof::Refused { status: 429 })?;
        let given_back = self.charge(permit).is_none();
        let current = permit.epoch == self.book.epoch();
        let timed_out = matches!(self.state(permit), Some(State::Ambiguous(_)));
        check(!in_flight || given_back, "a refusal gave nothing back")?;
        check(!current || given_back || timed_out, "a refusal was billed")
    }

    fn give_back_unsent(&mut self, permit: Permit) -> Check {
        let before = self.state(permit);
        self.book.give_back(permit).ok();
        let was_open = before == Some(State::Reserved) && permit.epoch == self.book.epoch();
        let given_back = self.charge(permit).is_none();
        check(
            was_open == given_back || before.is_none(),
            "what was sent was given back, or what was not was kept",
        )
    }

    fn release(&mut self, (request, permit): Announced, proof: Proof) -> Check {
        self.unchanged_by_old(permit, |world| {
            let released = world.book.release(request, permit, proof).is_ok();
            if released && world.has(Fault::ReuseNumbers) {
                world.tamper(permit, |record| record.issued -= 1);
            }
            if world.has(Fault::HeedOldReports) {
                world.give_back(permit);
            }
        })
    }

    fn give_back(&mut self, permit: Permit) {
        let other = |charge: &Charge| (charge.number, charge.epoch) != (permit.charge, permit.epoch);
        self.tamper(permit, |record| record.charges.retain(other));
    }

    fn time_out(&mut self, (request, permit): Announced) -> Check {
        self.unchanged_by_old(permit, |world| {
            let noted = world
                .book
                .ambiguous(request, permit, &Cause::new("no answer in time"))
                .is_ok();
            if noted && world.has(Fault::ReleaseOnTimeout) {
                world.give_back(permit);
            }
        })
    }

    /// The teacher fails in the middle of its work: whatever the fate, nobody can know.
    fn server_error(&mut self, (request, permit): Announced) -> Check {
        self.unchanged_by_old(permit, |world| {
            let noted = world
                .book
                .release(request, permit, Proof::Refused { status: 500 })
                .is_ok();
            if noted && world.has(Fault::AnyProof) {
                world.give_back(permit);
            }
        })
    }

    fn forge(&mut self, number: u8, charge: u32) -> Check {
        let permit = Permit {
            key: key(number),
            epoch: self.book.epoch(),
            charge,
        };
        if self.announced.contains(&permit) {
            return Ok(());
        }
        let mut taken = self.book.commit(permit).is_ok();
        if self.has(Fault::CommitUnknown) {
            let charges = |record: &mut Record| record.charges.iter_mut().for_each(|c| c.state = State::Committed);
            self.tamper(permit, charges);
            taken |= self.is_labelled(&permit.key) && !self.kept.contains(&permit.key);
        }
        check(!taken, "a label was taken that nobody paid for")
    }

    fn crash(&mut self, grow: bool) -> Check {
        self.budget += u64::from(grow);
        let mut records = self.disk.clone();
        if self.has(Fault::ForgetSent) {
            let charges = records.values_mut().map(|record| &mut record.charges);
            charges.for_each(|charges| charges.retain(|charge| charge.state != State::Sent));
        }
        self.open(self.book.epoch() + 1, records);
        if !self.has(Fault::KeepReserved) {
            self.book.recover();
        }
        let charges = self.book.records().flat_map(|(_, record)| &record.charges);
        let open = charges.filter(|charge| matches!(charge.state, State::Reserved | State::Sent));
        check(open.count() == 0, "a charge of a dead process is still open")
    }

    fn invariants(&self) -> Check {
        self.invariant_bill_within_budget()?;
        self.invariant_every_key_is_charged_for_what_was_announced()?;
        self.invariant_nothing_is_billed_more_often_than_the_policy_allows()?;
        self.invariant_labels_stay()?;
        self.invariant_counts_are_sums()
    }

    fn bill(&self, of: impl Fn(&Key) -> bool) -> u64 {
        let billed = |(permit, fate): &(&Permit, &Fate)| fate.is_billed() && of(&permit.key);
        self.fates.iter().filter(billed).count() as u64
    }

    fn invariant_bill_within_budget(&self) -> Check {
        let counts = self.book.counts();
        check(
            counts.reserved + counts.billed() <= self.budget,
            "permits exceed the budget",
        )?;
        check(self.bill(|_| true) <= self.budget, "the bill exceeds the budget")
    }

    fn invariant_every_key_is_charged_for_what_was_announced(&self) -> Check {
        for (key, record) in self.book.records() {
            let charged = record.charges.iter().filter(|charge| charge.state != State::Reserved);
            let charged = charged.count() as u64;
            let announced = self.announced.iter().filter(|permit| permit.key == *key).count() as u64;
            check(self.bill(|other| other == key) <= charged, "the ledger forgot a charge")?;
            check(charged <= announced, "the ledger charges what was never announced")?;
        }
        Ok(())
    }

    fn invariant_nothing_is_billed_more_often_than_the_policy_allows(&self) -> Check {
        let most = match self.policy {
            OnAmbiguous::Hold => 1,
            OnAmbiguous::Resend { attempts } => 1 + u64::from(attempts),
        };
        let holds = (0..KEYS).all(|number| self.bill(|other| *other == key(number)) <= most);
        check(holds, "a query was billed too often")
    }

    fn invariant_labels_stay(&self) -> Check {
        check(self.kept.iter().all(|key| self.is_labelled(key)), "a label was lost")
    }

    fn invariant_counts_are_sums(&self) -> Check {
        let charges = || self.book.records().flat_map(|(_, record)| &record.charges);
        let count = |is: fn(&State) -> bool| charges().filter(|charge| is(&charge.state)).count() as u64;
        let counts = self.book.counts();
        let found = [
            counts.reserved,
            counts.sent,
            counts.ambiguous,
            counts.spent,
            counts.committed,
        ];
        let sums = [
            count(|state| *state == State::Reserved),
            count(|state| *state == State::Sent),
            count(|state| matches!(state, State::Ambiguous(_))),
            count(|state| matches!(state, State::Spent(_))),
            count(|state| *state == State::Committed),
        ];
        check(found == sums, "counts are not the sums of charges")?;
        check(
            counts.by_category.seed == counts.spent + counts.committed,
            "categories do not add up to the bill",
        )
    }
}

fn play(steps: &[Step], policy: OnAmbiguous, fault: Option<Fault>) -> Check {
    let mut world = World::new(policy, fault);
    steps.iter().try_for_each(|step| world.play(step))
}

const POLICIES: [OnAmbiguous; 2] = [OnAmbiguous::Hold, OnAmbiguous::Resend { attempts: ATTEMPTS }];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_overspends_or_loses_a_label(steps in steps(), policy in prop::sample::select(&POLICIES[..])) {
        prop_assert_eq!(play(&steps, policy, None), Ok(()));
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    for fault in FAULTS {
        let mut runner = TestRunner::deterministic();
        let noticed = (0..2_000).any(|_| {
            let steps = steps().new_tree(&mut runner).expect("no filter").current();
            POLICIES
                .iter()
                .any(|policy| play(&steps, *policy, Some(fault)).is_err())
        });
        assert!(noticed, "{fault:?} went unnoticed");
    }
}
