//! Ranks in processes of their own, whose cards add up by NCCL. They share one card here
//! (`NCCL_MULTI_RANK_GPU_ENABLE=1`, NCCL 2.30 or later). Skipped without a card, unless
//! `STILLHOUSE_EXPECT_CUDA` is set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nccl_rs::cuda::{Cuda, DeviceFloats};
use stillhouse_collective::ring::Membership;
use stillhouse_collective::{
    AbortHandle, Card, CardCollective, CardRing, Collective, CollectiveError, GroupId, Ring, RingListener, nccl,
};

/// Names scenario, rank and number of ranks to a process that is one rank.
const RANK_VARIABLE: &str = "STILLHOUSE_TEST_RANK";
/// Said on standard output when all ranks have worked together once.
const WORKED: &str = "the ranks have worked together";
const DEADLINE: Duration = Duration::from_secs(60);
/// A lost peer is noticed well before.
const SOON: Duration = Duration::from_secs(5);
/// None, fewer than ranks, LeNet-5's gradient, and a large student's.
const SIZES: [usize; 6] = [1, 3, 1000, 61_706, 1_000_000, 25_000_000];

fn skip(reason: &str) -> bool {
    println!("skipped: {reason}");
    assert!(
        std::env::var_os("STILLHOUSE_EXPECT_CUDA").is_none(),
        "skipped: {reason}"
    );
    true
}

fn is_without_card() -> bool {
    match Card::open(0) {
        Ok(_) => false,
        Err(error) => skip(&error.to_string()),
    }
}

/// The ranks' processes.
struct Ranks(Vec<Rank>);

struct Rank {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Ranks {
    fn start(scenario: &str, world_size: usize) -> Self {
        let mut ranks: Vec<Rank> = (0..world_size)
            .map(|rank| {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "one_rank_of_the_other_tests", "--nocapture"]);
                command.env(RANK_VARIABLE, format!("{scenario} {rank} {world_size}"));
                let sharing = if scenario == "refused" { "0" } else { "1" };
                command.env("NCCL_MULTI_RANK_GPU_ENABLE", sharing);
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let output = BufReader::new(child.stdout.take().unwrap());
                Rank { child, output }
            })
            .collect();
        let addresses: Vec<String> = ranks.iter_mut().map(|rank| rank.line("listens at ")).collect();
        for rank in &mut ranks {
            let mut input = rank.child.stdin.as_ref().unwrap();
            writeln!(input, "{}", addresses.join(" ")).unwrap();
        }
        Self(ranks)
    }

    fn end(&mut self) {
        for rank in &mut self.0 {
            rank.ended();
        }
    }
}

impl Rank {
    /// What follows `mark` in the first line that has it.
    fn line(&mut self, mark: &str) -> String {
        let lines = self.output.by_ref().lines().map(Result::unwrap);
        let found = lines.map(|line| line.split_once(mark).map(|(_, rest)| rest.to_owned()));
        found
            .flatten()
            .next()
            .unwrap_or_else(|| panic!("it ended without {mark:?}"))
    }

    fn ended(&mut self) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
    }
}

