//! Whole jobs under random schedules: workers join, vanish and come late; reports are duplicated,
//! reordered and stale; the coordinator dies and comes back from its history. Named invariants
//! must hold, and every planted fault must break one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use stillhouse_core::guard::Guard;
use stillhouse_core::image::{ImageSet, ImageShape};
use stillhouse_core::plan::{Arm, Plan};
use stillhouse_core::pool::{Candidate, LambdaGrid, PairId, Pairing, Pool};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::score::{Acquisition, ScoreBits};
use stillhouse_core::selection::{Band, Entry, Histogram, select};

use crate::coordinator::{Action, Coordinator, Durable, Effects, Event, JobFailure, Occupation, Settings};
use crate::fault::{Fault, Planted};
use crate::history::{AskOutcome, History, Measurement, Step, Student, Transition};
use crate::message::{Command, Fence, Report, WorkerId};
use crate::selecting::Cutting;

mod answers;

pub(crate) use answers::{GENERATED, settings};
use answers::{answer, exact, images, trained, wanted_of_chance};

/// A cluster: what is on its way, and what is on disk.
struct World {
    coordinator: Coordinator,
    fault: Option<Fault>,
    epoch: u32,
    now: Duration,
    next_worker: u64,
    alive: BTreeSet<WorkerId>,
    /// Reports that may be delivered, in any order, any number of times.
    reports: Vec<(WorkerId, Fence, Report)>,
    /// Ranks of each training wave that have not trained yet.
    waves: BTreeMap<Fence, BTreeSet<WorkerId>>,
    /// Workers that were given the generated images.
    extended: BTreeSet<WorkerId>,
    /// Most workers at once since the coordinator started.
    most_alive: usize,
    steps: u64,
    asks: Vec<(Student, u64)>,
    disk: Vec<Transition>,
    /// The scan that was kept last.
    kept: Option<Vec<u8>>,
    finished: bool,
}

