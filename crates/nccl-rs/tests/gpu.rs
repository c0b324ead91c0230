//! Ranks in processes of their own, on one card.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nccl_rs::cuda::{Cuda, DeviceFloats, OwnedStream};
use nccl_rs::{Communicator, Nccl, NcclError, Place, Stream, Unfinished, UniqueId};

mod found;

/// Names scenario, rank, number of ranks and id to a process that is one rank.
const RANK_VARIABLE: &str = "STILLHOUSE_TEST_RANK";
/// Said on standard output when all ranks have worked together once.
const WORKED: &str = "the ranks have worked together";
/// No power of two, and more than one of NCCL's chunks.
const FLOATS: usize = 300_007;

/// The ranks' processes, and the id that they find each other by.
struct Ranks(Vec<Rank>);

struct Rank {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Ranks {
    /// Starts the ranks below `started` of a world; `None` where that cannot be.
    fn start(scenario: &str, started: usize, world_size: usize) -> Option<Self> {
        let (nccl, cuda) = (found::nccl()?, found::cuda()?);
        if let Err(error) = Cuda::open_at(&cuda).unwrap().device_count() {
            println!("skipped: no card: {error}");
            return None;
        }
        let id = Nccl::open_at(&nccl).unwrap().unique_id().unwrap();
        let id: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let ranks = (0..started).map(|rank| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "one_rank_of_the_other_tests", "--nocapture"]);
            command.env(RANK_VARIABLE, format!("{scenario} {rank} {world_size} {id}"));
            command.env("STILLHOUSE_NCCL", &nccl).env("STILLHOUSE_CUDART", &cuda);
            command.env("NCCL_MULTI_RANK_GPU_ENABLE", "1");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            Rank { child, output }
        });
        Some(Self(ranks.collect()))
    }

    /// Waits until a rank has worked with the others.
    fn worked(&mut self, rank: usize) {
        let lines = self.0[rank].output.by_ref().lines();
        let mut lines = lines.map(Result::unwrap);
        assert!(lines.any(|line| line.contains(WORKED)), "rank {rank} ended before");
    }

    /// Lets a rank go that waits to be let go, and waits for its end.
    fn ended(&mut self, rank: usize) {
        let Rank { child, output } = &mut self.0[rank];
        drop(child.stdin.take());
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "rank {rank}: {text}");
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
fn sums_copies_and_gathered_numbers_are_those_of_all_ranks() {
    let Some(mut ranks) = Ranks::start("conformance", 3, 3) else {
        return;
    };
    (0..3).for_each(|rank| ranks.ended(rank));
}

#[test]
fn a_rank_that_waits_for_another_is_aborted_from_a_second_thread() {
    let Some(mut ranks) = Ranks::start("abort", 2, 2) else {
        return;
    };
    ranks.ended(0);
    ranks.ended(1);
}

#[test]
fn a_rank_whose_peer_never_comes_gives_up_at_its_deadline() {
    let Some(mut ranks) = Ranks::start("alone", 1, 2) else {
        return;
    };
    ranks.ended(0);
}

#[test]
fn ranks_go_on_without_one_that_died() {
    let Some(mut ranks) = Ranks::start("shrink", 3, 3) else {
        return;
    };
    (0..3).for_each(|rank| ranks.worked(rank));
    ranks.ended(2);
    ranks.ended(0);
    ranks.ended(1);
}

/// What a process that is one rank holds.
struct Here {
    nccl: Nccl,
    cuda: Cuda,
    place: Place,
    id: UniqueId,
    stream: OwnedStream,
}

#[test]
fn one_rank_of_the_other_tests() {
    let Ok(words) = std::env::var(RANK_VARIABLE) else {
        return;
    };
    let words: Vec<&str> = words.split(' ').collect();
    let [scenario, rank, world_size, id] = words[..] else {
        panic!("{words:?}");
    };
    let byte = |at: usize| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap();
    let cuda = Cuda::open().unwrap();
    cuda.set_device(0).unwrap();
    let here = Here {
        nccl: Nccl::open().unwrap(),
        cuda,
        place: Place {
            rank: rank.parse().unwrap(),
            world_size: world_size.parse().unwrap(),
        },
        id: UniqueId::from_bytes(std::array::from_fn(byte)),
        stream: cuda.stream().unwrap(),
    };
    match scenario {
        "conformance" => here.conformance(),
        "abort" => here.abort(),
        "alone" => here.alone(),
        "shrink" => here.shrink(),
        other => panic!("no scenario {other}"),
    }
}

/// What a rank contributes: whole numbers, so that sums are exact in any order.
fn numbers(rank: usize) -> Vec<f32> {
    let number = |at: usize| u16::try_from((rank + 1) * (at % 1000 + 1)).unwrap();
    (0..FLOATS).map(|at| f32::from(number(at))).collect()
}

/// The sums of the numbers of ranks `0..count`.
fn sums(count: usize) -> Vec<f32> {
    let mut sums = vec![0.0; FLOATS];
    for rank in 0..count {
        sums.iter_mut()
            .zip(numbers(rank))
            .for_each(|(sum, number)| *sum += number);
    }
    sums
}

impl Here {
    fn join(&self, timeout: Duration) -> Result<Communicator, NcclError> {
        Communicator::join(self.nccl, self.place, &self.id, timeout)
    }

