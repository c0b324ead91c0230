//! Our own path in one process, run like a peer: de-duplication, permit and durable ledger, a Redis stream, consumers that announce each
//! query, keep a label of ten classes, and acknowledge. A process of its own, so that it shares nothing with the bench.
//!
//! The teacher answers at once with one label: what is measured is everything around it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use stillhouse::coordinate::asking::reference;
use stillhouse_core::image::ImageShape;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use stillhouse_ledger::{Admission, Genesis, Ledger, OnAmbiguous, Permit, Request, RequestId};
use stillhouse_queue::{Lease, LeaseId, Queue, QueueError, RedisConfig, RedisQueue};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::queue::contestants::Run;

/// Classes of a label, as MNIST has them.
pub(crate) const CLASSES: u32 = 10;

/// Whose labels they are.
pub(crate) const FINGERPRINT: Fingerprint = Fingerprint([0; 32]);

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setting {
    /// Redis.
    pub(crate) url: String,
    /// Where ledgers are made.
    pub(crate) scratch: PathBuf,
    /// Jobs of each measurement.
    pub(crate) jobs: u32,
    /// Jobs before the clock starts.
    pub(crate) warm_up: u32,
    /// Queries that one call to the ledger admits.
    pub(crate) chunk: u32,
    /// Such calls at a time: while one waits for the disk, another fills Redis.
    pub(crate) in_flight: u32,
    /// References that travel together.
    pub(crate) block: usize,
    /// Handles of the queue, as each gateway has one.
    pub(crate) gateways: u32,
    /// Queries batches at a time, of each gateway.
    pub(crate) consumers: u32,
    /// Queries that one request to the teacher holds.
    pub(crate) batch: usize,
}

impl Setting {
    /// How the queue called `name` is reached; it holds every job of this run.
    pub(crate) fn config(&self, name: &str) -> RedisConfig {
        let mut config = RedisConfig::new(self.url.clone(), name);
        config.capacity = (self.jobs + self.warm_up) as usize;
        config.block = self.block;
        config
    }

    /// Opens the ledger called `name`.
    pub(crate) fn ledger(&self, name: &str) -> anyhow::Result<Ledger> {
        let genesis = Genesis {
            job_digest: [0; 32],
            fingerprint: FINGERPRINT,
            budget: u64::from(self.jobs + self.warm_up),
            classes: CLASSES,
            on_ambiguous: OnAmbiguous::Hold,
        };
        Ok(Ledger::create_or_open(&self.scratch.join(name), &genesis)?)
    }
}

/// The query with a number: a key of its own, as if its image had been hashed.
pub(crate) fn request(number: u32) -> Request {
    let shape = ImageShape {
        channels: 1,
        height: 1,
        width: 4,
    };
    Request {
        key: Key::of(FINGERPRINT, shape, &number.to_le_bytes()),
        sample: Sample::Seed(number),
        arm: Arm::Active,
    }
}

/// The coordinator's half: admits queries and pushes their references.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    pub(crate) ledger: Ledger,
    pub(crate) queue: Arc<RedisQueue>,
    requests: Requests,
}

/// What is asked under a number.
pub(crate) type Requests = Arc<dyn Fn(u32) -> Request + Send + Sync>;

impl Dispatcher {
    /// Opens ledger and queue called `name`.
    pub(crate) async fn open(setting: &Setting, name: &str, requests: Requests) -> anyhow::Result<Self> {
        let ledger = setting.ledger(name)?;
        let queue = RedisQueue::open_as_dispatcher(setting.config(name), ledger.epoch()).await?;
        Ok(Self {
            ledger,
            queue: Arc::new(queue),
            requests,
        })
    }

    /// Admits the queries with `numbers` and pushes their references; when the first began.
    pub(crate) async fn enqueue(&self, setting: &Setting, numbers: Range<u32>) -> anyhow::Result<Instant> {
        let began = Instant::now();
        let next = Arc::new(AtomicU32::new(numbers.start));
        let mut feeding = JoinSet::new();
        for _ in 0..setting.in_flight {
            feeding.spawn(self.clone().feed(next.clone(), numbers.end, setting.chunk));
        }
        while let Some(fed) = feeding.join_next().await {
            fed??;
        }
        Ok(began)
    }

    async fn feed(self, next: Arc<AtomicU32>, end: u32, chunk: u32) -> anyhow::Result<()> {
        loop {
            let first = next.fetch_add(chunk, Ordering::Relaxed);
            if first >= end {
                return Ok(());
            }
            self.dispatch(first..end.min(first + chunk)).await?;
        }
    }

    /// Admits and pushes one chunk.
    pub(crate) async fn dispatch(&self, numbers: Range<u32>) -> anyhow::Result<()> {
        let requests: Vec<Request> = numbers.map(|number| (self.requests)(number)).collect();
        let admissions = self.ledger.admit(requests.clone()).await?;
        let references = requests
            .iter()
            .zip(admissions)
            .map(|(request, admission)| match admission {
                Admission::Permitted(permit) => Ok(reference(&permit, request.sample, request.arm, 1)),
                other => bail!("expected a permit for {:?}, found {other:?}", request.sample),
            });
        self.queue.push(references.collect::<anyhow::Result<_>>()?).await?;
        Ok(())
    }
}

/// What consumers have acknowledged.
#[derive(Debug)]
struct Account {
    /// How often each job was done.
    times: Vec<AtomicU32>,
    acknowledged: AtomicU32,
    last: Mutex<Instant>,
    changed: Notify,
}