impl World {
    fn new(fault: Option<Fault>) -> Self {
        let mut world = Self {
            coordinator: Coordinator::new(settings(), History::default(), 1),
            fault,
            epoch: 1,
            now: Duration::ZERO,
            next_worker: 0,
            alive: BTreeSet::new(),
            reports: Vec::new(),
            waves: BTreeMap::new(),
            extended: BTreeSet::new(),
            most_alive: 0,
            steps: 0,
            asks: Vec::new(),
            disk: Vec::new(),
            kept: None,
            finished: false,
        };
        world.coordinator.planted = Planted(fault);
        world
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        // Long enough that worlds grow now and then.
        self.now += Duration::from_millis(700);
        let Effects { durable, actions } = self.coordinator.handle(self.now, event);
        for item in durable {
            if let Durable::Transition(transition) = item {
                self.invariant_transitions_follow_from_history(&transition)?;
                self.invariant_batch_is_the_exact_best(&transition)?;
                self.invariant_all_ranks_trained(&transition)?;
                self.disk.push(transition);
            }
        }
        if !actions.is_empty() {
            self.invariant_enough_workers_began()?;
        }
        actions.into_iter().try_for_each(|action| self.perform(action))?;
        self.invariant_no_more_workers_than_wanted()?;
        self.invariant_nobody_works_on_what_is_done()?;
        self.invariant_a_world_is_no_larger_than_its_shards()
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Ask { student, samples } => self.asks.push((student, samples.len() as u64)),
            Action::Load { .. } => {}
            Action::Extend { worker, .. } => drop(self.extended.insert(worker)),
            Action::Generate {
                worker,
                fence,
                images: count,
            } => {
                let report = Report::Generated {
                    images: images(count),
                    loss: 1.0,
                };
                self.reports.push((worker, fence, report));
            }
            Action::Command { worker, fence, command } => {
                self.invariant_nobody_works_without_the_images(worker)?;
                let report = answer(&command).ok_or("not a scoring command")?;
                self.reports.push((worker, fence, report));
            }
            Action::Train {
                worker, fence, rank, ..
            } => {
                self.invariant_nobody_works_without_the_images(worker)?;
                // A newer command makes its ranks abandon the older wave.
                self.waves
                    .retain(|old, ranks| *old == fence || !ranks.contains(&worker));
                self.waves.entry(fence).or_default().insert(worker);
                self.reports.push((worker, fence, trained(rank)));
            }
            Action::Finish => self.finished = true,
            Action::Fail(failure) => return Err(format!("the job failed: {failure}")),
        }
        Ok(())
    }

    fn deliver(&mut self, at: usize, keep: bool) -> Result<(), String> {
        if self.reports.is_empty() {
            return Ok(());
        }
        let at = at % self.reports.len();
        let (worker, fence, report) = if keep {
            self.reports[at].clone()
        } else {
            self.reports.swap_remove(at)
        };
        if let (Report::Trained { .. }, Some(ranks)) = (&report, self.waves.get_mut(&fence)) {
            ranks.remove(&worker);
        }
        self.event(Event::Reported { worker, fence, report })
    }

    fn join(&mut self) -> Result<(), String> {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.alive.insert(worker);
        self.most_alive = self.most_alive.max(self.alive.len());
        let ring = SocketAddr::from(([127, 0, 0, 1], 1 + self.next_worker as u16));
        self.event(Event::Joined { worker, ring })
    }

    fn lose(&mut self, at: usize) -> Result<(), String> {
        let Some(worker) = self.alive.iter().nth(at % self.alive.len().max(1)).copied() else {
            return Ok(());
        };
        self.alive.remove(&worker);
        self.event(Event::Lost { worker })
    }

    fn finish_ask(&mut self, at: usize) -> Result<(), String> {
        if self.asks.is_empty() {
            return Ok(());
        }
        let (student, labelled) = self.asks.swap_remove(at % self.asks.len());
        let outcome = AskOutcome {
            labelled,
            millis: 1,
            ..AskOutcome::default()
        };
        self.event(Event::Asked { student, outcome })
    }

    fn restart(&mut self) -> Result<(), String> {
        self.epoch += 1;
        self.coordinator = Coordinator::new(settings(), History::new(self.disk.clone()), self.epoch);
        self.coordinator.planted = Planted(self.fault);
        if let Some(kept) = self.kept.clone() {
            self.coordinator = self.coordinator.clone().with_scan(kept);
        }
        self.alive.clear();
        self.most_alive = 0;
        self.asks.clear();
        self.finished = false;
        Ok(())
    }

    fn keep_scan(&mut self) {
        self.kept = self.coordinator.keep_scan(self.now).or(self.kept.take());
    }

    fn tell_progress(&mut self, at: usize) -> Result<(), String> {
        let ranks = self
            .waves
            .iter()
            .flat_map(|(fence, ranks)| ranks.iter().map(|worker| (*worker, *fence)));
        let ranks: Vec<(WorkerId, Fence)> = ranks.collect();
        let Some((worker, fence)) = ranks.get(at % ranks.len().max(1)).copied() else {
            return Ok(());
        };
        self.steps += 1;
        let done = self.steps;
        self.event(Event::Progressed { worker, fence, done })
    }

    /// Nothing is done, above all nothing asked, before as many workers were there as the job wants.
    fn invariant_enough_workers_began(&self) -> Result<(), String> {
        if self.disk.is_empty() && self.most_alive < settings().min_workers {
            return Err(format!("the job began with {} workers", self.most_alive));
        }
        Ok(())
    }

    /// Once there are generated images, whoever scores or trains has them.
    fn invariant_nobody_works_without_the_images(&self, worker: WorkerId) -> Result<(), String> {
        let is_generated = self.disk.iter().any(|t| matches!(t, Transition::Generated { .. }));
        if is_generated && !self.extended.contains(&worker) {
            return Err(format!("worker {} has no generated images", worker.0));
        }
        Ok(())
    }

    fn invariant_no_more_workers_than_wanted(&self) -> Result<(), String> {
        let busy = self.coordinator.crew().filter(|(_, does)| *does != Occupation::Idle);
        match busy.count() {
            busy if busy > settings().max_workers => Err(format!("{busy} workers are busy")),
            _ => Ok(()),
        }
    }

    /// A worker that has a copy of what another reported is free for something else.
    fn invariant_nobody_works_on_what_is_done(&self) -> Result<(), String> {
        match self.coordinator.is_anybody_busy_for_nothing() {
            true => Err("a worker is kept busy with what is done".into()),
            false => Ok(()),
        }
    }

    fn invariant_a_world_is_no_larger_than_its_shards(&self) -> Result<(), String> {
        let Settings {
            shards, max_workers, ..
        } = settings();
        match self.waves.values().find(|ranks| ranks.len() > shards.min(max_workers)) {
            Some(ranks) => Err(format!("{} ranks train with {shards} shards", ranks.len())),
            None => Ok(()),
        }
    }

    /// A restarted coordinator does exactly what the dead one would have done.
    fn invariant_transitions_follow_from_history(&self, transition: &Transition) -> Result<(), String> {
        let Settings {
            plan, arms, evaluation, ..
        } = settings();
        let step = History::new(self.disk.clone()).next_step(&plan, &arms, &evaluation, None);
        let follows = match (&step, transition) {
            (Step::Select { student: a, size }, Transition::Selected { student: b, selection }) => {
                a == b && *size == selection.batch.len() as u64
            }
            (Step::Ask { student: a, .. }, Transition::Asked { student: b, .. })
            | (Step::Train { student: a }, Transition::Trained { student: b, .. }) => a == b,
            (
                Step::Compare { student: a, twin: s },
                Transition::Compared {
                    student: b, twin: t, ..
                },
            ) => (a, s) == (b, t),
            (Step::Generate { images }, Transition::Generated { outcome }) => *images == outcome.images,
            (Step::Stop { reason: a }, Transition::Stopped { reason: b }) => a == b,
            _ => false,
        };
        if follows {
            Ok(())
        } else {
            Err(format!("{transition:?} does not follow: {step:?}"))
        }
    }

    /// I4: whatever the schedule, the batch is what one exact scan of everything would choose.
    fn invariant_batch_is_the_exact_best(&self, transition: &Transition) -> Result<(), String> {
        let Transition::Selected { student, selection } = transition else {
            return Ok(());
        };
        let asked: HashSet<PairId> = History::new(self.disk.clone()).asked_pairs(student.arm, student.round);
        if student.arm == Arm::Control {
            let repeats = selection.batch.iter().any(|c| asked.contains(&c.pair));
            return if repeats {
                Err("a pair was chosen twice".into())
            } else {
                Ok(())
            };
        }
        let scorer = Student::new(student.arm, student.round - 1);
        let new = (0..settings().plan.candidates())
            .map(PairId)
            .filter(|pair| !asked.contains(pair));
        let chosen = selection.batch.len() - selection.drawn as usize;
        let want = select(new.map(|pair| exact(scorer, pair)).collect(), chosen);
        let want: Vec<Candidate> = want
            .iter()
            .map(|e| Candidate {
                pair: e.pair,
                lambda: e.lambda,
            })
            .collect();
        let drawn = &selection.batch[chosen..];
        if drawn.len() as u64 != wanted_of_chance(selection.batch.len() as u64) {
            return Err(format!("{} of {} were drawn", drawn.len(), selection.batch.len()));
        }
        if drawn.iter().any(|c| asked.contains(&c.pair) || want.contains(c)) {
            return Err("the guard drew what was chosen or asked already".into());
        }
        if selection.batch[..chosen] == want {
            Ok(())
        } else {
            Err(format!("round {} chose another batch", student.round))
        }
    }

    /// I6: a training counts only when every rank of the newest wave finished it.
    fn invariant_all_ranks_trained(&self, transition: &Transition) -> Result<(), String> {
        if !matches!(transition, Transition::Trained { .. } | Transition::Compared { .. }) {
            return Ok(());
        }
        match self.waves.last_key_value() {
            Some((_, left)) if left.is_empty() => Ok(()),
            _ => Err("a training ended before all ranks did".into()),
        }
    }

    /// Liveness: once it began, the job gets done with one worker that stays.
    fn run_to_the_end(&mut self) -> Result<(), String> {
        let others = self.alive.len();
        (0..settings().min_workers).try_for_each(|_| self.join())?;
        while self.alive.len() > others.max(1) {
            self.lose(self.alive.len() - 1)?;
        }
        for _ in 0..2_000 {
            if self.finished {
                return Ok(());
            }
            self.finish_ask(0)?;
            self.deliver(self.reports.len().wrapping_sub(1), false)?;
        }
        Err("the job hangs".into())
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Join,
    Lose(usize),
    Deliver(usize),
    Duplicate(usize),
    Answer(usize),
    Progress(usize),
    Keep,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => Just(Happening::Join),
        1 => any::<usize>().prop_map(Happening::Lose),
        12 => any::<usize>().prop_map(Happening::Deliver),
        3 => any::<usize>().prop_map(Happening::Duplicate),
        3 => any::<usize>().prop_map(Happening::Answer),
        2 => any::<usize>().prop_map(Happening::Progress),
        2 => Just(Happening::Keep),
        1 => Just(Happening::Restart),
    ]
}

