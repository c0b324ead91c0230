//! A selection against a sort of everything, for any pool and any schedule; and planted faults that this must notice.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use stillhouse_core::Lambda;
use stillhouse_core::plan::Arm;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::score::{Acquisition, ScoreBits};
use stillhouse_core::selection::Band;

use super::*;

/// How scores lie in a pool.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Anyhow.
    Alike,
    /// All of the best at the end of the pool.
    BestLast,
    /// The best at the start, where shards are cut first.
    BestFirst,
    /// At one place.
    Lump,
    /// Of few values.
    Ties,
}

#[derive(Clone, Debug)]
struct Pool {
    shape: Shape,
    pairs: u64,
    /// How far approximate scores stray.
    stray: f32,
}

impl Pool {
    fn exact(&self, pair: PairId) -> Entry {
        let chance = Stream::new(4, Purpose::Shuffle, 0).unit(pair.0);
        let place = pair.0 as f32 / self.pairs as f32;
        let score = match self.shape {
            Shape::Alike => chance,
            Shape::BestLast => 1.0 - 0.9 * place - 0.1 * chance,
            Shape::BestFirst => 0.9 * place + 0.1 * chance,
            Shape::Lump if (0.4..0.45).contains(&place) => 0.1 * chance,
            Shape::Lump => 0.1 + 0.9 * chance,
            Shape::Ties => (chance * 12.0).floor() / 12.0,
        };
        Entry {
            score: ScoreBits::new(score).expect("a number"),
            pair,
            lambda: Lambda::from_hundredths((pair.0 % 100) as u8).expect("valid"),
        }
    }

    fn approximate(&self, pair: PairId) -> Entry {
        let entry = self.exact(pair);
        let noise = Stream::new(6, Purpose::Shuffle, 0).unit(pair.0) - 0.5;
        let score = ScoreBits::new(entry.score.score() + self.stray * noise).expect("a number");
        Entry { score, ..entry }
    }

    fn answer(&self, command: &Command) -> Report {
        match command {
            Command::Calibrate { pairs, .. } => {
                let stray = |p: &PairId| (self.approximate(*p).score.score() - self.exact(*p).score.score()).abs();
                let deviation = pairs.iter().map(stray).fold(0.0, f32::max);
                Report::Calibrated { deviation }
            }
            Command::Rescore { pairs, .. } => Report::Rescored {
                entries: pairs.iter().map(|pair| self.exact(*pair)).collect(),
            },
            Command::Scan {
                start,
                end,
                k,
                width,
                ceiling,
                cap,
                ..
            } => {
                let mut band = Band::new(*k as usize, *width, *ceiling);
                let mut histogram = Histogram::new(Acquisition::Margin.range(10));
                let mut reached = *start;
                while reached < *end && !band.exceeds(*cap as usize) {
                    let entry = self.approximate(PairId(reached));
                    histogram.add(entry.score.score());
                    band.insert(entry);
                    reached += 1;
                }
                Report::Scanned {
                    end: reached,
                    entries: band.into_sorted(),
                    histogram,
                }
            }
            other => panic!("{other:?} is not of a selection"),
        }
    }
}

fn pool() -> impl Strategy<Value = Pool> {
    let shape = prop_oneof![
        Just(Shape::Alike),
        Just(Shape::BestLast),
        Just(Shape::BestFirst),
        Just(Shape::Lump),
        Just(Shape::Ties),
    ];
    let stray = prop_oneof![Just(0.0_f32), 0.0_f32..0.02];
    (shape, 1_u64..6_000, stray).prop_map(|(shape, pairs, stray)| Pool { shape, pairs, stray })
}

fn cutting() -> impl Strategy<Value = Cutting> {
    let exact = (1_u64..40, 1_u64..200);
    (1_u64..300, 1_u64..600, exact, 0_u64..80).prop_map(|(first, least, exact, cap)| Cutting {
        first,
        least,
        exact,
        cap,
    })
}

