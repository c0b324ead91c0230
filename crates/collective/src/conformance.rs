//! The suite that every [`Collective`] passes, whatever carries the floats.
//!
//! A backend's tests hand a function that builds a world of `n` members, and call [`check`]:
//!
//! ```
//! use stillhouse_collective::{Local, conformance::{Member, check}};
//! check(&|_world_size| vec![Member { collective: Box::new(Local), abort: None }], &[1]);
//! ```
//!
//! The members run on one thread each. Every check panics with a sentence when it fails.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    collective::Collective,
    error::{CollectiveError, Operation},
};

/// Ends a member's world from any thread.
pub type Abort = Box<dyn Fn() + Send + Sync>;

/// One rank of a world under test.
pub struct Member {
    /// The rank's end of the world.
    pub collective: Box<dyn Collective>,
    /// Ends it from another thread; `None` where nothing ever blocks.
    pub abort: Option<Abort>,
}

/// Builds the members of a world of the given size, in rank order.
pub type Build<'a> = dyn Fn(usize) -> Vec<Member> + 'a;

/// Lengths that meet every boundary: none, fewer than ranks, LeNet-5's gradient, many frames.
pub const SIZES: [usize; 6] = [0, 1, 3, 1000, 61_706, 1_000_000];

/// Runs every check on worlds of each of `world_sizes`.
///
/// # Panics
/// With a sentence, when a check fails.
pub fn check(build: &Build<'_>, world_sizes: &[usize]) {
    for &n in world_sizes {
        members_know_their_place(build, n);
        for size in SIZES {
            all_reduce_sums(build, n, size);
            all_gather_concatenates(build, n, size);
        }
        words_and_bytes_arrive_whole(build, n);
        all_reduce_repeats_bit_for_bit(build, n);
        wrong_counts_are_refused_and_harm_nothing(build, n);
        operations_repeat_and_mix(build, n);
        barrier_waits_for_all(build, n);
        abort_ends_the_world_at_every_point(build, n);
        abort_ends_an_operation_that_waits(build, n);
        loss_of_a_peer_reaches_every_survivor(build, n);
    }
}

/// Ranks are in order, and all know the world's size.
///
/// # Panics
/// When that is not so.
pub fn members_know_their_place(build: &Build<'_>, n: usize) {
    for (rank, member) in build(n).iter().enumerate() {
        assert_eq!(
            (member.collective.rank(), member.collective.world_size()),
            (rank, n),
            "rank and world size"
        );
    }
}

/// A sum of small integers is exact, on every rank.
///
/// # Panics
/// When a rank holds another sum.
pub fn all_reduce_sums(build: &Build<'_>, n: usize, size: usize) {
    let expected: Vec<f32> = (0..size).map(|i| (0..n).map(|rank| whole(rank, i)).sum()).collect();
    on_all(build(n), |rank, world| {
        let mut data: Vec<f32> = (0..size).map(|i| whole(rank, i)).collect();
        world.all_reduce(&mut data).expect("all ranks take part");
        assert!(
            data == expected,
            "rank {rank} of {n} holds another sum of {size} floats"
        );
    });
}

/// Uneven and zero counts arrive bit for bit, NaN payloads and negative zero included.
///
/// # Panics
/// When a rank holds something else.
pub fn all_gather_concatenates(build: &Build<'_>, n: usize, size: usize) {
    let even = vec![size; n];
    let uneven: Vec<usize> = (0..n).map(|rank| size * ((rank * 2 + 1) % n) / n).collect();
    let alternating: Vec<usize> = (0..n).map(|rank| size * (rank % 2)).collect();
    let lonely: Vec<usize> = (0..n).map(|rank| if rank + 1 == n { size } else { 0 }).collect();
    let cases = [even, uneven, alternating, lonely];
    on_all(build(n), |rank, world| {
        for counts in &cases {
            let mine: Vec<f32> = (0..counts[rank]).map(|i| odd(rank, i)).collect();
            let all = world.all_gather(&mine, counts).expect("all ranks take part");
            let expected = counts
                .iter()
                .enumerate()
                .flat_map(|(r, &count)| (0..count).map(move |i| odd(r, i)));
            assert_eq!(all.len(), counts.iter().sum::<usize>(), "length on rank {rank} of {n}");
            assert!(
                all.iter()
                    .zip(expected)
                    .all(|(found, expected)| found.to_bits() == expected.to_bits()),
                "rank {rank} of {n} gathered other bits, counts {counts:?}"
            );
        }
    });
}