/// Nothing that a failed test started stays.
impl Drop for Ranks {
    fn drop(&mut self) {
        for Rank { child, .. } in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn numbers_are_gathered_and_added_for_any_number_of_ranks_and_any_size() {
    if is_without_card() {
        return;
    }
    for world_size in [2, 3, 4] {
        Ranks::start("conformance", world_size).end();
    }
}

#[test]
fn an_abort_ends_an_operation_that_waits_and_the_world_of_the_others() {
    if is_without_card() {
        return;
    }
    Ranks::start("abort", 3).end();
}

#[test]
fn a_rank_that_is_killed_is_missed_at_once_by_the_others() {
    if is_without_card() {
        return;
    }
    let mut ranks = Ranks::start("killed", 3);
    for rank in &mut ranks.0 {
        rank.line(WORKED);
    }
    ranks.0[2].child.kill().unwrap();
    ranks.0[2].child.wait().unwrap();
    ranks.0[0].ended();
    ranks.0[1].ended();
}

#[test]
fn ranks_that_share_a_card_are_told_apart_from_those_that_do_not() {
    if is_without_card() {
        return;
    }
    Ranks::start("refused", 2).end();
}

#[test]
fn one_rank_of_the_other_tests() {
    let Ok(words) = std::env::var(RANK_VARIABLE) else {
        return;
    };
    let words: Vec<&str> = words.split(' ').collect();
    let [scenario, rank, _] = words[..] else {
        panic!("{words:?}")
    };
    let listener = RingListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistens at {}", listener.local_addr().unwrap());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let peers: Vec<SocketAddr> = line.split_whitespace().map(|peer| peer.parse().unwrap()).collect();
    let membership = Membership {
        rank: rank.parse().unwrap(),
        peers: &peers,
        group: GroupId(1),
        secret: &[7; 32],
        seal: None,
        deadline: DEADLINE,
    };
    let abort = AbortHandle::new();
    let mut ring = Ring::join(&listener, &membership, &abort).unwrap();
    let card = Card::open(0).unwrap();
    let obstacle = nccl::obstacle(&mut ring, Some(&card)).unwrap();
    if scenario == "refused" {
        assert_eq!(obstacle.as_deref(), Some("rank 1 shares its card with another"));
        let alone = nccl::obstacle(&mut ring, Some(&card).filter(|_| rank == "0")).unwrap();
        assert_eq!(alone.as_deref(), Some("rank 1 has no card, or not the library"));
        return;
    }
    assert_eq!(obstacle, None);
    let cuda = Cuda::open().unwrap();
    let world = CardRing::join(ring, card, DEADLINE).unwrap();
    let mut here = Here { cuda, world };
    match scenario {
        "conformance" => here.conformance(),
        "abort" => here.abort(&abort),
        "killed" => here.killed(),
        other => panic!("no scenario {other}"),
    }
}

struct Here {
    cuda: Cuda,
    world: CardRing,
}

/// A small integer, so that sums are exact in any order.
fn whole(rank: usize, i: usize) -> f32 {
    ((rank * 31 + i * 7) % 17) as f32
}

impl Here {
    fn holding(&self, numbers: &[f32]) -> DeviceFloats {
        let memory = self.cuda.floats(numbers.len()).unwrap();
        memory.write(numbers).unwrap();
        memory
    }

    fn conformance(&mut self) {
        let (rank, n) = (self.world.rank(), self.world.world_size());
        for size in SIZES {
            let mine: Vec<f32> = (0..size).map(|i| whole(rank, i)).collect();
            let (sums, own) = (self.holding(&mine), self.holding(&mine));
            let cards = self.world.cards().unwrap();
            cards.all_reduce(sums.pointer()).unwrap();
            let want: Vec<f32> = (0..size).map(|i| (0..n).map(|rank| whole(rank, i)).sum()).collect();
            assert!(sums.read().unwrap() == want, "rank {rank} of {n}: sum of {size}");
            let gathered = self.cuda.floats(size * n).unwrap();
            let cards = self.world.cards().unwrap();
            cards.all_gather(own.pointer(), gathered.pointer()).unwrap();
            let want: Vec<f32> = (0..n).flat_map(|rank| (0..size).map(move |i| whole(rank, i))).collect();
            assert!(gathered.read().unwrap() == want, "rank {rank} of {n}: {size} gathered");
            assert!(own.read().unwrap() == mine, "what is sent stays");
            // What the ring carries beside it.
            let words = self.world.gather_words(&[rank as u64, size as u64]).unwrap();
            assert_eq!(words[n - 1], [n as u64 - 1, size as u64]);
        }
        let short = self.holding(&[1.0]);
        let refused = CardCollective::all_gather(&mut self.world, short.pointer(), short.pointer());
        assert!(matches!(refused, Err(CollectiveError::Counts { .. })), "{refused:?}");
        self.world.barrier().unwrap();
    }

    /// One sum in which all take part.
    fn work_together(&mut self) -> DeviceFloats {
        let data = self.holding(&vec![1.0; 300_007]);
        self.world.cards().unwrap().all_reduce(data.pointer()).unwrap();
        assert_eq!(data.read().unwrap()[300_006], self.world.world_size() as f32);
        self.world.barrier().unwrap();
        println!("\n{WORKED}");
        data
    }

    fn abort(&mut self, abort: &AbortHandle) {
        let data = self.work_together();
        if self.world.rank() == 1 {
            // Takes no part until the others have ended.
            let ended = self.world.barrier();
            assert!(ended.is_err());
            return;
        }
        let begun = Instant::now();
        let handle = abort.clone();
        let is_first = self.world.rank() == 0;
        let aborting = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            if is_first {
                handle.abort();
            }
        });
        let error = self.world.cards().unwrap().all_reduce(data.pointer()).unwrap_err();
        aborting.join().unwrap();
        assert!(begun.elapsed() < SOON, "{:?}: {error}", begun.elapsed());
        let is_right = match error {
            CollectiveError::Aborted { .. } => is_first,
            CollectiveError::PeerLost { .. } => !is_first,
            _ => false,
        };
        assert!(is_right, "{error:?}");
        let late = self.world.cards().unwrap().all_reduce(data.pointer());
        assert!(late.is_err());
    }

    fn killed(&mut self) {
        let data = self.work_together();
        if self.world.rank() == 2 {
            std::thread::sleep(DEADLINE);
        }
        let begun = Instant::now();
        let error = self.world.cards().unwrap().all_reduce(data.pointer()).unwrap_err();
        assert!(matches!(error, CollectiveError::PeerLost { .. }), "{error:?}");
        assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    }
}
