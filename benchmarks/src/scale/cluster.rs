//! Simulated workers around a real coordinator: what is said is real, how long it takes is reckoned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use anyhow::{Context, bail};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::selection::{Band, HISTOGRAM_BINS, Histogram};
use stillhouse_core::{Acquisition, PairId};
use stillhouse_protocol::message::{Command, Fence};
use stillhouse_protocol::{FromWorker, Report, ToWorker, codec};

use super::coordinator::{Chosen, News, Outcome, Process, Sent, Told};
use super::scores::Scores;
use super::{Model, Setting};

/// A thread of a worker takes so many pairs at once: where a capped scan may end, and what an abandoned one still does.
const CHUNK_PAIRS: u64 = 256;
/// Bytes in front of a message on a link.
const FRAME_BYTES: u64 = 4;

/// Something that happens at a moment.
#[derive(Debug)]
enum Happening {
    /// A worker comes in.
    Join { worker: u64 },
    /// A worker dies.
    Die { worker: u64 },
    /// A command reaches a worker.
    Order { worker: u64, bytes: Vec<u8> },
    /// A worker is done with a command, and its report leaves.
    Done { worker: u64, fence: Fence, bytes: Vec<u8> },
    /// News reach the coordinator.
    News { worker: u64, news: News },
}

/// When, and in which order of equal moments.
type Moment = Reverse<(Duration, u64)>;

#[derive(Debug)]
struct Worker {
    /// Times slower than others.
    slow: f64,
    /// Up to when its link is taken.
    link_free: Duration,
    busy: Option<Fence>,
}

/// What moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Bytes to the coordinator.
    pub(super) reports: u64,
    /// Bytes from it, without weights.
    pub(super) commands: u64,
    /// Bytes of weights from it.
    pub(super) weights: u64,
    /// Reports.
    pub(super) messages: u64,
}

/// What came of a simulation.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) chosen: Chosen,
    pub(super) moved: Moved,
    /// From the first worker to the batch.
    pub(super) lasted: Duration,
    /// Workers that died.
    pub(super) deaths: u64,
    /// Pairs a second of all workers that were there from the start.
    pub(super) scan_rate: f64,
}

/// The simulation.
pub(super) struct Cluster<'a> {
    scores: &'a Scores,
    model: Model,
    process: &'a mut Process,
    moments: BinaryHeap<Moment>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    now: Duration,
    workers: BTreeMap<u64, Worker>,
    next_worker: u64,
    /// Up to when the coordinator is busy, and its link taken in either direction.
    coordinator_free: Duration,
    in_free: Duration,
    out_free: Duration,
    moved: Moved,
    deaths: u64,
}

impl<'a> Cluster<'a> {
    /// Workers that are about to join.
    pub(super) fn new(setting: &Setting, scores: &'a Scores, process: &'a mut Process) -> Self {
        let mut cluster = Self {
            scores,
            model: setting.model,
            process,
            moments: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            now: Duration::ZERO,
            workers: BTreeMap::new(),
            next_worker: 0,
            coordinator_free: Duration::ZERO,
            in_free: Duration::ZERO,
            out_free: Duration::ZERO,
            moved: Moved::default(),
            deaths: 0,
        };
        // Every twentieth is slow; a lone worker is not.
        let straggler =
            |at: u64| at % cluster.model.straggler_in == cluster.model.straggler_in / 2 && setting.workers > 1;
        let slow: Vec<bool> = (0..setting.workers).map(straggler).collect();
        slow.into_iter().for_each(|slow| cluster.start(slow, Duration::ZERO));
        cluster
    }

    /// A worker joins at `at`, and will die sooner or later.
    fn start(&mut self, is_slow: bool, at: Duration) {
        let worker = self.next_worker;
        self.next_worker += 1;
        let slow = if is_slow { self.model.straggler_times } else { 1.0 };
        let known = Worker {
            slow,
            link_free: at,
            busy: None,
        };
        self.workers.insert(worker, known);
        self.at(at, Happening::Join { worker });
        let chance = 1.0 - f64::from(Stream::new(13, Purpose::Shuffle, 0).unit(worker));
        let life = Duration::from_secs_f64(-chance.ln() / self.model.failures_an_hour * 3_600.0);
        self.at(at + life, Happening::Die { worker });
    }

    fn at(&mut self, moment: Duration, happening: Happening) {
        self.moments.push(Reverse((moment, self.next)));
        self.happenings.insert(self.next, happening);
        self.next += 1;
    }