/// Words of every rank, and bytes of any length from any root, arrive bit for bit.
///
/// # Panics
/// When a rank holds something else.
pub fn words_and_bytes_arrive_whole(build: &Build<'_>, n: usize) {
    let word = |rank: usize, at: u64| (rank as u64 + 1).wrapping_mul(0xfff0_0001_7ff0_0001) ^ (at << 17);
    let byte = |root: usize, at: usize| (at * 31 + root * 7 + at / 251) as u8;
    on_all(build(n), |rank, world| {
        let words = world
            .gather_words(&[word(rank, 0), word(rank, 1)])
            .expect("all ranks take part");
        let expected: Vec<Vec<u64>> = (0..n).map(|rank| vec![word(rank, 0), word(rank, 1)]).collect();
        assert_eq!(words, expected, "words on rank {rank} of {n}");
        for root in 0..n {
            for length in [0, 1, 3, 4, 5, 100_003] {
                let sent: Vec<u8> = (0..length).map(|at| byte(root, at)).collect();
                let mut bytes = if rank == root {
                    sent.clone()
                } else {
                    vec![0xAA; 17 * rank]
                };
                world.broadcast(&mut bytes, root).expect("all ranks take part");
                assert!(bytes == sent, "{length} bytes of rank {root} on rank {rank} of {n}");
            }
        }
        world.broadcast(&mut Vec::new(), n).expect_err("there is no such root");
        world.barrier().expect("a refused broadcast harms nothing");
    });
}