/// What happens next to one of those who have work.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Another worker takes work.
    Take,
    /// One reports.
    Report(usize),
    /// One reports on what it reported before.
    Repeat(usize),
    /// One is lost.
    Lose(usize),
    /// The scan is kept.
    Keep,
    /// The coordinator dies, and another goes on with what was kept last.
    Restart,
}

fn schedule() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        5 => Just(Happening::Take),
        5 => any::<usize>().prop_map(Happening::Report),
        1 => any::<usize>().prop_map(Happening::Repeat),
        2 => any::<usize>().prop_map(Happening::Lose),
        1 => Just(Happening::Keep),
        1 => Just(Happening::Restart),
    ];
    prop::collection::vec(happening, 0..200)
}

/// A selection from `pool`, played to its end: first along `schedule`, then by one worker at a time.
struct Play {
    pool: Pool,
    problem: Problem,
    kept: Option<Vec<u8>>,
    selecting: Selecting,
    held: Vec<(WorkId, Command)>,
    reported: Vec<(WorkId, Report)>,
    now: Duration,
}

impl Play {
    fn of(pool: &Pool, problem: Problem) -> Self {
        Self {
            pool: pool.clone(),
            problem: problem.clone(),
            kept: None,
            selecting: Selecting::new(problem, Duration::ZERO),
            held: Vec::new(),
            reported: Vec::new(),
            now: Duration::ZERO,
        }
    }

    fn run(mut self, schedule: &[Happening]) -> Result<Selection, String> {
        for happening in schedule {
            if let Advance::Selected(selection) = self.happen(*happening)? {
                return Ok(*selection);
            }
        }
        // Each turn scans at least one pair or scores at least one.
        for _ in 0..200_000 {
            if self.held.is_empty() {
                self.happen(Happening::Take)?;
            }
            if let Advance::Selected(selection) = self.happen(Happening::Report(0))? {
                return Ok(*selection);
            }
        }
        Err("the selection does not end".into())
    }

    fn happen(&mut self, happening: Happening) -> Result<Advance, String> {
        self.now += Duration::from_millis(100);
        match happening {
            Happening::Take => {
                if let Some((id, work)) = self.selecting.next_work(self.now, 3) {
                    self.held.push((id, self.selecting.command(&work)));
                }
            }
            Happening::Report(at) if !self.held.is_empty() => {
                let (id, command) = self.held.swap_remove(at % self.held.len());
                let report = self.pool.answer(&command);
                self.reported.push((id, report.clone()));
                return self.selecting.accept(id, report, self.now);
            }
            Happening::Repeat(at) if !self.reported.is_empty() => {
                let (id, report) = self.reported[at % self.reported.len()].clone();
                // Somebody may have a copy of it still; whoever has nothing reports nothing.
                if self.selecting.copies(id) == 0 {
                    return self.selecting.accept(id, report, self.now);
                }
            }
            Happening::Lose(at) if !self.held.is_empty() => {
                let (id, _) = self.held.swap_remove(at % self.held.len());
                self.selecting.give_back(id);
            }
            Happening::Keep => self.kept = self.selecting.keep(self.now).or(self.kept.take()),
            Happening::Restart => self.restart(),
            Happening::Report(_) | Happening::Repeat(_) | Happening::Lose(_) => {}
        }
        Ok(Advance::More)
    }

    fn restart(&mut self) {
        self.held.clear();
        self.reported.clear();
        self.selecting = Selecting::new(self.problem.clone(), self.now);
        if let Some(kept) = &self.kept {
            assert!(self.selecting.take_up(kept), "it is of this problem");
        }
    }

    /// Pairs that are in the histogram.
    fn scanned(&self) -> u64 {
        self.selecting.scan().map_or(0, |(histogram, _)| histogram.total())
    }
}

fn problem(pool: &Pool, k: u64, asked: Vec<PairId>, exact: bool, cutting: Cutting) -> Problem {
    let student = Student::new(Arm::Active, 1);
    Problem {
        student,
        scorer: Student::new(Arm::Active, 0),
        k,
        pairs: pool.pairs,
        asked,
        sample: None,
        exact,
        range: Acquisition::Margin.range(10),
        cutting,
        // Every pair, so that the guard is unconditional.
        calibration: (0..pool.pairs).map(PairId).collect(),
        planted: Planted::default(),
    }
}