    /// Memory of the card. To be had before the communicator, so that a test that fails aborts what
    /// works on it before it is freed.
    fn holding(&self, numbers: &[f32]) -> DeviceFloats {
        let memory = self.cuda.floats(numbers.len()).unwrap();
        memory.write(numbers).unwrap();
        memory
    }

    fn wait(&self, communicator: &Communicator, operation: &'static str) -> Result<(), NcclError> {
        communicator.wait(operation, || self.stream.is_done().map_err(|error| error.to_string()))
    }

    /// One all-reduce in which all ranks of the communicator take part.
    fn work_together(&self, communicator: &Communicator, data: &DeviceFloats) {
        data.write(&numbers(communicator.place().rank)).unwrap();
        communicator
            .all_reduce(data.pointer(), data.pointer(), self.stream.stream())
            .unwrap();
        self.wait(communicator, "all-reduce").unwrap();
        assert!(data.read().unwrap() == sums(communicator.place().world_size));
        println!("{WORKED}");
    }

    fn conformance(&self) {
        let Place { rank, world_size } = self.place;
        let own = self.holding(&numbers(rank));
        let summed = self.holding(&vec![f32::NAN; FLOATS]);
        let gathered = self.holding(&vec![f32::NAN; FLOATS * world_size]);
        let copied = self.holding(&numbers(rank));
        let communicator = self.join(Duration::from_secs(60)).unwrap();
        let stream = self.stream.stream();
        // On one stream, without waiting on the host in between.
        communicator
            .all_reduce(own.pointer(), summed.pointer(), stream)
            .unwrap();
        communicator
            .all_reduce(summed.pointer(), summed.pointer(), stream)
            .unwrap();
        communicator
            .all_gather(own.pointer(), gathered.pointer(), stream)
            .unwrap();
        communicator.broadcast(copied.pointer(), 1, stream).unwrap();
        self.wait(&communicator, "conformance").unwrap();
        let twice: Vec<f32> = sums(world_size).iter().map(|sum| sum * world_size as f32).collect();
        assert!(summed.read().unwrap() == twice, "in place, after another sum");
        assert!(own.read().unwrap() == numbers(rank), "what is sent stays");
        let all: Vec<f32> = (0..world_size).flat_map(numbers).collect();
        assert!(gathered.read().unwrap() == all, "in the order of ranks");
        assert!(copied.read().unwrap() == numbers(1), "the root's numbers");
        communicator
            .all_reduce(own.pointer(), own.pointer(), Stream::DEFAULT)
            .unwrap();
        assert!(own.read().unwrap() == sums(world_size), "on the default stream");
        self.refuses_what_does_not_fit(&communicator, &own, &gathered);
        communicator.finish().unwrap();
    }

    fn refuses_what_does_not_fit(&self, communicator: &Communicator, short: &DeviceFloats, long: &DeviceFloats) {
        let (short, long, stream) = (short.pointer(), long.pointer(), self.stream.stream());
        for refused in [
            communicator.all_reduce(short, long, stream),
            communicator.all_gather(short, short, stream),
            communicator.broadcast(short, self.place.world_size, stream),
        ] {
            assert!(matches!(refused, Err(NcclError::Argument { .. })), "{refused:?}");
        }
    }

    fn abort(&self) {
        let data = self.holding(&numbers(self.place.rank));
        let communicator = self.join(Duration::from_secs(60)).unwrap();
        self.work_together(&communicator, &data);
        if self.place.rank == 1 {
            return until_let_go();
        }
        communicator
            .all_reduce(data.pointer(), data.pointer(), self.stream.stream())
            .unwrap();
        let handle = communicator.abort_handle();
        let aborting = std::thread::spawn(move || handle.abort());
        let error = self.wait(&communicator, "all-reduce").unwrap_err();
        assert!(matches!(error, NcclError::Aborted { .. }), "{error:?}");
        assert!(aborting.join().unwrap());
        assert!(!communicator.abort_handle().abort(), "a second time");
        let late = communicator.broadcast(data.pointer(), 0, self.stream.stream());
        assert!(matches!(late, Err(NcclError::Aborted { .. })), "{late:?}");
    }

    fn alone(&self) {
        let error = self.join(Duration::from_secs(3)).unwrap_err();
        assert!(matches!(error, NcclError::TimedOut { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with("rank 0 of 2: joining the communicator was not done"),
            "{text}"
        );
    }

    fn shrink(&self) {
        let data = self.holding(&numbers(self.place.rank));
        let communicator = self.join(Duration::from_secs(20)).unwrap();
        self.work_together(&communicator, &data);
        if self.place.rank == 2 {
            until_let_go();
            // Without a word to the others.
            std::process::exit(0);
        }
        let waited = communicator
            .all_reduce(data.pointer(), data.pointer(), self.stream.stream())
            .and_then(|()| self.wait(&communicator, "all-reduce"));
        assert!(
            matches!(waited, Err(NcclError::Failed { .. } | NcclError::TimedOut { .. })),
            "{waited:?}"
        );
        let fewer = communicator.shrink(&[2], Unfinished::Abort).unwrap();
        drop(communicator);
        assert_eq!(
            fewer.place(),
            Place {
                rank: self.place.rank,
                world_size: 2
            }
        );
        self.work_together(&fewer, &data);
        fewer.finish().unwrap();
    }
}

/// Until the test closes this process's standard input.
fn until_let_go() {
    let mut rest = String::new();
    std::io::stdin().read_to_string(&mut rest).unwrap();
}