impl Account {
    fn new(jobs: u32) -> Self {
        Self {
            times: (0..jobs).map(|_| AtomicU32::new(0)).collect(),
            acknowledged: AtomicU32::new(0),
            last: Mutex::new(Instant::now()),
            changed: Notify::new(),
        }
    }

    fn note(&self, leases: &[Lease]) {
        for lease in leases {
            if let Sample::Seed(number) = lease.reference.sample {
                self.times[number as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.acknowledged.fetch_add(leases.len() as u32, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until so many were acknowledged; when the last of them was.
    async fn reached(&self, count: u32) -> Instant {
        while self.acknowledged.load(Ordering::Acquire) < count {
            self.changed.notified().await;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each_once(&self) -> bool {
        self.times.iter().all(|times| times.load(Ordering::Relaxed) == 1)
    }
}

/// The gateways' half: leases, announces, asks nobody, keeps a label, acknowledges.
struct Consumer {
    number: u32,
    ledger: Ledger,
    queue: Arc<RedisQueue>,
    batch: usize,
    account: Arc<Account>,
}

impl Consumer {
    async fn run(self) -> anyhow::Result<()> {
        let label = SoftLabel::from_probabilities(vec![0.1; CLASSES as usize], CLASSES as usize)?;
        for round in 0_u64.. {
            let leases = match self.queue.lease(self.batch).await {
                Err(QueueError::Closed) => break,
                leases => leases?,
            };
            let request = RequestId(u128::from(self.number) << 64 | u128::from(round));
            let permits = leases.iter().map(|lease| Permit {
                key: lease.reference.key,
                epoch: lease.reference.epoch,
                charge: lease.reference.charge,
            });
            let accepted = self.ledger.mark_sent(request, permits.collect()).await?;
            ensure!(accepted.len() == leases.len(), "a query was announced twice");
            let labels = accepted.into_iter().map(|permit| (permit, label.clone())).collect();
            self.ledger.commit(labels).await?;
            let ids: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
            self.queue.ack(&ids).await?;
            self.account.note(&leases);
        }
        Ok(())
    }
}

/// The program: runs a setting, given as JSON, and prints a [`Run`] as JSON.
pub(crate) fn run(setting: &str) -> anyhow::Result<()> {
    let setting: Setting = serde_json::from_str(setting).context("expected a setting as JSON")?;
    let run = tokio::runtime::Runtime::new()?.block_on(measure(&setting))?;
    println!("{}", serde_json::to_string(&run)?);
    Ok(())
}

async fn measure(setting: &Setting) -> anyhow::Result<Run> {
    let dispatcher = Dispatcher::open(setting, "enqueue", Arc::new(request)).await?;
    let enqueue_seconds = enqueue_alone(setting, &dispatcher).await?;
    drop(dispatcher);
    let (total_seconds, delivered_once) = to_acknowledged(setting).await?;
    Ok(Run {
        jobs: setting.jobs.into(),
        enqueue_seconds,
        total_seconds,
        delivered_once,
    })
}

/// Seconds to enqueue everything while nobody consumes.
pub(crate) async fn enqueue_alone(setting: &Setting, dispatcher: &Dispatcher) -> anyhow::Result<f64> {
    let all = setting.jobs + setting.warm_up;
    dispatcher.enqueue(setting, setting.jobs..all).await?;
    let seconds = dispatcher
        .enqueue(setting, 0..setting.jobs)
        .await?
        .elapsed()
        .as_secs_f64();
    let found = dispatcher.queue.depth().await?;
    ensure!(
        found == all as usize,
        "expected {all} references to wait, found {found}"
    );
    Ok(seconds)
}

async fn to_acknowledged(setting: &Setting) -> anyhow::Result<(f64, bool)> {
    let all = setting.jobs + setting.warm_up;
    let dispatcher = Dispatcher::open(setting, "whole", Arc::new(request)).await?;
    let account = Arc::new(Account::new(all));
    let (mut queues, mut consuming) = (vec![], JoinSet::new());
    for gateway in 0..setting.gateways {
        let queue = Arc::new(RedisQueue::open(setting.config("whole")).await?);
        for consumer in 0..setting.consumers {
            let consumer = Consumer {
                number: gateway * setting.consumers + consumer,
                ledger: dispatcher.ledger.clone(),
                queue: queue.clone(),
                batch: setting.batch,
                account: account.clone(),
            };
            consuming.spawn(consumer.run());
        }
        queues.push(queue);
    }
    let clocked = async {
        dispatcher.enqueue(setting, setting.jobs..all).await?;
        account.reached(setting.warm_up).await;
        let began = dispatcher.enqueue(setting, 0..setting.jobs).await?;
        anyhow::Ok(account.reached(all).await.duration_since(began).as_secs_f64())
    };
    let seconds = tokio::select! {
        seconds = clocked => seconds?,
        Some(ended) = consuming.join_next() => bail!("a consumer ended: {ended:?}"),
    };
    queues.iter().for_each(|queue| queue.close());
    while let Some(ended) = consuming.join_next().await {
        ended??;
    }
    let counts = dispatcher.ledger.counts().await?;
    let depth = dispatcher.queue.depth().await?;
    let kept = counts.committed == u64::from(all) && depth == 0;
    Ok((seconds, kept && account.each_once()))
}