/// Plays and holds the result to a sort of everything.
fn check(
    pool: &Pool,
    (k, asked_below, exact): (u64, u64, bool),
    cutting: Cutting,
    schedule: &[Happening],
    fault: Option<Fault>,
) -> Result<(), String> {
    let pool = Pool {
        stray: if exact { 0.0 } else { pool.stray },
        ..pool.clone()
    };
    let asked: Vec<PairId> = (0..pool.pairs).filter(|at| at % 10 < asked_below).map(PairId).collect();
    let new = (0..pool.pairs)
        .map(PairId)
        .filter(|pair| asked.binary_search(pair).is_err());
    let want = select(new.map(|pair| pool.exact(pair)).collect(), k as usize);
    let mut problem = problem(&pool, k, asked, exact, cutting);
    problem.planted = Planted(fault);
    let found = Play::of(&pool, problem).run(schedule)?;
    let pairs = |entries: &[Entry]| entries.iter().map(|entry| entry.pair).collect::<Vec<_>>();
    if found.batch.iter().map(|c| c.pair).ne(pairs(&want)) {
        return Err("another batch was chosen".into());
    }
    let counted = found.scan.map_or(0, |scan| scan.histogram.total());
    match counted == pool.pairs {
        true => Ok(()),
        false => Err(format!("{counted} pairs of {} were counted", pool.pairs)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_cutting_and_cap_selects_exactly_the_best(
        pool in pool(), terms in (1_u64..400, 0_u64..4, any::<bool>()), cutting in cutting(), schedule in schedule(),
    ) {
        let checked = check(&pool, terms, cutting, &schedule, None);
        prop_assert!(checked.is_ok(), "{:?}", checked);
    }

    #[test]
    fn the_best_of_a_sample_are_chosen_in_whatever_order_it_is_scored(
        pairs in prop::collection::hash_set(0_u64..1_000_000, 5_000..9_000), k in 1_u64..4_000, schedule in schedule(),
    ) {
        let pool = Pool { shape: Shape::Ties, pairs: 1_000_000, stray: 0.0 };
        let pairs: Vec<PairId> = pairs.into_iter().map(PairId).collect();
        let want = select(pairs.iter().map(|pair| pool.exact(*pair)).collect(), k as usize);
        let sampled = Problem {
            sample: Some(pairs.clone()),
            calibration: Vec::new(),
            ..problem(&Pool { pairs: 1, ..pool.clone() }, k, Vec::new(), false, Cutting::default())
        };
        let found = Play::of(&pool, sampled).run(&schedule).expect("it ends");
        let want: Vec<PairId> = want.iter().map(|entry| entry.pair).collect();
        prop_assert_eq!(found.batch.iter().map(|c| c.pair).collect::<Vec<_>>(), want);
        let scan = found.scan.expect("it was scored");
        prop_assert_eq!((scan.histogram.total(), scan.scans, scan.rescored), (pairs.len() as u64, 1, 0));
        prop_assert_eq!(scan.cut, *found.scores.last().expect("k is at least 1"));
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    let all = (pool(), (1_u64..400, 0_u64..4, any::<bool>()), cutting(), schedule());
    for fault in [
        Fault::CountCopies,
        Fault::DropRest,
        Fault::TrustCeilings,
        Fault::KeepGiven,
    ] {
        let mut runner = TestRunner::deterministic();
        let noticed = (0..300).any(|_| {
            let (pool, terms, cutting, schedule) = all.new_tree(&mut runner).expect("no filter").current();
            check(&pool, terms, cutting, &schedule, Some(fault)).is_err()
        });
        assert!(noticed, "{fault:?} went unnoticed");
    }
}

/// A scan, exact or not, of which more than half is reported, and some is with workers.
fn half_a_scan(is_exact: bool) -> Play {
    let pool = Pool {
        shape: Shape::Alike,
        pairs: 20_000,
        stray: if is_exact { 0.0 } else { 0.01 },
    };
    let cutting = Cutting {
        least: 64,
        ..Cutting::default()
    };
    let asked = (0..9).map(PairId).collect();
    let mut play = Play::of(&pool, problem(&pool, 100, asked, is_exact, cutting));
    while play.scanned() <= pool.pairs / 2 {
        for happening in [Happening::Take, Happening::Take, Happening::Report(0)] {
            play.happen(happening).expect("fits");
        }
    }
    assert!(!play.held.is_empty() && play.scanned() < pool.pairs);
    play
}

#[test]
fn a_scan_that_was_kept_goes_on_where_it_was_and_loses_only_what_workers_had() {
    for is_exact in [true, false] {
        let mut play = half_a_scan(is_exact);
        let (scanned, selected) = (play.scanned(), half_a_scan(is_exact).run(&[]).expect("it ends"));
        let width = play.selecting.width;
        play.happen(Happening::Keep).expect("fits");
        play.restart();
        assert_eq!((play.scanned(), play.selecting.width), (scanned, width));
        let resumed = play.run(&[]).expect("it ends");
        assert_eq!(resumed.batch, selected.batch);
        let histograms = [resumed, selected].map(|selection| selection.scan.expect("a scan").histogram);
        assert_eq!(histograms[0], histograms[1], "every pair counts once");
    }
}

#[test]
fn nothing_is_kept_before_the_first_shard_is_reported() {
    let play = half_a_scan(false);
    assert_eq!(Selecting::new(play.problem, Duration::ZERO).keep(Duration::ZERO), None);
}

#[test]
fn what_is_damaged_or_of_another_problem_is_not_taken_up() {
    let play = half_a_scan(true);
    let kept = play.selecting.keep(play.now).expect("a scan");
    let take_up = |problem: Problem, bytes: &[u8]| Selecting::new(problem, Duration::ZERO).take_up(bytes);
    assert!(take_up(play.problem.clone(), &kept));
    for at in [0, 31, 32, kept.len() / 2, kept.len() - 1] {
        let mut damaged = kept.clone();
        damaged[at] ^= 1;
        assert!(!take_up(play.problem.clone(), &damaged), "byte {at}");
    }
    assert!(!take_up(play.problem.clone(), &kept[..kept.len() - 1]));
    assert!(!take_up(play.problem.clone(), &[]));
    let other = |change: fn(&mut Problem)| {
        let mut other = play.problem.clone();
        change(&mut other);
        take_up(other, &kept)
    };
    assert!(!other(|problem| problem.k += 1));
    assert!(!other(|problem| problem.student.round += 1));
    assert!(!other(|problem| problem.asked.clear()));
    assert!(!other(|problem| problem.pairs -= 1));
    assert!(!other(|problem| problem.exact = false));
}

/// Entries that were sent of a pool that is alike everywhere, and of one whose ceilings must be found too low.
#[test]
fn what_is_sent_is_little_more_than_what_is_wanted() {
    let cutting = Cutting {
        first: 64,
        least: 256,
        ..Cutting::default()
    };
    for (shape, most) in [(Shape::Alike, 1.5), (Shape::BestLast, 5.0), (Shape::BestFirst, 3.0)] {
        let (k, pairs) = (10_000, 1_000_000);
        let pool = Pool {
            shape,
            pairs,
            stray: 0.0,
        };
        let mut play = Play::of(&pool, problem(&pool, k, Vec::new(), true, cutting));
        let mut sent = 0;
        let selected = loop {
            play.happen(Happening::Take).expect("work");
            let advance = play.happen(Happening::Report(0)).expect("fits");
            if let Some((_, Report::Scanned { entries, .. })) = play.reported.last() {
                sent += entries.len();
            }
            if let Advance::Selected(selection) = advance {
                break selection;
            }
        };
        assert_eq!(selected.batch.len() as u64, k);
        assert!(sent as f64 <= most * k as f64, "{shape:?}: {sent} entries for {k}");
    }
}