/// A sum that rounds has the same bits on every rank and in every run.
///
/// # Panics
/// When two ranks or two runs differ.
pub fn all_reduce_repeats_bit_for_bit(build: &Build<'_>, n: usize) {
    let run = || {
        on_all(build(n), |rank, world| {
            let mut data: Vec<f32> = (0..10_007).map(|i| fraction(rank, i)).collect();
            world.all_reduce(&mut data).expect("all ranks take part");
            data.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let (first, second) = (run(), run());
    assert!(
        first.iter().all(|bits| *bits == first[0]),
        "ranks of {n} hold different sums"
    );
    assert!(first == second, "two runs of {n} ranks hold different sums");
}

/// Contradictory counts are an error of the caller alone, and the next operation works.
///
/// # Panics
/// When they are accepted, or the world does not go on.
pub fn wrong_counts_are_refused_and_harm_nothing(build: &Build<'_>, n: usize) {
    on_all(build(n), |rank, world| {
        let mut other = vec![1; n];
        other[rank] = 2;
        for counts in [vec![1; n + 1], other] {
            let refused = world.all_gather(&[1.0], &counts);
            assert!(
                matches!(refused, Err(CollectiveError::Counts { .. })),
                "{counts:?} for 1 float: {refused:?}"
            );
        }
        assert_eq!(
            world.all_gather(&[1.0], &vec![1; n]).expect("the world goes on"),
            vec![1.0; n]
        );
    });
}

/// Many operations of changing kinds and sizes follow one another without a pause.
///
/// # Panics
/// When one of them is wrong.
pub fn operations_repeat_and_mix(build: &Build<'_>, n: usize) {
    on_all(build(n), |rank, world| {
        for round in 0..60 {
            let size = round * round % 97;
            let mut data = vec![(rank + round) as f32; size];
            world.all_reduce(&mut data).expect("all ranks take part");
            let expected: usize = (0..n).map(|r| r + round).sum();
            assert!(
                data.iter().all(|&sum| sum == expected as f32),
                "rank {rank} of {n}, round {round}"
            );
            let counts: Vec<usize> = (0..n).map(|r| (r + round) % 3).collect();
            let all = world
                .all_gather(&vec![rank as f32; counts[rank]], &counts)
                .expect("all ranks take part");
            let expected = counts.iter().enumerate().flat_map(|(r, &count)| vec![r as f32; count]);
            assert!(all.into_iter().eq(expected), "rank {rank} of {n}, round {round}");
            if round % 7 == 0 {
                world.barrier().expect("all ranks take part");
            }
        }
    });
}

/// No rank leaves a barrier that another has not reached.
///
/// # Panics
/// When one does.
pub fn barrier_waits_for_all(build: &Build<'_>, n: usize) {
    let arrived = AtomicUsize::new(0);
    on_all(build(n), |rank, world| {
        for round in 1..=20 {
            arrived.fetch_add(1, Ordering::SeqCst);
            world.barrier().expect("all ranks take part");
            let seen = arrived.load(Ordering::SeqCst);
            assert!(
                seen >= round * n,
                "rank {rank} left barrier {round} when {seen} of {} had come",
                round * n
            );
        }
    });
}

/// One rank aborts before each operation of a sequence: it gets `Aborted` from then on, and every
/// other rank completes what went before and gets `PeerLost` there.
///
/// # Panics
/// When a rank gets anything else.
pub fn abort_ends_the_world_at_every_point(build: &Build<'_>, n: usize) {
    for (point, &(operation, _)) in SEQUENCE.iter().enumerate() {
        let victim = point % n;
        let (members, aborts): (Vec<_>, Vec<_>) = split(build(n));
        let Some(abort) = &aborts[victim] else { return };
        let outcomes = on_each(members, |rank, mut world| {
            run_sequence(world.as_mut(), |at| {
                if rank == victim && at == point {
                    abort();
                }
                true
            })
        });
        for (rank, (at, error)) in outcomes.into_iter().enumerate() {
            assert_eq!(at, point, "rank {rank} of {n} ended with {error:?}");
            match error {
                Some(CollectiveError::Aborted {
                    rank: reporter,
                    operation: reported,
                }) if rank == victim => {
                    assert_eq!((reporter, reported), (rank, operation));
                }
                Some(CollectiveError::PeerLost { .. }) if rank != victim => {}
                other => panic!("rank {rank} of {n}, where {victim} aborted, ended with {other:?}"),
            }
        }
    }
}

/// An operation that waits for another rank ends when it is aborted from another thread.
///
/// # Panics
/// When it ends otherwise.
pub fn abort_ends_an_operation_that_waits(build: &Build<'_>, n: usize) {
    if n == 1 {
        return;
    }
    for _ in 0..5 {
        let (mut members, mut aborts): (Vec<_>, Vec<_>) = split(build(n));
        let Some(abort) = aborts[0].take() else { return };
        let mut world = members.remove(0);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || world.all_reduce(&mut vec![1.0; 4_000_000]));
            thread::yield_now();
            abort();
            let outcome = waiting.join().expect("an operation does not panic");
            assert!(
                matches!(outcome, Err(CollectiveError::Aborted { .. })),
                "rank 0 of {n}: {outcome:?}"
            );
        });
    }
}