fn play(happenings: &[Happening], fault: Option<Fault>) -> Result<Vec<Transition>, String> {
    let mut world = World::new(fault);
    for happening in happenings {
        match happening {
            Happening::Join => world.join()?,
            Happening::Lose(at) => world.lose(*at)?,
            Happening::Deliver(at) => world.deliver(*at, false)?,
            Happening::Duplicate(at) => world.deliver(*at, true)?,
            Happening::Answer(at) => world.finish_ask(*at)?,
            Happening::Progress(at) => world.tell_progress(*at)?,
            Happening::Keep => world.keep_scan(),
            Happening::Restart => world.restart()?,
        }
    }
    world.run_to_the_end()?;
    Ok(world.disk)
}

fn batches(disk: &[Transition]) -> Vec<Vec<Candidate>> {
    let batch = |t: &Transition| match t {
        Transition::Selected { selection, .. } => Some(selection.batch.clone()),
        _ => None,
    };
    disk.iter().filter_map(batch).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_ends_with_the_same_batches(happenings in prop::collection::vec(happening(), 0..250)) {
        let calm = play(&[Happening::Join], None).expect("a calm job ends");
        let rough = play(&happenings, None);
        prop_assert!(rough.is_ok(), "{:?}", rough);
        prop_assert_eq!(batches(&rough.expect("checked")), batches(&calm));
    }
}