    /// Lets things happen until the batch is chosen.
    ///
    /// # Errors
    /// When the coordinator fails, or nothing happens any more.
    pub(super) fn run(mut self) -> anyhow::Result<Ended> {
        let slownesses = self.workers.values().map(|worker| 1.0 / worker.slow);
        let scan_rate = self.model.scan_pairs_a_second * slownesses.sum::<f64>();
        loop {
            let Reverse((moment, name)) = self.moments.pop().context("the simulation hangs")?;
            self.now = moment;
            let happening = self.happenings.remove(&name).context("a moment without a happening")?;
            if let Some(chosen) = self.happen(happening)? {
                return Ok(Ended {
                    chosen,
                    moved: self.moved,
                    lasted: self.coordinator_free,
                    deaths: self.deaths,
                    scan_rate,
                });
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> anyhow::Result<Option<Chosen>> {
        match happening {
            Happening::Join { worker } => {
                let news = News::Joined;
                self.at(self.now + self.model.latency, Happening::News { worker, news });
            }
            Happening::Die { worker } => self.die(worker),
            Happening::Order { worker, bytes } => self.order(worker, &bytes)?,
            Happening::Done { worker, fence, bytes } => self.done(worker, fence, bytes),
            Happening::News { worker, news } => return self.tell(worker, news),
        }
        Ok(None)
    }

    fn die(&mut self, worker: u64) {
        let Some(dead) = self.workers.remove(&worker) else {
            return;
        };
        self.deaths += 1;
        let news = News::Lost;
        self.at(self.now + self.model.latency, Happening::News { worker, news });
        self.start(dead.slow > 1.0, self.now + self.model.replaced_after);
    }

    /// A worker begins with a command, and what it had is abandoned. What will come of it is known at once.
    fn order(&mut self, worker: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let ToWorker::Command { fence, command } = codec::decode(bytes)? else {
            bail!("expected a command for worker {worker}");
        };
        let (report, seconds) = self.computed(&command)?;
        let Some(known) = self.workers.get_mut(&worker) else {
            return Ok(());
        };
        let abandoned = match known.busy.replace(fence) {
            Some(_) => CHUNK_PAIRS as f64 / self.model.scan_pairs_a_second,
            None => 0.0,
        };
        let took = Duration::from_secs_f64((abandoned + seconds) * known.slow);
        let bytes = codec::encode(&FromWorker::Report { fence, report })?;
        let done = self.now + self.model.command + took;
        self.at(done, Happening::Done { worker, fence, bytes });
        Ok(())
    }

    fn done(&mut self, worker: u64, fence: Fence, bytes: Vec<u8>) {
        let Some(known) = self.workers.get_mut(&worker) else {
            return;
        };
        // Abandoned meanwhile, or its worker is another one.
        if known.busy != Some(fence) {
            return;
        }
        known.busy = None;
        let size = bytes.len() as u64 + FRAME_BYTES;
        self.moved.reports += size;
        self.moved.messages += 1;
        let there = self.now + self.model.latency + self.model.worker_link(size);
        self.in_free = self.in_free.max(there) + self.model.coordinator_link(size);
        let news = News::Message(bytes);
        self.at(self.in_free, Happening::News { worker, news });
    }

    /// The coordinator does one thing after another; how long each takes it is measured.
    fn tell(&mut self, worker: u64, news: News) -> anyhow::Result<Option<Chosen>> {
        let begun = self.now.max(self.coordinator_free);
        let nanos = begun.as_nanos() as u64;
        let Outcome { sent, took, chosen } = self.process.tell(&Told { nanos, worker, news })?;
        self.coordinator_free = begun + took;
        for item in sent {
            self.send(item);
        }
        Ok(chosen)
    }

    fn send(&mut self, item: Sent) {
        let (worker, size) = match &item {
            Sent::Message { worker, bytes } => (*worker, bytes.len() as u64 + FRAME_BYTES),
            Sent::Weights { worker } => (*worker, self.model.weights_bytes),
        };
        self.out_free = self.out_free.max(self.coordinator_free) + self.model.coordinator_link(size);
        let takes = self.model.worker_link(size);
        let Some(known) = self.workers.get_mut(&worker) else {
            return;
        };
        known.link_free = known.link_free.max(self.out_free + self.model.latency) + takes;
        let there = known.link_free;
        match item {
            Sent::Message { worker, bytes } => {
                self.moved.commands += size;
                self.at(there, Happening::Order { worker, bytes });
            }
            Sent::Weights { .. } => self.moved.weights += size,
        }
    }

    /// What a worker of usual speed reports on a command, and after how many seconds.
    fn computed(&self, command: &Command) -> anyhow::Result<(Report, f64)> {
        let Model {
            scan_pairs_a_second: scans,
            exact_pairs_a_second: scores,
            ..
        } = self.model;
        Ok(match command {
            Command::Calibrate { pairs, .. } => {
                let deviation = pairs.iter().map(|pair| self.scores.stray(pair.0)).fold(0.0, f32::max);
                let count = pairs.len() as f64;
                (Report::Calibrated { deviation }, count / scans + count / scores)
            }
            Command::Rescore { pairs, .. } => {
                let entries = pairs.iter().map(|pair| self.scores.exact(pair.0)).collect();
                (Report::Rescored { entries }, pairs.len() as f64 / scores)
            }
            Command::Scan { start, .. } => {
                let (end, report) = self.scanned(command)?;
                (report, (end - start) as f64 / scans)
            }
            other => bail!("expected something to score, found {other:?}"),
        })
    }

    /// As a worker scans: up to the chunk in which more than the cap are kept.
    fn scanned(&self, command: &Command) -> anyhow::Result<(u64, Report)> {
        let Command::Scan {
            start,
            end,
            k,
            width,
            ceiling,
            cap,
            ..
        } = *command
        else {
            bail!("expected a scan, found {command:?}");
        };
        let mut band = Band::new(k as usize, width, ceiling);
        let mut entries = self.scores.up_to(ceiling, start..end)?.into_iter().peekable();
        let mut reached = end;
        while let Some(first) = entries.peek() {
            let chunk = (first.pair.0 - start) / CHUNK_PAIRS;
            let chunk_end = PairId(start + (chunk + 1) * CHUNK_PAIRS);
            while let Some(entry) = entries.next_if(|entry| entry.pair < chunk_end) {
                band.insert(entry);
            }
            if band.exceeds(cap as usize) {
                reached = end.min(chunk_end.0);
                break;
            }
        }
        let report = Report::Scanned {
            end: reached,
            entries: band.into_sorted(),
            histogram: even(reached - start),
        };
        Ok((reached, report))
    }
}

/// So many scores, as many in each bin: nobody looks at them here, but they take their bytes.
fn even(pairs: u64) -> Histogram {
    let mut histogram = Histogram::new(Acquisition::LeastConfidence.range(10));
    let bins = HISTOGRAM_BINS as u64;
    for (at, count) in (0..).zip(&mut histogram.counts) {
        *count = pairs / bins + u64::from(at < pairs % bins);
    }
    histogram
}