/// One rank leaves before each operation of a sequence: every survivor gets `PeerLost` there, and
/// an error from every later operation.
///
/// # Panics
/// When a survivor gets anything else.
pub fn loss_of_a_peer_reaches_every_survivor(build: &Build<'_>, n: usize) {
    for point in 0..SEQUENCE.len() {
        let victim = (point + 1) % n;
        let (members, _aborts): (Vec<_>, Vec<_>) = split(build(n));
        // A survivor keeps its end: the news travels on the failure, not on the drop after it.
        let outcomes = on_each(members, |rank, mut world| {
            let outcome = run_sequence(world.as_mut(), |at| rank != victim || at != point);
            let kept = (rank != victim).then_some(world);
            (outcome, kept)
        });
        for (rank, ((at, error), kept)) in outcomes.into_iter().enumerate() {
            let Some(mut world) = kept else { continue };
            assert_eq!(at, point, "rank {rank} of {n} ended with {error:?}");
            assert!(
                matches!(error, Some(CollectiveError::PeerLost { .. })),
                "rank {rank} of {n}, which lost {victim}, ended with {error:?}"
            );
            assert!(
                world.barrier().is_err(),
                "rank {rank} of {n} goes on in a world that ended"
            );
        }
    }
}

/// What the failure checks do, with the floats each operation moves.
const SEQUENCE: [(Operation, usize); 6] = [
    (Operation::AllReduce, 61_706),
    (Operation::Barrier, 0),
    (Operation::AllGather, 1000),
    (Operation::AllReduce, 1),
    (Operation::AllGather, 300_000),
    (Operation::AllReduce, 300_000),
];

/// Runs the sequence while `go_on` of the next point; returns where it ended and with what.
fn run_sequence(world: &mut dyn Collective, go_on: impl Fn(usize) -> bool) -> (usize, Option<CollectiveError>) {
    for (at, &(operation, size)) in SEQUENCE.iter().enumerate() {
        if !go_on(at) {
            return (at, None);
        }
        let outcome = match operation {
            Operation::Connect => continue,
            Operation::AllReduce => world.all_reduce(&mut vec![1.0; size]),
            Operation::Barrier => world.barrier(),
            Operation::AllGather => {
                let counts = vec![size; world.world_size()];
                world.all_gather(&vec![1.0; size], &counts).map(drop)
            }
        };
        if let Err(error) = outcome {
            return (at, Some(error));
        }
    }
    (SEQUENCE.len(), None)
}

fn split(members: Vec<Member>) -> (Vec<Box<dyn Collective>>, Vec<Option<Abort>>) {
    members
        .into_iter()
        .map(|member| (member.collective, member.abort))
        .unzip()
}

/// Runs every member on its own thread, and keeps all of them until the last is done.
fn on_all<T: Send>(members: Vec<Member>, run: impl Fn(usize, &mut dyn Collective) -> T + Sync) -> Vec<T> {
    let (mut worlds, _aborts) = split(members);
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = worlds
            .iter_mut()
            .enumerate()
            .map(|(rank, world)| scope.spawn(move || run(rank, world.as_mut())))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume(panic)))
            .collect()
    })
}

/// Runs every member on its own thread; each leaves the world as soon as it is done.
fn on_each<T: Send>(worlds: Vec<Box<dyn Collective>>, run: impl Fn(usize, Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = worlds
            .into_iter()
            .enumerate()
            .map(|(rank, world)| scope.spawn(move || run(rank, world)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume(panic)))
            .collect()
    })
}

fn resume(panic: Box<dyn std::any::Any + Send>) -> ! {
    std::panic::resume_unwind(panic)
}

/// A small integer, so that sums are exact in any order.
fn whole(rank: usize, i: usize) -> f32 {
    ((rank * 31 + i * 7) % 17) as f32
}

/// A fraction, so that sums round.
fn fraction(rank: usize, i: usize) -> f32 {
    1.0 / (1 + (rank * 7919 + i * 104_729) % 10_007) as f32
}

/// Any bits: NaN payloads, infinities and negative zero among them.
fn odd(rank: usize, i: usize) -> f32 {
    match i % 5 {
        0 => f32::from_bits(0x7fc0_0000 | (rank as u32 + 1)),
        1 => -0.0,
        2 => f32::NEG_INFINITY,
        _ => (rank * 1_000_003 + i) as f32,
    }
}