#[test]
fn workers_that_are_lost_together_are_one_failure_and_one_after_another_are_many() {
    let lost = |together: bool| {
        let mut settings = Settings {
            max_workers: 100,
            min_workers: 60,
            ..settings()
        };
        settings.plan.generated = 0;
        let seeded = play(&[Happening::Join], None).expect("a calm job ends");
        let trained = seeded.iter().position(|t| matches!(t, Transition::Trained { .. }));
        let history = seeded[..=trained.expect("it ended")].to_vec();
        let history = history
            .into_iter()
            .filter(|t| !matches!(t, Transition::Generated { .. }));
        let mut coordinator = Coordinator::new(settings, History::new(history.collect()), 1);
        let ring = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut handle = |event| coordinator.handle(Duration::ZERO, event).actions;
        let join = |worker| Event::Joined { worker, ring };
        (0..60).for_each(|worker| drop(handle(join(WorkerId(worker)))));
        let mut actions = Vec::new();
        for worker in 0..59 {
            actions.extend(handle(Event::Lost {
                worker: WorkerId(worker),
            }));
            if !together {
                actions.extend(handle(join(WorkerId(100 + worker))));
                actions.extend(handle(Event::Lost {
                    worker: WorkerId(100 + worker),
                }));
            }
        }
        actions
            .iter()
            .any(|action| matches!(action, Action::Fail(JobFailure::Retries { .. })))
    };
    assert!(!lost(true));
    assert!(lost(false));
}

#[test]
fn every_planted_fault_is_noticed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    for fault in [
        Fault::IgnoreFence,
        Fault::EndEarly,
        Fault::ForgetAsked,
        Fault::DropLostShard,
        Fault::KeepLostRank,
        Fault::BeginAlone,
        Fault::CrowdWorld,
        Fault::UseSpares,
        Fault::KeepImages,
        Fault::CountCopies,
        Fault::DropRest,
        Fault::KeepGiven,
        Fault::KeepCopies,
    ] {
        let mut runner = TestRunner::deterministic();
        let schedules = prop::collection::vec(happening(), 0..250);
        let noticed = (0..300).any(|_| {
            let happenings = schedules.new_tree(&mut runner).expect("no filter").current();
            play(&happenings, Some(fault)).is_err()
        });
        assert!(noticed, "{fault:?} went unnoticed");
    }
}
